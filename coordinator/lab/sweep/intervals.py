"""Means, intervals and paired tests for few repetitions: Student's t.

Sources: Student, "The probable error of a mean", Biometrika 6 (1908); Holm, "A simple sequentially rejective multiple
test procedure", Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Mean", "Paired", "holm", "mean_of", "paired", "t_quantile", "t_tail"]

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean of ``count`` values, and half the width of its 95 % interval; None where one value or none is known."""

    mean: float | None
    half: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """Differences of pairs, second less first.

    Attributes:
        p: two-sided, of Student's t for a mean difference of 0; None with fewer than two pairs, or no spread at all.
        higher: pairs in which the second is higher.
    """

    difference: Mean
    p: float | None
    higher: int


def t_tail(t: float, freedom: float) -> float:
    """The chance that ``|T| >= |t|``, for Student's t with so many degrees of freedom.

    ``P = I_x(v/2, 1/2)`` with ``x = v / (v + t^2)``, the regularised incomplete beta function (Abramowitz, Stegun,
    26.7.1).

    >>> round(t_tail(2.776445, 4), 6)
    0.05
    """
    if math.isinf(t):
        return 0.0
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Abramowitz, Stegun 26.5.8), which converges
    fast for ``x < (a + 1) / (a + b + 2)``; else by ``I_x(a, b) = 1 - I_(1-x)(b, a)``."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    # Lentz's way of working a continued fraction out from the front.
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    found = d
    for m in range(1, 500):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + step * d or tiny)
            c = 1.0 + step / c or tiny
            found *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return front * found


def t_quantile(level: float, freedom: float) -> float:
    """The t that ``|T|`` stays below with probability ``level``: by halving, to the last digit.

    >>> round(t_quantile(0.95, 2), 4), round(t_quantile(0.95, 9), 4)
    (4.3027, 2.2622)
    """
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if t_tail(middle, freedom) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def mean_of(values: Sequence[float | None]) -> Mean:
    """The mean, ``m +- t s / sqrt(n)`` with ``s`` over ``n - 1``. One value that is not known makes the mean unknown.

    >>> mean_of([1.0, 2.0, 3.0]).mean, round(mean_of([1.0, 2.0, 3.0]).half, 6)
    (2.0, 2.484138)
    >>> mean_of([1.0, None]), mean_of([4.0])
    (Mean(mean=None, half=None, count=1), Mean(mean=4.0, half=None, count=1))
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Mean(None, None, len(known))
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return Mean(mean, None, len(known))
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
    return Mean(mean, t_quantile(LEVEL, len(known) - 1) * spread / math.sqrt(len(known)), len(known))


def paired(first: Sequence[float | None], second: Sequence[float | None]) -> Paired:
    """Pairs that belong together, such as runs of one seed; those of which one is not known are left out."""
    known = [b - a for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    mean = mean_of(known)
    higher = sum(value > 0 for value in known)
    if mean.mean is None or len(known) < 2:
        return Paired(mean, None, higher)
    spread = math.sqrt(math.fsum((value - mean.mean) ** 2 for value in known) / (len(known) - 1))
    if spread == 0:
        return Paired(mean, None, higher)
    return Paired(mean, t_tail(mean.mean / (spread / math.sqrt(len(known))), len(known) - 1), higher)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p of several tests, adjusted by Holm: below a level, so is the chance of any false finding among them all.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((value, index) for index, value in enumerate(values) if value is not None)
    made: list[float | None] = [None] * len(values)
    most = 0.0
    for rank, (value, index) in enumerate(known):
        most = max(most, min(1.0, round((len(known) - rank) * value, 15)))
        made[index] = most
    return made
