"""Named windows on a running sensor: begun and ended as the work goes, settled when the samples are there.

The arithmetic is in :mod:`protos.energy.windows`. Here is kept which windows are open, and their sums so far when the
sensor's store had to be emptied. The book takes the sensor for itself: samples that no open or unsettled window needs
are forgotten. A sensor that a meter uses has its windows marked as phases instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_runtime.power.clock import Clock
from edge_runtime.power.events import Block, Event
from edge_runtime.power.sensor import PowerSensor
from protos.energy.baseline import Baseline, IdleReading
from protos.energy.windows import Window, WindowEnergy, WindowSums, judge_window, sum_window

__all__ = ["WindowBook"]

ASK_EACH_S = 0.02


@dataclass(slots=True)
class _Entry:
    """A window and what of it has been summed up, to ``from_s``. ``stop_s`` is None while it is open."""

    name: str
    start_s: float
    from_s: float
    stop_s: float | None = None
    sums: WindowSums | None = None


class WindowBook:
    """Windows of one sensor.

    Args:
        sensor: an open sensor; it is not closed here.
        clock: the host's clock.
    """

    def __init__(self, sensor: PowerSensor, clock: Clock) -> None:
        self._sensor, self._clock = sensor, clock
        self._open: list[_Entry] = []
        self._ended: list[_Entry] = []
        self._leave = sensor.subscribe(self._hear)

    def begin(self, name: str) -> None:
        """Open a window. One name may be open several times: the last to begin is the first to end."""
        with self._sensor.lock:
            now_s = self._clock.monotonic()
            self._open.append(_Entry(name, now_s, now_s))

    def end(self, name: str) -> None:
        """Close the window of this name.

        Raises:
            ValueError: none of this name is open.
        """
        with self._sensor.lock:
            for number in range(len(self._open) - 1, -1, -1):
                if self._open[number].name == name:
                    entry = self._open.pop(number)
                    entry.stop_s = self._clock.monotonic()
                    self._ended.append(entry)
                    return
        raise ValueError(f"no window {name!r} is open")

    @contextmanager
    def window(self, name: str) -> Iterator[None]:
        """A window around a block of work; it ends also when the work fails."""
        self.begin(name)
        try:
            yield
        finally:
            self.end(name)

    def read_idle(self, seconds: float, timeout_s: float = 2.0) -> IdleReading:
        """Look at the board at rest for so long, beginning now; it must do nothing else meanwhile.

        Raises:
            ValueError: no samples came.
        """
        name = "idle"
        self.begin(name)
        with self._sensor.lock:
            entry = self._open[-1]
        until_s = entry.start_s + seconds
        while (left_s := until_s - self._clock.monotonic()) > 0:
            self._sensor.wait_for_news(left_s)
        with self._sensor.lock:
            self._open.remove(entry)
        self._await_samples(until_s, timeout_s)
        with self._sensor.lock:
            return IdleReading.of_trace(self._sensor.trace(), entry.start_s, until_s, self._sensor.errors())

    def settle(self, baseline: Baseline | None = None, timeout_s: float = 2.0) -> tuple[WindowEnergy, ...]:
        """Figures of the windows that ended since the last settlement, in the order of their ends.

        Waits up to ``timeout_s`` for samples past the last end. Never raises for a dead sensor.
        """
        with self._sensor.lock:
            ended, self._ended = self._ended, []
        if not ended:
            return ()
        self._await_samples(max(entry.stop_s or 0.0 for entry in ended), timeout_s)
        method = self._sensor.identity.method
        figures = []
        with self._sensor.lock:
            flags = self._sensor.flags()
            for entry in ended:
                stop_s = self._clock.monotonic() if entry.stop_s is None else entry.stop_s
                self._sum_up(entry, stop_s)
                assert entry.sums is not None
                window = Window(entry.name, entry.start_s, stop_s)
                figures.append(judge_window(window, entry.sums, baseline=baseline, method=method, flags=flags))
            self._forget()
        return tuple(figures)

    def close(self) -> None:
        """Hear no more of the sensor."""
        self._leave()

    def _await_samples(self, stop_s: float, timeout_s: float) -> None:
        deadline_s = self._clock.monotonic() + timeout_s
        while True:
            done = self._sensor.covered_to_s >= stop_s and not self._sensor.incomplete
            left_s = deadline_s - self._clock.monotonic()
            if done or left_s <= 0:
                return
            self._sensor.request()
            self._sensor.wait_for_news(min(ASK_EACH_S, left_s))

    def _hear(self, event: Event) -> None:
        """Called by the sensor's thread with its lock held."""
        if isinstance(event, Block) and self._sensor.nearly_full:
            to_s = self._sensor.covered_to_s
            for entry in (*self._open, *self._ended):
                self._sum_up(entry, to_s if entry.stop_s is None else min(to_s, entry.stop_s))
            self._sensor.forget_before(to_s)

    def _sum_up(self, entry: _Entry, to_s: float) -> None:
        """Add what lies between what is summed up and ``to_s``."""
        if to_s < entry.from_s or (to_s == entry.from_s and entry.sums is not None):
            return
        part = sum_window(self._sensor.trace(), entry.from_s, to_s, self._sensor.errors())
        entry.sums = part if entry.sums is None else entry.sums + part
        entry.from_s = to_s

    def _forget(self) -> None:
        """Drop samples that no window needs any more."""
        needed_s = [entry.from_s for entry in (*self._open, *self._ended)]
        self._sensor.forget_before(min(needed_s, default=self._sensor.covered_to_s))
