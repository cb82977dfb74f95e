"""``measure --sensor replay:FILE``: a recording measured again, or a file of another instrument integrated.

The periods of a recording, measured again: the same marks, at the same places between the same events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from edge_runtime.measure.envelope import Envelope
from edge_runtime.measure.instruments.csv_trace import integrate_csv
from edge_runtime.measure.instruments.energy_runner import Replay, Window, integrate_trace, read_windows
from edge_runtime.measure.measurement import AFTER, BEFORE, Ended, Measurement
from edge_runtime.measure.period import BEGIN, END, FACT, MEASURED, READ, MeasuredPeriod, peak_of, settled
from edge_runtime.power.events import Block, Event
from edge_runtime.power.meter import MeterIdentity
from edge_runtime.power.recording.blocks import Damage
from edge_runtime.power.recording.header import Header
from edge_runtime.power.recording.replay_sensor import ReplaySensor
from edge_runtime.power.sensor import Listener
from edge_runtime.power.sensor_meter import SensorMeter
from protos.energy.trace import Phase
from protos.errors import SensorError, UsageError

__all__ = [
    "CUT",
    "DAMAGED",
    "FORMATS",
    "WHOLE",
    "Replayed",
    "foreign",
    "foreign_document",
    "recorded",
    "recording_facts",
    "replay_periods",
]

WHOLE = "recording"
CUT = "recording-cut"
"""Flag of a period in which the recording broke off: it ends with the last sample."""
DAMAGED = "recording-damaged"
"""Flag of every period when parts of the file could not be read."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a recording came to.

    Args:
        periods: in their order; the whole recording as one period when it has no marks.
        identity: who measured.
        facts: what was noted besides.
        header: of the recording.
        damage: what could not be read.
    """

    periods: tuple[MeasuredPeriod, ...]
    identity: MeterIdentity
    facts: Mapping[str, Any]
    header: Header
    damage: Damage


def replay_periods(path: Path, listener: Listener | None = None) -> Replayed:
    """Measure the periods of a recording again; ``listener`` is told every event on the way.

    Raises:
        DataError: the file is no recording, or cannot be read.
        SensorError: it holds no sample.
    """
    sensor = ReplaySensor(path)
    sensor.start()
    meter = SensorMeter(sensor, sensor.clock)
    if listener is not None:
        sensor.subscribe(listener)
    periods: list[MeasuredPeriod] = []
    facts: dict[str, Any] = {}
    name, start_s, stop_s = "", 0.0, None
    running = False
    while (note := sensor.next_note()) is not None:
        if note.word == BEGIN:
            meter.start()
            meter.mark(MEASURED)
            name, start_s, stop_s, running = str(note.fields.get("name", "")), note.at_s, None, True
        elif note.word == END and running:
            meter.mark(Phase.IDLE)
            stop_s, running = note.at_s, False
        elif note.word == READ and stop_s is not None:
            periods.append(MeasuredPeriod(name, start_s, stop_s, settled(meter), peak_of(meter)))
            stop_s = None
        elif note.word == FACT:
            facts |= note.fields
    if running:
        stop_s = max(start_s, sensor.covered_to_s)
        sensor.clock.show(stop_s)
        meter.mark(Phase.IDLE)
    if stop_s is not None:
        last = MeasuredPeriod(name, start_s, stop_s, settled(meter), peak_of(meter))
        periods.append(_flagged(last, CUT))
    damage = sensor.recording.damage
    if not periods:
        whole = _whole(path)
        periods = [_flagged(whole, CUT) if damage.cut_bytes else whole]
    # The block that a power cut broke off is no damage to what stands before it.
    if damage.skipped_bytes or damage.missing_blocks or damage.strange_blocks:
        periods = [_flagged(period, DAMAGED) for period in periods]
    return Replayed(tuple(periods), sensor.identity, facts, sensor.recording.header, damage)


def _whole(path: Path) -> MeasuredPeriod:
    """A recording without marks, from its first sample to its last."""
    sensor = ReplaySensor(path)
    sensor.open()
    meter = SensorMeter(sensor, sensor.clock)
    trace = sensor.trace()
    if not len(trace):
        raise SensorError("the recording holds no sample", where=str(path), fix="record again")
    start_s = float(trace.start_s.min())
    sensor.clock.show(start_s)
    meter.start()
    meter.mark(MEASURED)
    while not sensor.ended:
        sensor.wait_for_news(0.0)
    sensor.clock.show(sensor.covered_to_s)
    meter.mark(Phase.IDLE)
    return MeasuredPeriod(WHOLE, start_s, sensor.covered_to_s, settled(meter), peak_of(meter))


def _flagged(period: MeasuredPeriod, word: str) -> MeasuredPeriod:
    return replace(period, energy=replace(period.energy, flags=(*period.energy.flags, word)))


FORMATS = ("mlperf-tiny", "csv")


def recorded(path: Path, envelope: Envelope | None = None) -> tuple[Measurement, Replayed]:
    """Measure a recording again; its curve goes into ``envelope``.

    Raises:
        DataError: the file is no recording, or cannot be read.
        SensorError: it holds no sample.
    """

    def hear(event: Event) -> None:
        if envelope is not None and isinstance(event, Block):
            envelope.add(event.trace)

    replayed = replay_periods(path, hear)
    by_name = {period.name: period for period in replayed.periods}
    main = next((one for one in replayed.periods if one.name not in (BEFORE, AFTER)), replayed.periods[-1])
    facts = replayed.facts
    command, code = facts.get("command"), facts.get("exit_code")
    ended: Ended = "recording"
    for word in get_args(Ended):
        ended = word if facts.get("ended") == word else ended
    words = tuple(map(str, command)) if isinstance(command, list) else None
    result = Measurement(
        main,
        replayed.identity,
        ended,
        words,
        code if isinstance(code, int) else None,
        by_name.get(BEFORE),
        by_name.get(AFTER),
    )
    return result, replayed


def recording_facts(path: Path, replayed: Replayed) -> dict[str, Any]:
    """What a report says of the recording that it rests on."""
    header = replayed.header
    return {
        "file": str(path),
        "begun_utc": header.begun_utc,
        "board": header.board,
        "software": header.software,
        "damage": asdict(replayed.damage),
    }


def foreign(path: Path, form: str, windows: Path | None, supply_v: float | None) -> Replay:
    """Integrate a file of another instrument, whole and over windows.

    Raises:
        UsageError: an unknown format, or ``--volts`` with one that has volts.
        DataError: the file, or that of the windows, cannot be read or is not of this format.
    """
    if form not in FORMATS:
        raise UsageError(f"{form!r} is not known", where="--format", fix=f"use {' or '.join(FORMATS)}")
    if supply_v is not None and not 0 < supply_v <= 1000:
        raise UsageError(f"{supply_v:g} is no supply voltage", where="--volts", fix="give volts over 0, such as 5.0")
    rows: Sequence[Window] = read_windows(windows) if windows is not None else ()
    if form == "csv":
        return integrate_csv(path, rows, supply_v=supply_v)
    if supply_v is not None:
        raise UsageError("is for --format csv", where="--volts", fix="leave it out")
    return integrate_trace(path, rows)


def foreign_document(path: Path, form: str, replay: Replay) -> dict[str, Any]:
    """The figures by name; unknown ones are None."""
    return {
        "schema": "edgejoule.replay/1",
        "sensor": f"replay:{path}",
        "format": form,
        "energy_j": replay.total_j,
        "total_j": replay.total_j,
        "duration_s": replay.duration_s,
        "rate_hz": replay.rate_hz,
        "samples": replay.samples,
        "mean_w": replay.total_j / replay.duration_s,
        "peak_w": replay.peak_w,
        "uncertainty_j": None,
        "windows": [
            {
                "number": row.window.number,
                "start_s": row.window.start_s,
                "stop_s": row.window.stop_s,
                "energy_j": row.energy_j,
                "mean_w": row.mean_w,
                "inferences": row.window.inferences,
                "per_inference_j": row.per_inference_j,
                "coverage": row.coverage,
                "flags": list(row.flags),
            }
            for row in replay.windows
        ],
    }
