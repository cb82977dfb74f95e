"""Named windows: begun and ended as the work goes, settled when the samples are there; for :mod:`edge_runtime.api`.

The arithmetic is in :mod:`protos.energy.windows`. Here is kept which windows are open, and their sums so far when the
sensor's store had to be emptied. Windows may nest and overlap, and any thread may begin and end them: each is an entry
of its own, and each has the joules of the whole board in its time.

A book takes its sensor for itself: samples that no open or unsettled window needs are forgotten. A sensor that a meter
uses has its windows marked as phases instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_runtime.power.clock import Clock
from edge_runtime.power.events import Block, Event, Trouble
from edge_runtime.power.meters.estimate import MODEL_LIMIT
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.sensor import PowerSensor
from protos.energy.boards import BoardProfile
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.energy.windows import Window, WindowEnergy, WindowSums, judge_window, sum_window, sum_windows

__all__ = [
    "WINDOW_BEGIN",
    "WINDOW_END",
    "WINDOW_READ",
    "Entry",
    "ModelWindows",
    "NoWindows",
    "Noted",
    "SensorWindows",
    "WindowBook",
]

WINDOW_BEGIN, WINDOW_END, WINDOW_READ = "window-begin", "window-end", "window-read"
"""Words of the notes in a recording; each has the entry's ``number``, the first its ``name``."""
ASK_EACH_S = 0.02
MOST_UNREAD = 64
"""Windows that ended and were not asked for, after which those that can be settled are."""
AT_ONCE = 32
"""Windows that are settled while the sensor's lock is held: some milliseconds of a board."""
PATIENCE_S = 2.0
"""Seconds after its end in which a window's samples may still come."""
MARGIN_S = 1.0
"""Samples are kept for so long before the first that is needed: the neighbours of an edge tell how wrong it may be."""

Noted = Callable[[float, str, Mapping[str, Any]], None]
"""Told of what the book did, at which host time, in order with the sensor's events: a recording's ``note``."""


@dataclass(slots=True, eq=False)
class Entry:
    """A window and what of it has been summed up, to ``from_s``. ``stop_s`` is None while it is open.

    Attributes:
        number: counts the windows of a book from 1.
        words: flags told by the sensor that concern it.
        settled: when there is a figure: its sums, and what they come to.
    """

    number: int
    name: str
    start_s: float
    from_s: float
    stop_s: float | None = None
    sums: WindowSums | None = None
    words: list[str] = field(default_factory=list)
    settled: WindowEnergy | None = None


class WindowBook(Protocol):
    """Windows of whatever measures. Every method may be called by any thread."""

    @property
    def identity(self) -> MeterIdentity:
        """Who measures."""
        ...

    def begin(self, name: str) -> Entry:
        """Open a window now."""
        ...

    def end(self, entry: Entry) -> None:
        """Close a window now; harmless when it is closed."""
        ...

    def settle(self, entries: Sequence[Entry], timeout_s: float = PATIENCE_S) -> None:
        """Make figures of windows that ended, ``settled`` in each; waits so long for samples past their ends.

        Never raises for a dead sensor.
        """
        ...

    def close(self) -> None:
        """Settle what ended, and hear no more of the sensor, which is not closed here."""
        ...


