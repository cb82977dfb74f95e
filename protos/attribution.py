"""Joules by phase: power samples and phase marks in, energy with coverage and uncertainty out.

Rules kept here:

* A sample is the mean power of its interval; an interval cut by a mark is divided at constant power.
* Time without a sample is counted as uncovered. Nothing is interpolated into it.
* The parts add up to the whole.
* Too little coverage gives no figure, and that is ``None``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protos.energy import Floats, Mark, Method, Phase, PhaseEnergy, PowerTrace, SampleFlag, covered_share
from protos.uncertainty import ErrorModel, Stretch, UncertaintyTerm, add_terms, expanded

__all__ = ["DEGRADED_COVERAGE", "MINIMUM_COVERAGE", "Tally", "attribute", "integrate", "judge", "tally"]

DEGRADED_COVERAGE = 0.99
"""Below this share of covered time a figure is flagged ``degraded``."""
MINIMUM_COVERAGE = 0.9
"""Below this share of covered time there is no figure."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums of one phase before judgement; tallies of successive stretches of time can be added."""

    phase: Phase
    energy_j: float
    covered_s: float
    uncovered_s: float
    bits: int
    terms: tuple[UncertaintyTerm, ...]

    def __add__(self, other: Tally) -> Tally:
        if other.phase is not self.phase:
            raise ValueError(f"cannot add {other.phase} to {self.phase}")
        return Tally(
            self.phase,
            self.energy_j + other.energy_j,
            self.covered_s + other.covered_s,
            self.uncovered_s + other.uncovered_s,
            self.bits | other.bits,
            add_terms(self.terms, other.terms),
        )


def integrate(trace: PowerTrace, edges_s: Any) -> tuple[Floats, Floats]:
    """Energy and covered time between successive edges.

    Args:
        trace: samples; overlaps are removed first.
        edges_s: float64 [M + 1], ascending.

    Returns:
        Joules [M] and covered seconds [M]. Both add up to the integral over the whole span.

    >>> joules, covered = integrate(PowerTrace.of([0.0, 2.0], [1.0, 3.0], [4.0, 6.0]), [0.0, 0.5, 2.5])
    >>> joules.tolist(), covered.tolist()
    ([2.0, 5.0], [0.5, 1.0])
    """
    clean = trace.disjoint()
    edges = np.asarray(edges_s, np.float64)
    return _between(clean, clean.power_w, edges), _between(clean, np.ones(len(clean)), edges)


def tally(trace: PowerTrace, marks: Sequence[Mark], stop_s: float, *, errors: ErrorModel | None = None) -> list[Tally]:
    """Sum a trace by phase, from the first mark to ``stop_s``.

    Returns one tally per phase that occurs, in the order of :class:`Phase`. Marks after ``stop_s`` are
    ignored; marks may come in any order.
    """
    ordered = [mark for mark in sorted(marks, key=lambda mark: mark.t_s) if mark.t_s <= stop_s]
    if not ordered:
        return []
    clean = trace.disjoint()
    edges = np.array([*(mark.t_s for mark in ordered), stop_s], np.float64)
    phases = list(Phase)
    of_part = np.array([phases.index(mark.phase) for mark in ordered])
    joules = _between(clean, clean.power_w, edges)
    covered = _between(clean, np.ones(len(clean)), edges)
    squares = _between(clean, clean.power_w**2, edges)
    duration = np.diff(edges)
    peak = np.zeros(len(phases))
    bits = np.zeros(len(phases), np.int64)
    first = np.clip(np.searchsorted(edges, clean.start_s, "right") - 1, 0, len(ordered) - 1)
    last = np.clip(np.searchsorted(edges, clean.stop_s, "left") - 1, 0, len(ordered) - 1)
    inside = (clean.stop_s > edges[0]) & (clean.start_s < edges[-1])
    for part in (first, last):
        np.maximum.at(peak, of_part[part[inside]], clean.power_w[inside])
    for index in np.flatnonzero(inside & (clean.flags != 0)):
        for part_index in range(first[index], last[index] + 1):
            bits[of_part[part_index]] |= int(clean.flags[index])
    jump_w, cut_ws = _edges(clean, edges)
    model = errors or ErrorModel()
    result = []
    for number, phase in enumerate(phases):
        parts = np.flatnonzero(of_part == number)
        if not len(parts):
            continue
        # An edge between two parts of the same phase moves no energy from one phase to another.
        ends = np.unique(np.concatenate([parts, parts + 1]))
        ends = np.array([e for e in ends if e == 0 or e == len(ordered) or of_part[e - 1] != of_part[e]], np.int64)
        energy, seen = float(joules[parts].sum()), float(covered[parts].sum())
        missing = max(0.0, float(duration[parts].sum()) - seen)
        mean = energy / seen if seen > 0 else 0.0
        spread = max(0.0, float(squares[parts].sum()) / seen - mean**2) ** 0.5 if seen > 0 else 0.0
        stretch = Stretch(
            energy,
            seen,
            missing,
            spread,
            float(peak[number]),
            float(np.sqrt(np.sum(cut_ws[ends] ** 2))),
            float(np.sqrt(np.sum(jump_w[ends] ** 2))),
        )
        result.append(Tally(phase, energy, seen, missing, int(bits[number]), model.terms(stretch)))
    return result


