"""A recording as a table: every sample in the order of time, with the period it began in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.power.recording.replay_sensor import ReplaySensor
from protos.energy.trace import PowerTrace, flag_words

__all__ = ["Row", "flag_words", "rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: seconds since the recording began (what the sensor sent before is negative), watts, flags, period."""

    start_s: float
    stop_s: float
    power_w: float
    flags: tuple[str, ...]
    period: str


def rows(path: Path) -> Iterator[Row]:
    """The samples of a recording, mapped to host time with all the clock exchanges of their minutes.

    Memory is bounded: samples are given out when the store of the sensor is nearly full.

    Raises:
        DataError: the file is no recording, or cannot be read.
    """
    return _played(ReplaySensor(path))


def _played(sensor: ReplaySensor) -> Iterator[Row]:
    sensor.start()
    zero_s = sensor.recording.header.begun_s
    periods = _Periods()
    while not sensor.ended:
        note = sensor.play()
        if note is not None and note.word in ("begin", "end"):
            periods.turn(note.at_s, str(note.fields.get("name", "")) if note.word == "begin" else "")
        if sensor.nearly_full or sensor.ended:
            trace, to_s = sensor.trace().disjoint(), sensor.covered_to_s
            yield from _rows(trace, zero_s, periods)
            sensor.forget_before(to_s)


class _Periods:
    """Which period is running at an instant."""

    def __init__(self) -> None:
        self._times, self._names = [float("-inf")], [""]

    def turn(self, at_s: float, name: str) -> None:
        self._times.append(at_s)
        self._names.append(name)

    def at(self, at_s: float) -> str:
        return self._names[bisect_right(self._times, at_s) - 1]


def _rows(trace: PowerTrace, zero_s: float, periods: _Periods) -> Iterator[Row]:
    columns = (trace.start_s.tolist(), trace.stop_s.tolist(), trace.power_w.tolist(), trace.flags.tolist())
    for start_s, stop_s, power_w, bits in zip(*columns, strict=True):
        yield Row(start_s - zero_s, stop_s - zero_s, power_w, flag_words(bits), periods.at(start_s))
