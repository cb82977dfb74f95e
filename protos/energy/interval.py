"""Lines of an uncertainty budget made into one interval, and budgets added and subtracted.

Standard uncertainties are combined root-sum-square and widened by a factor ``k`` so that the interval covers 95 %
(JCGM 100:2008, the GUM, 5.1.2 and 6.2). ``k`` follows the shape of the sum: 1.96 where it is normal, 1.65 where one
rectangular line rules. The fourth cumulant tells the shape, since it adds up over independent errors as the variance
does: the excess of a rectangle is -1.2, that of a normal 0.

A line's ``bias_j`` is known to be missing from the figure (a gap). It widens the interval as it is (GUM, F.2.4.5).

The **worst case** is another figure: the sum of all limits, as if every error stood at its limit with one sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from protos.energy.uncertainty import UncertaintyTerm

__all__ = ["Interval", "add_terms", "combine", "expanded", "subtract_terms"]

_EXCESS = {"normal": 0.0, "rectangular": -1.2}
_AT_EXCESS = (-1.2, -1.1, -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0)
_K95 = (1.645, 1.690, 1.733, 1.769, 1.801, 1.829, 1.854, 1.877, 1.898, 1.917, 1.934, 1.949, 1.960)
"""95 % factor of a rectangle and a normal in every proportion, by the excess of their sum (integrated numerically)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """How wrong a figure may be.

    Args:
        standard_j: combined standard uncertainty, J.
        coverage_factor: ``k`` of a 95 % interval, 1.645 to 1.96.
        expanded_j: half width of the 95 % interval, ``k * standard_j`` plus what is known to be missing.
        worst_case_j: sum of all limits.
    """

    standard_j: float
    coverage_factor: float
    expanded_j: float
    worst_case_j: float


def combine(terms: Iterable[UncertaintyTerm]) -> Interval:
    """One interval from independent lines.

    >>> two = [UncertaintyTerm("noise", 3.0), UncertaintyTerm("duty", 4.0)]
    >>> combine(two)
    Interval(standard_j=5.0, coverage_factor=1.96, expanded_j=9.8, worst_case_j=21.0)
    >>> combine([UncertaintyTerm("shunt", 1.0, shape="rectangular", limit_j=3**0.5)]).coverage_factor
    1.645
    """
    lines = tuple(terms)
    variance = math.fsum(line.standard_j**2 for line in lines)
    worst_j = math.fsum(line.worst_j for line in lines)
    if not 0 < variance < math.inf:
        standard_j, factor = math.sqrt(variance), _K95[-1]
    else:
        excess = math.fsum(_EXCESS[line.shape] * (line.standard_j**2 / variance) ** 2 for line in lines)
        standard_j, factor = math.sqrt(variance), float(np.interp(excess, _AT_EXCESS, _K95))
    missing_j = math.fsum(abs(line.bias_j) for line in lines)
    return Interval(standard_j, factor, factor * standard_j + missing_j, worst_j)


def expanded(terms: Iterable[UncertaintyTerm]) -> float:
    """Half width of the 95 % interval, J."""
    return combine(terms).expanded_j


def add_terms(left: Iterable[UncertaintyTerm], right: Iterable[UncertaintyTerm]) -> tuple[UncertaintyTerm, ...]:
    """The budget of the sum of two figures of one chain, line by line as each line's ``kind`` says.

    >>> add_terms([UncertaintyTerm("noise", 3.0, "random")], [UncertaintyTerm("noise", 4.0, "random")])[0].standard_j
    5.0
    """
    total: dict[str, UncertaintyTerm] = {}
    for term in (*left, *right):
        before = total.get(term.name)
        total[term.name] = term if before is None else _merged(before, term, opposite=False)
    return tuple(total.values())


def subtract_terms(left: Iterable[UncertaintyTerm], right: Iterable[UncertaintyTerm]) -> tuple[UncertaintyTerm, ...]:
    """The budget of ``left - right``, two figures of one chain: what is the same error in both goes out.

    >>> subtract_terms([UncertaintyTerm("offset", 3.0)], [UncertaintyTerm("offset", 3.0)])[0].standard_j
    0.0
    """
    total = {term.name: term for term in left}
    for term in right:
        before = total.get(term.name, replace(term, standard_j=0.0, limit_j=0.0, bias_j=0.0))
        total[term.name] = _merged(before, term, opposite=True)
    return tuple(total.values())


def _merged(left: UncertaintyTerm, right: UncertaintyTerm, *, opposite: bool) -> UncertaintyTerm:
    """Two lines of one name as one: the error of the sum, or of the difference."""
    worst_j = left.worst_j + right.worst_j
    bias_j = abs(left.bias_j) + abs(right.bias_j)
    if "random" in (left.kind, right.kind) or (opposite and left.kind == "local"):
        # Sums of independent errors tend to the normal.
        shape = left.shape if not right.standard_j else right.shape if not left.standard_j else "normal"
        standard_j = math.hypot(left.standard_j, right.standard_j)
    else:
        shape = left.shape if left.shape == right.shape else "normal"
        standard_j = left.standard_j + right.standard_j
        if opposite and math.isfinite(standard_j):
            standard_j, worst_j = abs(left.standard_j - right.standard_j), abs(left.worst_j - right.worst_j)
    return UncertaintyTerm(left.name, standard_j, left.kind, shape, worst_j, bias_j)
