"""The windows of a recording: those that were noted in it, measured again between the same events.

A recording that :mod:`edge_runtime.api` made has windows that may nest and overlap; one of ``edge-runtime measure`` has
periods, which are windows one after another. One without either is a single window, from its first sample to its last.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.measure.period import BEGIN, END, READ
from edge_runtime.measure.replayed_period import CUT, DAMAGED, WHOLE
from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.windows import WINDOW_BEGIN, WINDOW_END, WINDOW_READ, Entry, SensorWindows
from edge_runtime.power.recording.replay_sensor import ReplaySensor
from protos.energy.windows import Window, WindowSums, judge_window
from protos.errors import SensorError

__all__ = ["NOT_RECORDED", "REPLAYED", "ReplayedWindows", "recorded_windows"]

REPLAYED = "replayed"
"""Flag of every figure that comes from a recording: its time is that of the recording."""
NOT_RECORDED = "not-recorded"
"""Flag of a window that the recording does not have: its energy is unknown."""


def recorded_windows(path: Path) -> tuple[MeterIdentity, tuple[Entry, ...]]:
    """Who measured, and every window of a recording, settled, in the order in which they began.

    Raises:
        DataError: the file is no recording, or cannot be read.
        SensorError: it holds no sample.
    """
    sensor = ReplaySensor(path)
    sensor.start()
    book = SensorWindows(sensor, sensor.clock)
    entries: dict[object, Entry] = {}
    period = 0
    while (note := sensor.next_note()) is not None:
        # Periods have no numbers: one is over before the next begins.
        period += note.word == BEGIN
        key = note.fields.get("number") if note.word.startswith("window-") else f"period {period}"
        if note.word in (BEGIN, WINDOW_BEGIN):
            entries[key] = book.begin(str(note.fields.get("name", "")))
        elif key in entries:
            if note.word in (END, WINDOW_END):
                book.end(entries[key])
            elif note.word in (READ, WINDOW_READ) and entries[key].stop_s is not None:
                book.settle([entries[key]], 0.0)
    damage = sensor.recording.damage
    if not entries:
        entries[WHOLE] = _whole(path)
    words = {entry.number: [REPLAYED] for entry in entries.values()}
    for entry in entries.values():
        if entry.stop_s is None:
            sensor.clock.show(max(entry.start_s, sensor.covered_to_s))
            book.end(entry)
            words[entry.number].append(CUT)
        book.settle([entry], 0.0)
    # The block that a power cut broke off is no damage to what stands before it.
    hurt = damage.skipped_bytes or damage.missing_blocks or damage.strange_blocks
    for entry in entries.values():
        assert entry.settled is not None
        more = (*words[entry.number], *((DAMAGED,) if hurt else ()))
        entry.settled = replace(entry.settled, flags=(*entry.settled.flags, *more))
    return sensor.identity, tuple(entries.values())


def _whole(path: Path) -> Entry:
    """A recording without marks, from its first sample to its last."""
    sensor = ReplaySensor(path)
    sensor.open()
    trace = sensor.trace()
    if not len(trace):
        raise SensorError("the recording holds no sample", where=str(path), fix="record again")
    sensor.clock.show(float(trace.start_s.min()))
    book = SensorWindows(sensor, sensor.clock)
    entry = book.begin(WHOLE)
    while not sensor.ended:
        sensor.wait_for_news(0.0)
    sensor.clock.show(sensor.covered_to_s)
    book.end(entry)
    book.settle([entry], 0.0)
    return entry


class ReplayedWindows:
    """A :class:`edge_runtime.power.meters.windows.WindowBook` that gives the windows of a recording again.

    The first window of a name is the first of that name in the recording, and so on, so that a program can be run
    again on what was recorded when it ran. One that the recording does not have is unknown.

    Args:
        path: the recording.
        clock: the host's, for windows that were not recorded.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.identity, self.entries = recorded_windows(path)
        self._clock = clock
        self._left: defaultdict[str, deque[Entry]] = defaultdict(deque)
        for entry in self.entries:
            self._left[entry.name].append(entry)

    def begin(self, name: str) -> Entry:
        try:
            # One call, so that threads need no lock here.
            return self._left[name].popleft()
        except IndexError:
            now_s = self._clock.monotonic()
            return Entry(0, name, now_s, now_s)

    def end(self, entry: Entry) -> None:
        if entry.settled is None:
            entry.stop_s = self._clock.monotonic()
            entry.sums = WindowSums(0.0, 0.0, entry.stop_s - entry.start_s, None, 0, 0, ())
            window = Window(entry.name, entry.start_s, entry.stop_s)
            entry.settled = judge_window(window, entry.sums, method="unknown", flags=(REPLAYED, NOT_RECORDED))

    def settle(self, entries: Sequence[Entry], timeout_s: float = 0.0) -> None:
        return None

    def close(self) -> None:
        return None
