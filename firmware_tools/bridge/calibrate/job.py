"""The work of a calibration: steps on a bridge, the line through them, the record written and read back.

Measures with single 12-bit conversions (profile ``transient``): their noise lifts the mean over the steps of the
register, which averaging inside the sensor would leave in. The setting is put back afterwards.

A reference meter's own record of the time of a calibration: a CSV file with a header.

Columns ``unix_s`` (seconds since 1970-01-01, UTC) and ``current_a`` or ``power_w``; others are ignored. The rows within
the time of the measurement count.
"""

from __future__ import annotations

import contextlib
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.bridge.calibrate.calibration import (
    SQRT3,
    MeterError,
    Point,
    Reading,
    check_no_current,
    check_steady,
    fit_line,
    read_shunt,
)
from firmware_tools.bridge.calibrate.certificate import make_certificate, point_entry
from firmware_tools.bridge.client.observation import Observation
from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.settings import restore_setting
from protos.bridge.commands import REBOOT_KEY, Command, calibration_command, command
from protos.bridge.hello import Feature, Hello
from protos.energy.ina219 import OFFSET_TYPICAL_V, PROFILES, REFERENCE_RELATIVE, ZERO_LIMIT_V, Calibration, Config
from protos.errors import CheckFailed, DataError, RefusedError, SensorError, UsageError

__all__ = ["Job", "ReferenceMean", "Step", "calibrate", "read_reference"]

LEAST_ROWS = 3


@dataclass(frozen=True, slots=True)
class ReferenceMean:
    """Mean of the rows, its standard error, and the unit ("A" or "W")."""

    mean: float
    standard: float
    unit: str
    rows: int


