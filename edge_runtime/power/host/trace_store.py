"""A bounded store of samples in host time. Arrays are made once; the oldest samples give way when it is full."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.power.bridge.samples import CAPACITY
from protos.energy.trace import PowerTrace

__all__ = ["TraceStore"]


class TraceStore:
    """Samples of one sensor, in order of time. Not locked: its owner holds the lock."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._start = np.empty(capacity, np.float64)
        self._stop = np.empty(capacity, np.float64)
        self._power = np.empty(capacity, np.float64)
        self._flags = np.empty(capacity, np.uint8)
        self._count = 0
        self.covered_to_s = float("-inf")

    def __len__(self) -> int:
        return self._count

    @property
    def nearly_full(self) -> bool:
        """Three quarters or more are in use."""
        return self._count >= 0.75 * len(self._start)

    def append(self, trace: PowerTrace) -> None:
        """Add samples that begin where the last ones ended, or later."""
        capacity = len(self._start)
        over = self._count + len(trace) - capacity
        if over > 0:
            over = min(self._count, max(over, capacity // 4))
            self._drop(np.arange(self._count) >= over)
        where = slice(self._count, self._count + len(trace))
        self._start[where], self._stop[where] = trace.start_s, trace.stop_s
        self._power[where], self._flags[where] = trace.power_w, trace.flags
        self._count += len(trace)
        if len(trace):
            self.covered_to_s = max(self.covered_to_s, float(trace.stop_s[-1]))

    def trace(self) -> PowerTrace:
        """A copy of what is stored."""
        n = self._count
        return PowerTrace(self._start[:n].copy(), self._stop[:n].copy(), self._power[:n].copy(), self._flags[:n].copy())

    def forget_before(self, host_s: float) -> None:
        """Drop samples that ended by ``host_s``."""
        self._drop(self._stop[: self._count] > host_s)

    def _drop(self, keep: npt.NDArray[np.bool_]) -> None:
        kept = int(keep.sum())
        for array in (self._start, self._stop, self._power, self._flags):
            array[:kept] = array[: self._count][keep]
        self._count = kept
