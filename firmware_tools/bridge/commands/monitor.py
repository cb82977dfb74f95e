"""``firmware-tools bridge monitor``: what a bridge measures, second by second."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

import numpy as np

from firmware_tools.bridge.client.clock_line import ClockLine, fit_clock
from firmware_tools.bridge.client.observation import Observation, SensorLog
from firmware_tools.bridge.client.port_client import BridgeClient
from protos.bridge.exchange import Exchange
from protos.bridge.hello import Hello
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.ina219 import BUS_STEP_V, SHUNT_STEP_V, Calibration, Config, sample_flags, watts
from protos.energy.trace import SampleFlag
from protos.errors import SensorError, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["Second", "add_monitor", "monitor", "second_of"]

EACH_S = 1.0
KEPT_EXCHANGES = 60
SILENT_S = 5
_HEAD = f"{'':<8}{'W':>9}{'V':>8}{'A':>9}{'peak W':>9}{'Hz':>8}{'lost':>6}{'clip':>6}"

_EXAMPLE = """\
examples:
  firmware-tools bridge monitor --port /dev/ttyUSB0
  firmware-tools bridge monitor --port /dev/ttyUSB0 --for 60 --json > minute.jsonl
"""


@dataclass(frozen=True, slots=True)
class Second:
    """Means of one sensor over the samples of about one second.

    Args:
        power_w, bus_v, current_a: means by time, at IN-.
        peak_w: largest sample.
        rate_hz: samples per second of the bridge's clock.
        lost: batches lost on the way or by the bridge.
        clipped: samples at the end of the range.
    """

    sensor: int
    power_w: float
    bus_v: float
    current_a: float
    peak_w: float
    rate_hz: float
    lost: int
    clipped: int


def add_monitor(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``monitor``; sets ``run``."""
    parser = verbs.add_parser(
        "monitor", help="watts, volts and amperes as they come", epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    parser.add_argument("--port", required=True, help="serial port of the bridge")
    parser.add_argument("--for", dest="seconds", type=float, metavar="S", help="end after so long (default: Ctrl-C)")
    parser.add_argument("--marks", action="store_true", help="print the edges of the marker input too")
    parser.add_argument("--json", action="store_true", help="one JSON object per sensor and second, and per mark")
    parser.set_defaults(run=_run)


def second_of(number: int, log: SensorLog, calibration: Calibration, config: Config) -> Second | None:
    """Means of what was heard of a sensor; None without samples."""
    dt_us, shunt, bus = log.dt_us, log.shunt, log.bus
    if not len(dt_us):
        return None
    weight = dt_us / dt_us.sum()
    power_w, flags = watts(shunt, bus, calibration), sample_flags(shunt, bus, config)
    current_a = (shunt * SHUNT_STEP_V - calibration.offset_nv * 1e-9) * calibration.amperes_per_volt
    return Second(
        number, float(weight @ power_w), float(weight @ (bus >> 3)) * BUS_STEP_V, float(weight @ current_a),
        float(power_w.max()), len(dt_us) / (float(dt_us.sum()) * 1e-6), log.lost + log.dropped,
        int(np.count_nonzero(flags & SampleFlag.CLIPPED)),
    )  # fmt: skip


def monitor(
    client: BridgeClient, seconds: float | None, *, marks: bool, as_json: bool, out: TextIO, live: bool = False
) -> None:
    """Print a block each second until the time is up.

    Args:
        client: of the bridge.
        seconds: how long; None: until interrupted.
        marks: whether edges of the marker input are printed.
        as_json: objects instead of a table.
        out: where to.
        live: ``out`` is a terminal: each block is drawn over the one before.

    Raises:
        SensorError: the port goes away, or nothing comes for five seconds.
    """
    hello = client.hello()
    until_s = math.inf if seconds is None else client.now() + seconds
    exchanges: list[Exchange] = []
    boot, drawn, silent = hello.boot, 0, 0
    if not (as_json or live):
        print(_HEAD, file=out, flush=True)
    while client.now() < until_s:
        seen = client.observer = Observation()
        if exchange := client.sync():
            exchanges = [*exchanges[-KEPT_EXCHANGES:], exchange]
        for _ in client.listen(min(EACH_S, until_s - client.now())):
            pass
        client.observer = None
        if seen.boots and seen.boots[-1] != boot:
            hello, exchanges, boot = client.hello(), [], seen.boots[-1]
            print("the bridge restarted", file=sys.stderr, flush=True)
        rows = [
            second_of(number, seen.log(number), sensor.calibration, Config.of(sensor.config))
            for number, sensor in enumerate(hello.sensors)
        ]
        silent = 0 if any(rows) else silent + 1
        if silent >= SILENT_S:
            fix = "run firmware-tools bridge selftest"
            raise SensorError(f"no samples for {SILENT_S} s", where=client.path, fix=fix)
        lines = _json_lines(rows, seen, exchanges, marks) if as_json else _lines(rows, hello, seen, exchanges, marks)
        if live:
            # Up over the last block, and clear from there (ECMA-48 CUU, ED).
            print(f"\x1b[{drawn}A\x1b[J" if drawn else "", end="", file=out)
            lines = [_HEAD, *lines]
            drawn = len(lines)
        print("\n".join(lines), file=out, flush=True)


def _lines(
    rows: list[Second | None], hello: Hello, seen: Observation, exchanges: list[Exchange], marks: bool
) -> list[str]:
    lines = []
    for number, row in enumerate(rows):
        name = f"{number} {hello.sensors[number].address:02x}h"
        if row is None:
            lines.append(f"{name:<8}  no samples")
            continue
        lines.append(
            f"{name:<8}{row.power_w:>9.4f}{row.bus_v:>8.3f}{row.current_a:>9.4f}{row.peak_w:>9.3f}{row.rate_hz:>8.1f}"
            f"{row.lost:>6}{row.clipped:>6}"
        )
    clock = fit_clock(exchanges)
    if clock is not None:
        lines.append(f"{'clock':<8}within {clock.limit_s * 1e3:.2f} ms, drift {clock.drift_ppm:+.0f} ppm")
    if marks:
        lines += [f"{'mark':<8}{mark.seq} to {mark.level} at tick {mark.tick}" for mark in seen.marks]
    return lines


def _json_lines(rows: list[Second | None], seen: Observation, exchanges: list[Exchange], marks: bool) -> list[str]:
    clock: ClockLine | None = fit_clock(exchanges)
    about = {} if clock is None else {"drift_ppm": clock.drift_ppm, "clock_limit_s": clock.limit_s}
    objects = [asdict(row) | about for row in rows if row is not None]
    if marks:
        objects += [{"mark": mark.seq, "level": mark.level, "tick": mark.tick} for mark in seen.marks]
    return [json.dumps(document("bridge-monitor", value)) for value in objects]


def _run(args: argparse.Namespace) -> int:
    if args.seconds is not None and not (args.seconds > 0 and math.isfinite(args.seconds)):
        raise UsageError(f"{args.seconds} s", where="--for", fix="give a time over 0 s")
    live = sys.stdout.isatty() and not args.json and not args.marks
    with BridgeClient(args.port) as client:
        monitor(client, args.seconds, marks=args.marks, as_json=args.json, out=sys.stdout, live=live)
    return 0
