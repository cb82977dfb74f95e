"""A disjoint trace cut at instants: joules between them, and how a sample that is cut is divided.

A sample is the mean power of its interval, and a load often steps at a mark, inside a sample. Where the sample's power
lies between those of its neighbours it is read as one step from the one to the other, at the place that keeps its
energy; else its power is taken as constant. See docs/decisions/0008 for what that is worth.
"""

from __future__ import annotations

import numpy as np

from protos.energy.trace import Floats, PowerTrace

__all__ = ["between", "cut_samples", "measure_before", "stepped"]


def between(clean: PowerTrace, density: Floats, edges_s: Floats) -> Floats:
    """Integral of a density over a disjoint trace, between successive edges; float64 [M]."""
    if not len(clean):
        return np.zeros(len(edges_s) - 1)
    times = np.column_stack([clean.start_s, clean.stop_s]).ravel()
    grown = np.cumsum(density * (clean.stop_s - clean.start_s))
    heights = np.column_stack([np.concatenate([[0.0], grown[:-1]]), grown]).ravel()
    return np.diff(np.interp(edges_s, times, heights))


def cut_samples(clean: PowerTrace, edges_s: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Index of the sample that each edge cuts, -1 where it cuts none; int64 [M]."""
    if not len(clean):
        return np.full(len(edges_s), -1)
    at = np.clip(np.searchsorted(clean.start_s, edges_s, "right") - 1, 0, len(clean) - 1)
    cuts = (clean.start_s[at] < edges_s) & (edges_s < clean.stop_s[at])
    return np.where(cuts, at, -1)


def stepped(clean: PowerTrace, edges_s: Floats) -> PowerTrace:
    """The trace with each sample that an edge cuts as two: its neighbours' powers, its own energy.

    >>> trace = PowerTrace.of([0, 1, 2], [1, 2, 3], [2.0, 3.0, 6.0])
    >>> halves = stepped(trace, np.array([1.5]))
    >>> halves.start_s.tolist(), halves.power_w.tolist()
    ([0.0, 1.0, 1.75, 2.0], [2.0, 2.0, 6.0, 6.0])
    """
    at = np.unique(cut_samples(clean, edges_s))
    at = at[(at > 0) & (at < len(clean) - 1)]
    start, stop, power = clean.start_s, clean.stop_s, clean.power_w
    width = stop - start
    # A neighbour beyond a gap says little of what happened here.
    near = (start[at] - stop[at - 1] < width[at]) & (start[at + 1] - stop[at] < width[at])
    before, after = power[at - 1], power[at + 1]
    near &= (power[at] - before) * (after - power[at]) > 0
    at, before, after = at[near], before[near], after[near]
    if not len(at):
        return clean
    share = (after - power[at]) / (after - before)
    at_s = start[at] + share * width[at]
    power = power.copy()
    power[at] = before
    # Where a step falls on the end of its sample by rounding, an empty half carries nothing.
    return PowerTrace(
        np.insert(start, at + 1, at_s),
        np.insert(_set(stop, at, at_s), at + 1, stop[at]),
        np.insert(power, at + 1, after),
        np.insert(clean.flags, at + 1, clean.flags[at]),
    )


def measure_before(start_s: Floats, stop_s: Floats, t_s: Floats) -> Floats:
    """Seconds of disjoint ascending intervals [M] that lie before each instant; float64 of the shape of ``t_s``."""
    knots = np.column_stack([start_s, stop_s]).ravel()
    grown = np.cumsum(stop_s - start_s)
    heights = np.column_stack([np.concatenate([[0.0], grown[:-1]]), grown]).ravel()
    return np.asarray(np.interp(t_s, knots, heights), np.float64)


def _set(array: Floats, at: np.ndarray[tuple[int], np.dtype[np.int64]], values: Floats) -> Floats:
    fresh = array.copy()
    fresh[at] = values
    return fresh
