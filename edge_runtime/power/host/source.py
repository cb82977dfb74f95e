"""What stands behind a polled sensor: something in this machine that is asked, again and again, what was drawn.

And how an instant becomes an interval. A register that is read now and then tells the power of instants; each reading
stands for the time that is nearest to it. A counter tells the joules of the interval itself.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.sensor import Capabilities
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel

__all__ = ["EMPTY", "Instants", "Source", "one_sample"]

EMPTY = PowerTrace.of([], [], [])
LONGEST_READINGS = 5
LONGEST_S = 0.5


class Source(Protocol):
    """One thread calls it; properties may be read by others."""

    @property
    def identity(self) -> MeterIdentity:
        """Who measures; known before ``open``, completed by it."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def poll_s(self) -> float:
        """How long to wait between two looks."""
        ...

    @property
    def dithers(self) -> bool:
        """Whether to look at random times, so that no load stays in step with the looks."""
        ...

    def open(self, now_s: float) -> None:
        """Find it, and begin. Raises SensorError. Also called again after it was lost."""
        ...

    def take(self, now_s: float) -> PowerTrace:
        """Samples since the last look, in order of time; perhaps none. Raises OSError when the source is gone."""
        ...

    def errors(self) -> ErrorModel:
        """Limits of its errors, now."""
        ...

    def flags(self) -> tuple[str, ...]:
        """Words for what went wrong since this was last asked."""
        ...

    def close(self) -> None:
        """Let go; never raises, harmless when repeated."""
        ...


class Instants:
    """Makes intervals of instants: each reading stands for the time nearest to it.

    Args:
        each_s: usual time between two readings. Of those further apart than LONGEST_READINGS of it, or LONGEST_S, none
            stands for the time between them.
    """

    def __init__(self, each_s: float) -> None:
        self._longest_s = max(LONGEST_READINGS * each_s, LONGEST_S)
        self._begin_s = self._at_s = float("-inf")
        self._power_w, self._flags = 0.0, 0

    def add(self, at_s: float, power_w: float, flags: int = 0) -> PowerTrace:
        """One more reading: gives the interval of the one before, whose end is known now.

        >>> instants = Instants(1.0)
        >>> len(instants.add(5.0, 2.0)), instants.add(6.0, 4.0).stop_s.tolist(), instants.add(7.0, 4.0).start_s.tolist()
        (0, [5.5], [5.5])
        """
        begin_s, before_s, before_w, before_flags = self._begin_s, self._at_s, self._power_w, self._flags
        end_s = (before_s + at_s) / 2
        far = not 0 < at_s - before_s <= self._longest_s
        if far:
            end_s = before_s
        self._begin_s = at_s if far else end_s
        self._at_s, self._power_w, self._flags = at_s, power_w, flags
        return one_sample(begin_s, end_s, before_w, before_flags) if end_s > begin_s else EMPTY


def one_sample(start_s: float, stop_s: float, power_w: float, flags: int = 0) -> PowerTrace:
    """A trace of a single sample."""
    return PowerTrace(np.array([start_s]), np.array([stop_s]), np.array([power_w]), np.array([flags], np.uint8))
