"""Samples of unlike lengths on a grid of equal ones, with the same energy: for formats that know no other.

A cell of the grid has the mean power of what lies in it, ``P_k = sum_i P_i |S_i ∩ C_k| / sum_i |S_i ∩ C_k|`` over the
samples S_i; one of which less than half is covered has none (NaN): nothing is interpolated into a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from edge_runtime.power.recording.export import Row

__all__ = ["CELLS", "cells"]

# Cells that are given out at a time.
CELLS = 8192
_COVERED = 0.5
Floats = npt.NDArray[np.float64]


def cells(rows: Iterable[Row], rate_hz: float) -> Iterator[Floats]:
    """Watts of the cells of the grid ``[k, k + 1) / rate_hz``, float64 [n], in order from k = 0 without a hole; NaN
    where nothing was measured. What was measured before second 0 is left out. Memory is bounded by :data:`CELLS`.

    Args:
        rows: disjoint samples in the order of time, s and W.
        rate_hz: cells in a second.
    """
    first = 0
    joules, covered = np.zeros(CELLS), np.zeros(CELLS)
    last = -1
    for start, stop, power_w in _pieces(rows, rate_hz):
        while stop > first + CELLS:
            # All that may still come lies behind the start of this sample.
            keep = min(CELLS, math.floor(start) - first)
            yield _mean(joules[:keep], covered[:keep])
            joules = np.concatenate([joules[keep:], np.zeros(keep)])
            covered = np.concatenate([covered[keep:], np.zeros(keep)])
            first += keep
        low, high = math.floor(start), math.ceil(stop)
        edges = np.clip(np.arange(low, high + 1, dtype=np.float64), start, stop)
        parts = np.diff(edges)
        at = slice(low - first, high - first)
        joules[at] += power_w * parts
        covered[at] += parts
        last = high - 1
    if last >= first:
        yield _mean(joules[: last - first + 1], covered[: last - first + 1])


def _pieces(rows: Iterable[Row], rate_hz: float) -> Iterator[tuple[float, float, float]]:
    """Samples as (start, stop, W) in cells, none longer than half of what is held at a time."""
    for row in rows:
        start, stop = max(0.0, row.start_s * rate_hz), row.stop_s * rate_hz
        while start < stop:
            end = min(stop, math.floor(start) + CELLS / 2)
            yield start, end, row.power_w
            start = end


def _mean(joules: Floats, covered: Floats) -> Floats:
    made = np.full(joules.shape, np.nan)
    np.divide(joules, covered, out=made, where=covered >= _COVERED)
    return made