def read_reference(path: Path, from_s: float, to_s: float) -> ReferenceMean:
    """The meter's mean between two instants, seconds since 1970.

    Raises:
        DataError: no such file, no such columns, no number, or fewer than three rows in that time.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"cannot be read: {cause}", where=str(path), fix="check the path") from cause
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("current_a", "power_w") if name in columns), None)
    if column is None or "unix_s" not in columns:
        fix = "write a header with unix_s and current_a or power_w"
        raise DataError("no columns of a reference", where=str(path), fix=fix)
    values = []
    for number, row in enumerate(rows, 2):
        try:
            at_s, value = float(row["unix_s"]), float(row[column])
        except (TypeError, ValueError) as cause:
            raise DataError("not a number", where=f"{path}:{number}", fix="correct or remove the line") from cause
        if from_s <= at_s <= to_s and math.isfinite(value):
            values.append(value)
    if len(values) < LEAST_ROWS:
        what = f"{len(values)} rows between {from_s:.3f} and {to_s:.3f}, the time of the measurement"
        raise DataError(what, where=str(path), fix="let the meter record meanwhile, and compare the clocks")
    standard = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return ReferenceMean(float(np.mean(values)), standard, "A" if column == "current_a" else "W", len(values))


KEEP_S = 1.5
"""Longer than the EEPROM takes for one record, 3.4 ms a byte."""
SETTLE_S = 0.3
RP2040 = 2
"""Is its own USB device: its port goes away when it restarts."""
DAY_S = 86_400


@dataclass(slots=True)
class Step:
    """One measurement: ``zero``, ``current``, ``power`` or ``reference``; ``amount`` None is asked for."""

    kind: str
    amount: float | None = None


@dataclass(slots=True)
class Job:
    """What to calibrate, and how; the functions are the world outside.

    Args:
        sensor: number on the bridge.
        steps: in the order in which they are made.
        seconds: of each measurement.
        error: limit of the reference.
        meter: what the certificate says of it.
        shunt_ohm: nominal shunt when it is not the one on record.
        reference: the meter's own record.
        write: whether the bridge is told.
        restart: whether it is restarted to see that the record is kept.
        confirm: waits until the user has done what the text says.
        ask: asks for the meter's reading in "A".
        wall: seconds since 1970.
        say: tells the user what goes on.
    """

    sensor: int
    steps: list[Step]
    seconds: float = 10.0
    error: MeterError = field(default_factory=lambda: MeterError(REFERENCE_RELATIVE))
    meter: dict[str, Any] = field(default_factory=dict)
    shunt_ohm: float | None = None
    reference: Path | None = None
    write: bool = True
    restart: bool = True
    confirm: Callable[[str], None] = lambda text: None
    ask: Callable[[str], float] | None = None
    wall: Callable[[], float] = time.time
    say: Callable[[str], None] = lambda text: None


def calibrate(client: BridgeClient, job: Job) -> tuple[dict[str, Any], Calibration, Hello]:
    """Do the steps, find the line, write the record and read it back.

    Returns:
        The certificate, the record as it is on the bridge (or would be), and HELLO from before.

    Raises:
        EdgejouleError: of the kind that fits what went wrong; the bridge then has the record it had.
    """
    hello = client.hello()
    if not 0 <= job.sensor < len(hello.sensors):
        what = f"the bridge has {len(hello.sensors)} sensors, no number {job.sensor}"
        raise UsageError(what, where="--sensor", fix="see firmware-tools bridge info")
    before = hello.sensors[job.sensor].calibration
    shunt_uohm = before.shunt_uohm if job.shunt_ohm is None else round(job.shunt_ohm * 1e6)
    finds_gain = any(step.kind != "zero" for step in job.steps)
    _refuse_blind_gain(job, before, changed=shunt_uohm != before.shunt_uohm)
    gain_before = before.gain_ppm * 1e-6 if shunt_uohm == before.shunt_uohm else 0.0
    points, entries = [], []
    with _fine_samples(client, hello) as fine:
        config = Config.of(fine.sensors[job.sensor].config)
        for step in job.steps:
            point, entry = _measure(client, job, step, config, shunt_uohm * 1e-6)
            points.append(point)
            entries.append(entry)
        if not any(step.kind == "zero" for step in job.steps):
            points.append(_known_zero(before, config.pga))
        line = fit_line(points, shunt_uohm * 1e-6, gain_before, job.error.relative)
        now_s = job.wall()
        certificate, record = make_certificate(
            hello, job.sensor, config, before, line, entries, job.meter, job.error, shunt_uohm=shunt_uohm,
            date=datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"), day=int(now_s // DAY_S),
            complete=finds_gain or (before.id != 0 and shunt_uohm == before.shunt_uohm),
        )  # fmt: skip
        if job.write:
            _write(client, job, record, hello)
    return certificate, record, hello


def _refuse_blind_gain(job: Job, before: Calibration, *, changed: bool) -> None:
    """A gain without a zero would call a chain calibrated whose offset nobody has looked at."""
    levels = sum(step.kind != "zero" for step in job.steps)
    zeroed = any(step.kind == "zero" for step in job.steps) or before.day or before.id
    if levels == 1 and not zeroed:
        raise RefusedError(
            "the zero of this sensor is not known", where="calibrate", fix="give --zero as well, or first"
        )
    if not levels and changed:
        raise RefusedError("another shunt without a gain", where="--shunt-ohm", fix="give --current as well")


def _known_zero(before: Calibration, pga: int) -> Point:
    """What is known of the offset from before: of a calibration its rest, of an unknown part the typical one."""
    if before.day or before.id:
        return Point(0.0, 0.0, before.offset_nv * 1e-9, ZERO_LIMIT_V / SQRT3)
    return Point(0.0, 0.0, 0.0, OFFSET_TYPICAL_V[pga])


@contextlib.contextmanager
def _fine_samples(client: BridgeClient, hello: Hello) -> Iterator[Hello]:
    """Profile ``transient`` for a while; the range stays that of the record."""
    try:
        yield client.tell(command(Command.SET_PROFILE, PROFILES["transient"].code))
    finally:
        # A port that is gone cannot be told; the bridge then starts with its own setting.
        with contextlib.suppress(SensorError):
            restore_setting(client, hello)


def _measure(
    client: BridgeClient, job: Job, step: Step, config: Config, shunt_ohm: float
) -> tuple[Point, dict[str, Any]]:
    job.confirm(
        "Disconnect the load from IN-. Leave the supply on."
        if step.kind == "zero"
        else "Connect the steady load with the reference meter in series, and let it settle."
    )
    job.say(f"measuring {step.kind} for {job.seconds:g} s")
    began_s = job.wall()
    reading = _listen(client, job, config)
    ended_s = job.wall()
    if step.kind == "zero":
        check_no_current(reading, config.pga, shunt_ohm)
        point = Point(0.0, 0.0, reading.shunt_v, reading.shunt_standard_v)
        return point, point_entry("zero", point, reading, 0.0, "A")
    check_steady(reading)
    unit, scatter = ("W" if step.kind == "power" else "A"), 0.0
    if step.kind == "reference":
        assert job.reference is not None
        found = read_reference(job.reference, began_s, ended_s)
        amount, scatter, unit = found.mean, found.standard, found.unit
    elif step.amount is None:
        assert job.ask is not None
        amount = job.ask("What does the meter say, in A")
    else:
        amount = step.amount
    if not math.isfinite(amount) or amount == 0:
        raise UsageError(
            "a reference of zero is no current", where="calibrate", fix="give what the meter says, or --zero"
        )
    standard = math.hypot(scatter, job.error.fixed / SQRT3)
    volts = 1.0 if unit == "A" else reading.bus_v
    if volts <= 0:
        raise CheckFailed(
            "there is no bus voltage", where="calibrate --power", fix="check the wire at IN-, or use --current"
        )
    current_a = amount / volts
    # A power compared at this bus voltage: the gain takes the bus voltage's own error in, its scatter stays.
    scatter_a = 0.0 if unit == "A" else abs(current_a) * reading.bus_standard_v / volts
    point = Point(current_a, math.hypot(standard / volts, scatter_a), reading.shunt_v, reading.shunt_standard_v)
    return point, point_entry(step.kind, point, reading, amount, unit)


def _listen(client: BridgeClient, job: Job, config: Config) -> Reading:
    for _ in client.listen(SETTLE_S):
        pass  # batches of the time before
    seen = Observation()
    client.observer = seen
    try:
        for _ in client.listen(job.seconds):
            pass
    finally:
        client.observer = None
    if seen.restarts:
        raise SensorError("the bridge restarted meanwhile", where=client.path, fix="check its supply; bridge selftest")
    log = seen.log(job.sensor)
    return read_shunt(log.dt_us, log.shunt, log.bus, config)


def _write(client: BridgeClient, job: Job, record: Calibration, hello: Hello) -> None:
    kept = client.tell(calibration_command(job.sensor, record)).sensors[job.sensor].calibration
    if job.restart and hello.features & Feature.PERSISTENT and hello.board != RP2040:
        for _ in client.listen(KEEP_S):
            pass
        job.say("restarting the bridge to see the record kept")
        client.send(command(Command.REBOOT, REBOOT_KEY))
        for _ in client.listen(SETTLE_S):
            pass
        kept = client.hello().sensors[job.sensor].calibration
    if kept != record:
        what = f"the bridge holds {kept}, not {record}"
        raise CheckFailed(what, where=client.path, fix="try again; else the EEPROM is worn: change the board")
