"""A power curve of any length in a bounded number of columns: least, mean and largest watts of each.

Columns begin narrow. When the last one is filled, neighbours are merged and every column is twice as wide; so memory is
bounded, and a short measurement is drawn finely.
"""

from __future__ import annotations

import numpy as np

from protos.energy.trace import Floats, PowerTrace

__all__ = ["Envelope"]


class Envelope:
    """Columns from the first sample on.

    Args:
        columns: how many at most; an even number.
        width_s: width of a column at the beginning, s.
    """

    def __init__(self, columns: int = 2048, width_s: float = 1e-3) -> None:
        self._columns, self._width_s = columns, width_s
        self._start_s: float | None = None
        self._joules, self._seconds = np.zeros(columns), np.zeros(columns)
        self._least, self._largest = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, trace: PowerTrace) -> None:
        """Take in samples; those that begin before the first one ever are left out."""
        if not len(trace):
            return
        if self._start_s is None:
            self._start_s = float(trace.start_s.min())
        begin, end = trace.start_s - self._start_s, trace.stop_s - self._start_s
        good = np.isfinite(begin) & np.isfinite(trace.power_w) & (begin >= 0) & (end > begin)
        begin, end, watts = begin[good], end[good], trace.power_w[good]
        if not len(begin):
            return
        while float(end.max()) > self._columns * self._width_s:
            self._merge()
        first, last = (np.minimum(t / self._width_s, self._columns - 1).astype(np.int64) for t in (begin, end))
        for shift in range(int((last - first).max()) + 1):
            column = first + shift
            inside = column <= last
            column = column[inside]
            left = np.maximum(begin[inside], column * self._width_s)
            seconds = np.maximum(0.0, np.minimum(end[inside], (column + 1) * self._width_s) - left)
            touched = seconds > 0
            column, seconds, power = column[touched], seconds[touched], watts[inside][touched]
            np.add.at(self._joules, column, seconds * power)
            np.add.at(self._seconds, column, seconds)
            np.minimum.at(self._least, column, power)
            np.maximum.at(self._largest, column, power)

    def curve(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Host time of the middle, least, mean and largest watts of each column; NaN where no sample is. [N] each."""
        used = np.flatnonzero(self._seconds > 0)
        if self._start_s is None or not len(used):
            return (np.empty(0),) * 4
        part = slice(int(used[0]), int(used[-1]) + 1)
        known = self._seconds[part] > 0
        mean = np.divide(self._joules[part], self._seconds[part], out=np.full(len(known), np.nan), where=known)
        times = np.asarray(self._start_s + (np.arange(part.start, part.stop) + 0.5) * self._width_s, np.float64)
        least: Floats = np.where(known, self._least[part], np.nan)
        largest: Floats = np.where(known, self._largest[part], np.nan)
        return times, least, mean, largest

    def _merge(self) -> None:
        half = self._columns // 2
        for sums, empty in ((self._joules, 0.0), (self._seconds, 0.0)):
            sums[:half] = sums[::2] + sums[1::2]
            sums[half:] = empty
        for edge, pick, empty in ((self._least, np.minimum, np.inf), (self._largest, np.maximum, -np.inf)):
            edge[:half] = pick(edge[::2], edge[1::2])
            edge[half:] = empty
        self._width_s *= 2
