"""Joules by phase: power samples and phase marks in, energy with coverage and uncertainty out.

Rules kept here:

* A sample is the mean power of its interval; one that a mark cuts is divided as
  :mod:`protos.energy.trace_splitting` says.
* Time without a sample is counted as uncovered. Nothing is interpolated into it.
* The parts add up to the whole.
* Too little coverage gives no figure, and that is ``None``.
* Nor does a sum that is negative by more than the error of the zero: a board draws power, so the sensor is connected
  the wrong way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protos.energy.interval import add_terms, combine
from protos.energy.interval_summary import examine, unusable_bits
from protos.energy.trace import (
    Floats,
    Mark,
    Method,
    Phase,
    PhaseEnergy,
    PowerTrace,
    SampleFlag,
    covered_share,
    flag_words,
)
from protos.energy.trace_splitting import between, stepped
from protos.energy.uncertainty import ErrorModel, UncertaintyTerm

__all__ = [
    "DEGRADED_COVERAGE",
    "MINIMUM_COVERAGE",
    "REVERSED",
    "Tally",
    "attribute",
    "integrate",
    "is_reversed",
    "judge",
    "sample_words",
    "tally",
    "zero_limit_j",
]

DEGRADED_COVERAGE = 0.99
"""Below this share of covered time a figure is flagged ``degraded``."""
MINIMUM_COVERAGE = 0.9
"""Below this share of covered time there is no figure."""
REVERSED = "reversed"
"""Flag of a figure whose samples are negative: VIN+ and VIN- are swapped."""


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
        trace: samples; overlaps, and samples that are not usable, are removed first.
        edges_s: float64 [M + 1], ascending.

    Returns:
        Joules [M] and covered seconds [M]. Both add up to the integral over the whole span.

    >>> joules, covered = integrate(PowerTrace.of([0.0, 2.0], [1.0, 3.0], [4.0, 6.0]), [0.0, 0.5, 2.5])
    >>> joules.tolist(), covered.tolist()
    ([2.0, 5.0], [0.5, 1.0])
    """
    clean = trace.usable().disjoint()
    edges = np.asarray(edges_s, np.float64)
    return between(clean, clean.power_w, edges), between(clean, np.ones(len(clean)), edges)


def tally(trace: PowerTrace, marks: Sequence[Mark], stop_s: float, *, errors: ErrorModel | None = None) -> list[Tally]:
    """Sum a trace by phase, from the first mark to ``stop_s``.

    Returns one tally per phase that occurs, in the order of :class:`Phase`. Marks after ``stop_s`` are
    ignored; marks may come in any order.
    """
    ordered = [mark for mark in sorted(marks, key=lambda mark: mark.t_s) if mark.t_s <= stop_s]
    if not ordered:
        return []
    clean = trace.usable().disjoint()
    edges = np.array([*(mark.t_s for mark in ordered), stop_s], np.float64)
    phases = list(Phase)
    of_part = np.array([phases.index(mark.phase) for mark in ordered])
    halves, model = stepped(clean, edges), errors or ErrorModel()
    result = []
    for number, phase in enumerate(phases):
        parts = np.flatnonzero(of_part == number)
        if len(parts):
            stretch, bits = examine(clean, edges[parts], edges[parts + 1], model, halves)
            bits |= unusable_bits(trace, edges[parts], edges[parts + 1])
            result.append(
                Tally(phase, stretch.energy_j, stretch.covered_s, stretch.uncovered_s, bits, model.terms(stretch))
            )
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
    coverage = covered_share(sums.covered_s, sums.uncovered_s)
    backwards = is_reversed(sums.energy_j, sums.terms)
    known = method != "unknown" and coverage >= minimum_coverage and not backwards
    bounded = known and not sums.bits & (SampleFlag.CLIPPED | SampleFlag.OVERFLOW)
    interval = combine(sums.terms) if bounded else None
    return PhaseEnergy(
        phase=sums.phase,
        energy_j=sums.energy_j if known else None,
        covered_s=sums.covered_s,
        uncovered_s=sums.uncovered_s,
        method=method if known else "unknown",
        sensor=sensor,
        uncertainty_j=interval.expanded_j if interval else None,
        flags=tuple(dict.fromkeys([*flags, *sample_words(coverage, sums.bits, backwards=backwards)])),
        budget=sums.terms if bounded else (),
        coverage_factor=interval.coverage_factor if interval else None,
        worst_case_j=interval.worst_case_j if interval else None,
    )


def zero_limit_j(terms: Iterable[UncertaintyTerm]) -> float:
    """Most that a chain may show of a load that draws nothing, J: limits of its offset, its steps and its noise."""
    return sum(term.worst_j for term in terms if term.name in ("offset", "quantisation", "noise"))


def is_reversed(energy_j: float, terms: Iterable[UncertaintyTerm]) -> bool:
    """Whether a sum is negative by more than the chain's zero may be wrong."""
    return energy_j < -zero_limit_j(terms)


def sample_words(coverage: float, bits: int, *, backwards: bool = False) -> list[str]:
    """Flags that follow from the samples themselves: ``degraded``, those of :class:`SampleFlag`, ``reversed``."""
    words = ["degraded"] if coverage < DEGRADED_COVERAGE else []
    return [*words, *flag_words(bits), *([REVERSED] if backwards else [])]


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