class SensorWindows:
    """Windows of one sensor.

    Args:
        sensor: an open sensor; it is not closed here.
        clock: the host's clock.
        noted: told what was begun, ended and read.
        on_settled: called with each entry when it is settled, by the thread that asked for it.
    """

    def __init__(
        self,
        sensor: PowerSensor,
        clock: Clock,
        noted: Noted | None = None,
        on_settled: Callable[[Entry], None] | None = None,
    ) -> None:
        self._sensor, self._clock, self._noted, self._on_settled = sensor, clock, noted, on_settled
        self._number = 0
        self._open: dict[Entry, None] = {}
        self._ended: dict[Entry, None] = {}
        self._look_at = MOST_UNREAD
        self._leave = sensor.subscribe(self._hear)

    @property
    def identity(self) -> MeterIdentity:
        return self._sensor.identity

    def begin(self, name: str) -> Entry:
        with self._sensor.lock:
            now_s = self._clock.monotonic()
            self._number += 1
            entry = Entry(self._number, name, now_s, now_s)
            self._open[entry] = None
            self._note(now_s, WINDOW_BEGIN, {"number": entry.number, "name": name})
        return entry

    def end(self, entry: Entry) -> None:
        with self._sensor.lock:
            if entry.stop_s is not None:
                return
            entry.stop_s = self._clock.monotonic()
            del self._open[entry]
            self._ended[entry] = None
            self._note(entry.stop_s, WINDOW_END, {"number": entry.number})
            unread = len(self._ended) >= self._look_at
        if unread:
            self._settle_ready()

    def settle(self, entries: Sequence[Entry], timeout_s: float = PATIENCE_S) -> None:
        waiting = [entry for entry in entries if entry.settled is None]
        if waiting:
            self._await_samples(max(entry.stop_s or 0.0 for entry in waiting), timeout_s)
            self._settle(waiting)

    def close(self) -> None:
        with self._sensor.lock:
            waiting = list(self._ended)
        self.settle(waiting)
        self._leave()

    def _settle_ready(self) -> None:
        """Settle ended windows whose samples are there, or will not come any more."""
        with self._sensor.lock:
            # What is incomplete may still change samples of the past.
            to_s = float("-inf") if self._sensor.incomplete else self._sensor.covered_to_s
            to_s = max(to_s, self._clock.monotonic() - PATIENCE_S)
            ready = [entry for entry in self._ended if entry.stop_s is not None and entry.stop_s <= to_s]
            # Where windows end faster than samples come, looking at all of them at each end would take too long.
            self._look_at = max(MOST_UNREAD, 2 * (len(self._ended) - len(ready)))
        if ready:
            self._settle(ready)

    def _settle(self, entries: Sequence[Entry]) -> None:
        """Settle ended windows, a few at a time: whoever reads the sensor's port waits for the lock meanwhile."""
        for first in range(0, len(entries), AT_ONCE):
            self._settle_some(entries[first : first + AT_ONCE])

    def _settle_some(self, entries: Sequence[Entry]) -> None:
        settled = []
        with self._sensor.lock:
            method, trace, errors = self._sensor.identity.method, self._sensor.trace(), self._sensor.errors()
            # Another thread may have been first.
            waiting = [entry for entry in entries if entry.settled is None and entry.stop_s is not None]
            self._sum_up([(entry, entry.stop_s or 0.0) for entry in waiting], trace, errors)
            for entry in waiting:
                assert entry.stop_s is not None
                assert entry.sums is not None
                window = Window(entry.name, entry.start_s, entry.stop_s)
                entry.settled = judge_window(window, entry.sums, method=method, flags=dict.fromkeys(entry.words))
                del self._ended[entry]
                self._note(self._clock.monotonic(), WINDOW_READ, {"number": entry.number})
                settled.append(entry)
            if settled:
                self._forget()
        if self._on_settled is not None:
            for entry in settled:
                self._on_settled(entry)

    def _await_samples(self, stop_s: float, timeout_s: float) -> None:
        # From the window's end on: one that nobody asked for in time must not make anybody wait.
        deadline_s = min(stop_s, self._clock.monotonic()) + timeout_s
        while True:
            done = self._sensor.covered_to_s >= stop_s and not self._sensor.incomplete
            left_s = deadline_s - self._clock.monotonic()
            if done or left_s <= 0:
                return
            self._sensor.request()
            self._sensor.wait_for_news(min(ASK_EACH_S, left_s))

    def _hear(self, event: Event) -> None:
        """Called by the sensor's thread with its lock held."""
        if isinstance(event, Trouble):
            covered_to_s = self._sensor.covered_to_s
            for entry in self._open:
                entry.words.append(event.word)
            for entry in self._ended:
                # What is told late concerns a window whose samples are still to come.
                if entry.stop_s is not None and (event.at_s <= entry.stop_s or covered_to_s < entry.stop_s):
                    entry.words.append(event.word)
        elif isinstance(event, Block) and self._sensor.nearly_full:
            to_s = self._sensor.covered_to_s
            trace, errors = self._sensor.trace(), self._sensor.errors()
            entries = (*self._open, *self._ended)
            until = [(entry, to_s if entry.stop_s is None else min(to_s, entry.stop_s)) for entry in entries]
            self._sum_up(until, trace, errors)
            self._sensor.forget_before(to_s)

    def _sum_up(self, until: Sequence[tuple[Entry, float]], trace: PowerTrace, errors: ErrorModel) -> None:
        """Add to each entry what lies between what is summed up and its instant."""
        due = [
            (entry, to_s)
            for entry, to_s in until
            if to_s > entry.from_s or (to_s == entry.from_s and entry.sums is None)
        ]
        parts = sum_windows(trace, [(entry.from_s, to_s) for entry, to_s in due], errors)
        for (entry, to_s), part in zip(due, parts, strict=True):
            entry.sums = part if entry.sums is None else entry.sums + part
            entry.from_s = to_s

    def _forget(self) -> None:
        """Drop samples that no window needs any more."""
        needed_s = [entry.from_s for entry in (*self._open, *self._ended)]
        self._sensor.forget_before(min(needed_s, default=self._sensor.covered_to_s) - MARGIN_S)

    def _note(self, at_s: float, word: str, fields: Mapping[str, Any]) -> None:
        if self._noted is not None:
            self._noted(at_s, word, fields)


