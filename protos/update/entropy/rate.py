"""Finds the step at which an entropy-coded tree costs what it may.

The rate falls by about one bit a coordinate when the step doubles, less when most numbers are 0 already. A sample is
looked at first, then everything, headers and tables included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

_TOLERANCE = 0.001  # of the budget, from below
_TOLERANCE_BITS = 12.0
_LOOKS_AT_SAMPLE = 12
_SMALL = 1 << 16
_SLOPE_OVER = 0.02


class Priced(Protocol):
    """What coding costs: what depends on the step, and what is there anyway."""

    @property
    def coded_bits(self) -> float: ...
    @property
    def fixed_bits(self) -> float: ...


P = TypeVar("P", bound=Priced)


def payload_bits(budget_bits: float, fixed_bits: float) -> float:
    """What coordinates may cost beside what is there anyway.

    All counts. But once headers take more than half of the budget, the coordinates get as many bits as they do, up to
    the whole budget: a tiny head would else be rounded to nothing to pay for its names.

    >>> payload_bits(1000, 100), payload_bits(1000, 600), payload_bits(1000, 2000)
    (900, 600, 1000)
    """
    return max(budget_bits - fixed_bits, min(budget_bits, fixed_bits))


def step_for(
    sample: Callable[[float], Priced] | None,
    whole: Callable[[float], P],
    budget_bits: float,
    *,
    count: int,
    top: float,
    finest: float,
) -> tuple[float, P]:
    """A step whose cost is at most the budget or a little over, and the price at it.

    Args:
        sample: what all coordinates would about cost at a step; None: look at everything at once.
        whole: what they do cost.
        count: of the coordinates that travel.
        top: the greatest of their absolute values.
        finest: the least step.
    """
    low, high = math.log2(finest), math.log2(top) + 12
    at = min(high, max(low, math.log2(top) - payload_bits(budget_bits, 400.0) / count))
    slope = 0.7 * count
    if sample is not None:
        at, slope, _ = _search(sample, budget_bits, (at, low, high), slope, 0.0005, _LOOKS_AT_SAMPLE)
    tolerance = _TOLERANCE if count > _SMALL else min(_TOLERANCE, _TOLERANCE_BITS / budget_bits)
    looks = _LOOKS_AT_SAMPLE if sample is None else 3
    at, _, priced = _search(whole, budget_bits, (at, low, high), slope, tolerance, looks)
    return 2.0**at, priced


def _search(
    price: Callable[[float], P],
    budget_bits: float,
    place: tuple[float, float, float],
    slope: float,
    tolerance: float,
    looks: int,
) -> tuple[float, float, P]:
    """Secants, kept between the nearest place above the budget and the nearest below: (log2 step, slope, price)."""
    at, low, high = place
    dear, cheap = low, high  # too fine, and too coarse
    last: tuple[float, float] | None = None
    best: tuple[float, float, P] | None = None
    for _ in range(looks):
        priced = price(2.0**at)
        over = priced.coded_bits - payload_bits(budget_bits, priced.fixed_bits) + 0.4 * tolerance * budget_bits
        # Below the budget is better than above it, and nearer is better than further.
        rank = abs(over) * (4 if over > 0.4 * tolerance * budget_bits else 1)
        if best is None or rank < best[0]:
            best = rank, at, priced
        if abs(over) <= 0.5 * tolerance * budget_bits:
            break
        # A slope between places that are close together would be that of the noise.
        if last is not None and abs(at - last[0]) > _SLOPE_OVER:
            slope = max(slope / 4, (last[1] - over) / (at - last[0]))
        last = (at, over)
        dear, cheap = (max(dear, at), cheap) if over > 0 else (dear, min(cheap, at))
        following = at + math.copysign(min(3.0, abs(over) / slope), over)
        if not dear < following < cheap:
            following = (dear + cheap) / 2
        if following == at or not low <= following <= high:
            break
        at = following
    assert best is not None
    return best[1], slope, best[2]