def judge(
    sums: Tally,
    *,
    method: Method = "measured",
    sensor: str = "",
    flags: Iterable[str] = (),
    minimum_coverage: float = MINIMUM_COVERAGE,
) -> PhaseEnergy:
    """Decide whether a tally is a figure: too little coverage gives None, clipping has no uncertainty."""
    words = list(flags)
    coverage = covered_share(sums.covered_s, sums.uncovered_s)
    if coverage < DEGRADED_COVERAGE:
        words.append("degraded")
    words += [bit.name.lower() for bit in SampleFlag if sums.bits & bit and bit.name]
    known = method != "unknown" and coverage >= minimum_coverage
    bounded = known and not sums.bits & (SampleFlag.CLIPPED | SampleFlag.OVERFLOW)
    return PhaseEnergy(
        phase=sums.phase,
        energy_j=sums.energy_j if known else None,
        covered_s=sums.covered_s,
        uncovered_s=sums.uncovered_s,
        method=method if known else "unknown",
        sensor=sensor,
        uncertainty_j=expanded(sums.terms) if bounded else None,
        flags=tuple(dict.fromkeys(words)),
        budget=sums.terms if bounded else (),
    )


def attribute(
    trace: PowerTrace,
    marks: Sequence[Mark],
    stop_s: float,
    *,
    errors: ErrorModel | None = None,
    method: Method = "measured",
    sensor: str = "",
    minimum_coverage: float = MINIMUM_COVERAGE,
) -> list[PhaseEnergy]:
    """Joules by phase from the first mark to ``stop_s``: :func:`tally`, then :func:`judge`.

    >>> trace = PowerTrace.of([0, 1, 2], [1, 2, 3], [2.0, 2.0, 5.0])
    >>> parts = attribute(trace, [Mark(0.0, Phase.IDLE), Mark(1.5, Phase.TRAIN)], 3.0)
    >>> [(part.phase.value, part.energy_j, part.coverage) for part in parts]
    [('idle', 3.0, 1.0), ('train', 6.0, 1.0)]
    """
    return [
        judge(sums, method=method, sensor=sensor, minimum_coverage=minimum_coverage)
        for sums in tally(trace, marks, stop_s, errors=errors)
    ]


def _between(clean: PowerTrace, density: Floats, edges: Floats) -> Floats:
    """Integral of a density over a disjoint trace, between successive edges."""
    if not len(clean):
        return np.zeros(len(edges) - 1)
    times = np.column_stack([clean.start_s, clean.stop_s]).ravel()
    grown = np.cumsum(density * (clean.stop_s - clean.start_s))
    heights = np.column_stack([np.concatenate([[0.0], grown[:-1]]), grown]).ravel()
    return np.diff(np.interp(edges, times, heights))


def _edges(clean: PowerTrace, edges: Floats) -> tuple[Floats, Floats]:
    """Per edge: the power jump around it, and the energy that may sit on its wrong side.

    The sample that an edge cuts has mean power P and may hold any step between its neighbours' powers;
    the error of the cut is at most jump * dt / 4 (the edge in the middle).
    """
    jump, cut = np.zeros(len(edges)), np.zeros(len(edges))
    if len(clean):
        at = np.clip(np.searchsorted(clean.start_s, edges, "right") - 1, 0, len(clean) - 1)
        near = np.stack([np.clip(at + step, 0, len(clean) - 1) for step in (-1, 0, 1)])
        powers = clean.power_w[near]
        jump = powers.max(axis=0) - powers.min(axis=0)
        cuts = (clean.start_s[at] < edges) & (edges < clean.stop_s[at])
        cut = np.where(cuts, jump * (clean.stop_s[at] - clean.start_s[at]) / 4, 0.0)
    return jump, cut