class _UnsampledWindows:
    """Windows of what has no samples: all that is known of one is known at its end."""

    def __init__(self, identity: MeterIdentity, clock: Clock, on_settled: Callable[[Entry], None] | None) -> None:
        self.identity, self._clock, self._on_settled = identity, clock, on_settled
        self._lock = threading.Lock()
        self._number = 0

    def begin(self, name: str) -> Entry:
        with self._lock:
            self._number += 1
            now_s = self._clock.monotonic()
            return Entry(self._number, name, now_s, now_s)

    def end(self, entry: Entry) -> None:
        with self._lock:
            if entry.stop_s is not None:
                return
            entry.stop_s = self._clock.monotonic()
            entry.sums, flags = self._summed(entry, entry.stop_s)
            window = Window(entry.name, entry.start_s, entry.stop_s)
            entry.settled = judge_window(window, entry.sums, method=self.identity.method, flags=(*flags, *entry.words))
        if self._on_settled is not None:
            self._on_settled(entry)

    def settle(self, entries: Sequence[Entry], timeout_s: float = PATIENCE_S) -> None:
        return None

    def close(self) -> None:
        return None

    def _summed(self, entry: Entry, stop_s: float) -> tuple[WindowSums, tuple[str, ...]]:
        raise NotImplementedError


class ModelWindows(_UnsampledWindows):
    """Windows of a model, as :class:`edge_runtime.power.meters.estimate.EstimateMeter` has phases.

    ``P = idle_w + cpu_w * min(cpu_s / wall_s, cores)`` from a window's beginning to its end, with the CPU seconds of
    this process, all threads; a window has a mean power, and no shape.
    """

    def __init__(self, board: BoardProfile, clock: Clock, on_settled: Callable[[Entry], None] | None = None) -> None:
        super().__init__(MeterIdentity("estimated", f"estimate:{board.name}", "none", "model"), clock, on_settled)
        self._board = board
        self._errors = ErrorModel(supply_v=board.supply_v, gain_relative=MODEL_LIMIT)
        self._cpu_s: dict[int, float] = {}

    def begin(self, name: str) -> Entry:
        entry = super().begin(name)
        self._cpu_s[entry.number] = self._clock.process_time()
        return entry

    def _summed(self, entry: Entry, stop_s: float) -> tuple[WindowSums, tuple[str, ...]]:
        cpu_s, wall_s = self._clock.process_time() - self._cpu_s.pop(entry.number), stop_s - entry.start_s
        power_w = self._board.power_w(cpu_s / wall_s if wall_s > 0 else 0.0)
        trace = PowerTrace.of([entry.start_s], [stop_s], [power_w])
        return sum_window(trace, entry.start_s, stop_s, self._errors), ()


class NoWindows(_UnsampledWindows):
    """Windows without a sensor: their times are known, and it is said that their energies are not."""

    def __init__(self, clock: Clock, on_settled: Callable[[Entry], None] | None = None) -> None:
        super().__init__(MeterIdentity("unknown", "none", "none", "none"), clock, on_settled)

    def _summed(self, entry: Entry, stop_s: float) -> tuple[WindowSums, tuple[str, ...]]:
        return WindowSums(0.0, 0.0, stop_s - entry.start_s, None, 0, 0, ()), ("no-sensor",)
