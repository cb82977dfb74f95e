"""The periods of a recording, measured again: the same marks, at the same places between the same events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.measure.period import BEGIN, END, FACT, MEASURED, READ, MeasuredPeriod, peak_of, settled
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.blocks import Damage
from edge_runtime.power.recording.header import Header
from edge_runtime.power.recording.replay_sensor import ReplaySensor
from edge_runtime.power.sensor import Listener
from protos.energy.trace import Phase
from protos.errors import SensorError

__all__ = ["CUT", "DAMAGED", "WHOLE", "Replayed", "replay_periods"]

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
