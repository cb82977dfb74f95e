"""Finds the step at which an entropy-coded tree costs what it may.

The rate falls by about one bit a coordinate when the step doubles, less when most numbers are 0 already; it looks at a
sample first, with ideal models, and then a few times at everything, tables included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from protos.update import symbols

_TOLERANCE = 0.002  # of the budget, from below
_LOOKS_AT_ALL = 3
_GUESSED_TABLE_BITS = 8.0 * 12


class Scaled(Protocol):
    """Values and the unit of their step."""

    @property
    def values(self) -> npt.NDArray[np.float32]: ...
    @property
    def scale(self) -> float: ...


class Priced(Protocol):
    """What coding costs: what depends on the step, and what is there anyway."""

    @property
    def coded_bits(self) -> float: ...
    @property
    def fixed_bits(self) -> float: ...


S = TypeVar("S", bound=Scaled)
P = TypeVar("P", bound=Priced)


def payload_bits(budget_bits: float, header_bits: float, tensors: int) -> float:
    """What is left for the coordinates themselves, about, before a model is known."""
    return max(budget_bits - header_bits - tensors * _GUESSED_TABLE_BITS, budget_bits / 2)


def step_for(
    sources: Sequence[S],
    price: Callable[[S, float], P],
    sample: Sequence[S],
    estimate: Callable[[S, float], float],
    budget_bits: float,
    header_bits: float,
) -> tuple[float, list[P]]:
    """A step whose cost is at most the budget or a little over, and the priced sources at it.

    Headers, tables and states count, but never take more than half of the budget: a tiny head would else be rounded
    to nothing to pay for its names.
    """
    count = sum(source.values.size for source in sources)
    more = count / sum(part.values.size for part in sample)
    top = max(max(float(s.values.max()), -float(s.values.min())) / s.scale for s in sources)
    finest, coarsest = math.log2(top / symbols.MAX_WHOLE), math.log2(top) + 12
    goal = payload_bits(budget_bits, header_bits, len(sources))
    start = min(coarsest, max(finest, math.log2(top) - goal / count))
    place, slope = _solve(
        lambda at: sum(estimate(part, 2.0**at) for part in sample) * more - goal,
        (start, finest, coarsest),
        count,
        0.002 * goal,
    )
    best: tuple[float, float, list[P]] | None = None
    for _ in range(_LOOKS_AT_ALL):
        priced = [price(source, 2.0**place) for source in sources]
        fixed = sum(one.fixed_bits for one in priced) + header_bits
        goal = max(budget_bits - fixed, budget_bits / 2)
        over = sum(one.coded_bits for one in priced) - goal
        # Below the budget is better than above it, and nearer is better than further.
        rank = abs(over) * (4 if over > 0 else 1)
        if best is None or rank < best[0]:
            best = rank, place, priced
        if -_TOLERANCE * budget_bits <= over <= 0:
            break
        place = min(coarsest, max(finest, place + (over + 0.4 * _TOLERANCE * budget_bits) / slope))
    assert best is not None
    return 2.0 ** best[1], best[2]


def _solve(
    excess: Callable[[float], float], within: tuple[float, float, float], count: int, tolerance: float
) -> tuple[float, float]:
    """Where a falling function of log2(step) is 0, and how many bits it falls there for one doubling.

    Regula falsi after Illinois, from a start that is stepped away from until the sign turns.
    """
    place, low, high = within
    value = excess(place)
    slope = 0.7 * count
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None
    for _ in range(24):
        if abs(value) <= tolerance:
            break
        if value > 0:
            above = (place, value)
            below = below and (below[0], below[1] / 2)
        else:
            below = (place, value)
            above = above and (above[0], above[1] / 2)
        if above and below:
            following = above[0] + (below[0] - above[0]) * above[1] / (above[1] - below[1])
        else:
            stride = value / slope
            following = min(high, max(low, place + math.copysign(max(abs(stride), 0.3), stride)))
        if following == place:
            break
        new = excess(following)
        if new != value:
            slope = max(0.02 * count, abs((new - value) / (following - place)))
        place, value = following, new
    return place, slope
