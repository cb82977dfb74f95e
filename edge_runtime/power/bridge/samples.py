"""A bounded store of samples in the bridge's ticks, mapped to host time when they are read.

Mapping late lets every sample profit from the newest clock fit. Arrays are made once; the oldest samples give way
when the store is full, which ``overwritten`` counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.power.bridge.alignment import Alignment
from protos.energy.trace import PowerTrace

__all__ = ["CAPACITY", "SampleStore"]

CAPACITY = 1 << 16
"""Samples held: five minutes at 209 a second, in 2 MB."""


class SampleStore:
    """Samples of one sensor, over several boots of the bridge. Not locked: its owner holds the lock."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._begin = np.empty(capacity, np.int64)
        self._end = np.empty(capacity, np.int64)
        self._power = np.empty(capacity, np.float64)
        self._flags = np.empty(capacity, np.uint8)
        self._epoch = np.empty(capacity, np.int32)
        self._alignments: dict[int, Alignment] = {}
        self._count = 0
        self.overwritten = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nearly_full(self) -> bool:
        """Three quarters or more are in use."""
        return self._count >= 0.75 * len(self._begin)

    def append(
        self,
        epoch: int,
        alignment: Alignment,
        begin: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
        power_w: npt.NDArray[np.float64],
        flags: npt.NDArray[np.uint8],
    ) -> None:
        """Add samples of one boot of the bridge (``epoch``); arrays [n], ticks in microseconds."""
        capacity = len(self._begin)
        new = len(begin)
        over = self._count + new - capacity
        if over > 0:
            over = min(self._count, max(over, capacity // 4))
            self._drop(np.arange(self._count) >= over)
            self.overwritten += over
        where = slice(self._count, self._count + new)
        self._begin[where], self._end[where] = begin, end
        self._power[where], self._flags[where], self._epoch[where] = power_w, flags, epoch
        self._count += new
        self._alignments[epoch] = alignment

    def trace(self) -> PowerTrace:
        """All samples in host time; those of a boot without any clock exchange are left out."""
        n = self._count
        start, stop = np.full(n, np.nan), np.full(n, np.nan)
        for epoch, alignment in self._alignments.items():
            fit = alignment.fit
            if fit is None:
                continue
            mine = self._epoch[:n] == epoch
            start[mine] = fit.host_s(self._begin[:n][mine])
            stop[mine] = fit.host_s(self._end[:n][mine])
        known = np.isfinite(start)
        return PowerTrace(start[known], stop[known], self._power[:n][known], self._flags[:n][known])

    def forget_before(self, host_s: float) -> None:
        """Drop samples that ended before ``host_s``, and alignments that nothing refers to."""
        n = self._count
        keep = np.ones(n, np.bool_)
        for epoch, alignment in self._alignments.items():
            mine = self._epoch[:n] == epoch
            fit = alignment.fit
            if fit is None:
                continue
            keep[mine] = fit.host_s(self._end[:n][mine]) > host_s
        self._drop(keep)

    def _drop(self, keep: npt.NDArray[np.bool_]) -> None:
        kept = int(keep.sum())
        for array in (self._begin, self._end, self._power, self._flags, self._epoch):
            array[:kept] = array[: self._count][keep]
        self._count = kept
        if self._alignments:
            newest = max(self._alignments)
            live = set(np.unique(self._epoch[:kept]).tolist()) | {newest}
            self._alignments = {epoch: a for epoch, a in self._alignments.items() if epoch in live}
