"""Power in short bins of one length, with the mean, the least and the largest of each: a trace for looking at.

Rules kept here:

* A bin's mean is that of the time in it that samples cover; ``covered_s`` says how much that is, so that
  sum(mean_w * covered_s) is the energy of what was seen. Nothing is interpolated.
* A burst that is shorter than a bin stays in ``high_w``, also when bins are joined.
* Samples that say nothing of the board's power cover no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.energy.attribution import integrate
from protos.energy.trace import Floats, PowerTrace

__all__ = ["BIN_S", "PowerBins", "binned", "joined_bins"]

BIN_S = 0.02
"""Fifty points a second."""
# Of a bin's length: less is a rounding of times, and no sample.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class PowerBins:
    """Successive bins: bin i lasts from ``first_s + i * bin_s`` to ``first_s + (i + 1) * bin_s``.

    Args:
        first_s: on any one clock.
        bin_s: length of each.
        mean_w: float64 [N], of the covered time; 0 where nothing is covered.
        low_w: float64 [N], the least sample that touches the bin; 0 where nothing is covered.
        high_w: float64 [N], the largest.
        covered_s: float64 [N], 0..bin_s.
    """

    first_s: float
    bin_s: float
    mean_w: Floats
    low_w: Floats
    high_w: Floats
    covered_s: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.mean_w), len(self.low_w), len(self.high_w), len(self.covered_s)}
        if len(lengths) != 1:
            raise ValueError(f"arrays of bins differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.mean_w)

    @classmethod
    def none(cls) -> PowerBins:
        """No bin at all."""
        return cls(0.0, BIN_S, *(np.zeros(0) for _ in range(4)))


def binned(trace: PowerTrace, first: int, count: int, bin_s: float = BIN_S) -> PowerBins:
    """``count`` bins from the one that begins at ``first * bin_s`` on.

    >>> bins = binned(PowerTrace.of([0.0, 0.02, 0.03], [0.02, 0.03, 0.04], [2.0, 1.0, 7.0]), 0, 3)
    >>> bins.mean_w.round(9).tolist(), bins.low_w.tolist(), bins.high_w.tolist(), bins.covered_s.round(3).tolist()
    ([2.0, 4.0, 0.0], [2.0, 1.0, 0.0], [2.0, 7.0, 0.0], [0.02, 0.02, 0.0])
    """
    clean = trace.usable().disjoint()
    edges = (first + np.arange(count + 1)) * bin_s
    energy_j, covered_s = integrate(clean, edges)
    covered_s = np.clip(covered_s, 0.0, bin_s)
    seen = covered_s > _LEAST_SHARE * bin_s
    # Each sample as often as there are bins that it touches: one that ends on an edge does not touch the bin after it.
    slack = _LEAST_SHARE * bin_s
    begin = np.clip(np.searchsorted(edges, clean.start_s + slack, "right") - 1, 0, count)
    end = np.clip(np.searchsorted(edges, clean.stop_s - slack, "left"), 0, count)
    touched = np.maximum(end - begin, 0)
    which = np.repeat(np.arange(len(clean)), touched)
    at = begin[which] + np.arange(len(which)) - np.repeat(np.cumsum(touched) - touched, touched)
    low_w, high_w = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low_w, at, clean.power_w[which])
    np.maximum.at(high_w, at, clean.power_w[which])
    seen &= np.isfinite(low_w)
    mean_w = np.divide(energy_j, covered_s, out=np.zeros(count), where=seen)
    # By rounding, a mean of equal samples may lie beyond them.
    low_w, high_w = np.where(seen, low_w, 0.0), np.where(seen, high_w, 0.0)
    return PowerBins(
        first * bin_s, bin_s, np.clip(mean_w, low_w, high_w), low_w, high_w, np.where(seen, covered_s, 0.0)
    )


def joined_bins(bins: PowerBins, each: int) -> PowerBins:
    """Every ``each`` bins as one; those at the end that are too few for one are filled up with bins that cover nothing.

    >>> one = PowerBins(0.0, 0.02, np.array([1.0, 3.0]), np.array([1.0, 2.0]), np.array([1.0, 9.0]), np.full(2, 0.02))
    >>> two = joined_bins(one, 2)
    >>> two.bin_s, two.mean_w.tolist(), two.low_w.tolist(), two.high_w.tolist()
    (0.04, [2.0], [1.0], [9.0])
    """
    if each <= 1:
        return bins
    rows = -(-len(bins) // each)

    def stacked(values: Floats, fill: float) -> Floats:
        return np.concatenate([values, np.full(rows * each - len(values), fill)]).reshape(rows, each)

    covered = stacked(bins.covered_s, 0.0)
    seen = covered > 0
    covered_s, any_seen = covered.sum(axis=1), seen.any(axis=1)
    energy_j = (stacked(bins.mean_w, 0.0) * covered).sum(axis=1)
    low_w = np.where(seen, stacked(bins.low_w, 0.0), np.inf).min(axis=1)
    high_w = np.where(seen, stacked(bins.high_w, 0.0), -np.inf).max(axis=1)
    low_w, high_w = np.where(any_seen, low_w, 0.0), np.where(any_seen, high_w, 0.0)
    mean_w = np.divide(energy_j, covered_s, out=np.zeros(rows), where=any_seen)
    return PowerBins(bins.first_s, bins.bin_s * each, np.clip(mean_w, low_w, high_w), low_w, high_w, covered_s)
