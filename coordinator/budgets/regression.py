"""Costs that are linear in a few counts, learnt one observation at a time.

Bayesian linear regression in the information form, with three safeguards:

* **Outliers** pull with the weight of Huber's loss (Huber, "Robust estimation of a location parameter", Ann. Math.
  Stat. 1964): beyond :data:`HUBER` standard deviations the pull no longer grows.
* **Change.** Old observations fade by :data:`FORGETTING` towards the prior's certainty, not towards none, so that a
  direction that is never excited (always the same number of steps) stays bounded. A run of outliers on one side is
  a change and not bad luck: certainty is then dropped at once, to that of someone who knows no more than the size of
  the estimate (never of the first guess, which may be a thousand times smaller). Innovations that lean to one side
  are a drift: certainty then fades faster, for as long as they do.
* **Noise** is learnt as a share of the figure, from the innovations.

Coefficients are kept relative to a first guess, so that joules per byte and joules per step weigh alike. There are one
or two of them, and they are plain numbers: a dozen calls of a library for each figure would take longer than the sums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Row = list[float]
Matrix = list[Row]

HUBER = 2.0
FORGETTING = 0.98
# Deviation of a first guess, relative to it.
DOUBT = 1.5
_FIRST_NOISE, _LEAST_NOISE, _MOST_NOISE = 0.2, 0.01, 1.0
_NOISE_RATE = 0.05
# E[min(z^2, HUBER^2)] of a standard normal z.
_CLIPPED_SQUARE = 0.92
_CHANGE_RUN = 4
_TRUSTED = 2
_MOST_RATIO = 1e6
# The mean of the last innovations, each cut at HUBER; without a drift its deviation is sqrt(rate / (2 - rate)) = 0.33.
_LEAN_RATE = 0.2
_MOST_LEAN = 0.65
_DRIFT_FADE = 0.5
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard deviation, both >= 0."""

    mean: float
    deviation: float

    def at_most(self, k: float = 2.0) -> float:
        """The mean and ``k`` deviations."""
        return self.mean + k * self.deviation


class Regression:
    """``y = x . c`` with coefficients c >= 0 that begin as ``guess`` and are learnt.

    Args:
        guess: positive, one a coefficient, of which there are one or two.
        anchored: deviation of the guess relative to it, one a coefficient; :data:`DOUBT` for each without.
    """

    def __init__(self, guess: Sequence[float], anchored: Sequence[float] | None = None) -> None:
        self._guess: Row = [float(price) for price in guess]
        if not 1 <= len(self._guess) <= 2 or not all(price > 0 for price in self._guess):
            raise ValueError(f"one or two guesses, and all positive: {list(guess)}")
        doubt = [DOUBT] * len(guess) if anchored is None else anchored
        self._prior: Matrix = _diagonal([1.0 / part**2 for part in doubt])
        self._information: Matrix = self._prior
        self._factors: Row = [1.0] * len(self._guess)
        self._noise = _FIRST_NOISE
        self._run = 0
        self._lean = 0.0
        self._fresh = 0
        self._text = ""
        self.seen = 0

    def observe(self, x: Sequence[float], y: float, uncertainty: float = 0.0) -> float:
        """Learn from one figure; returns how many deviations it was off.

        Args:
            x: counts, >= 0; all zero teaches nothing.
            y: the figure, in the unit of guess times counts.
            uncertainty: its own standard deviation.
        """
        row = self._in_guesses(x)
        if not any(row) or not math.isfinite(y):
            return 0.0
        y, self._text = max(0.0, y), ""
        self._information = _mixed(FORGETTING, self._information, self._doubtful())
        expected = _inner(row, self._factors)
        # Never surer than a thousandth of the guess: the information must stay invertible, whatever the counts.
        least = _LEAST_SHARE * sum(row)
        z = (y - expected) / math.sqrt(self._noise2(expected, least, uncertainty) + self._doubt2(row))
        self._follow_change(z)
        trusted = self._fresh < _TRUSTED
        if trusted and y > expected:
            # A first guess may be wrong by far more than it says: the first figures are no outliers of it.
            ratio2 = min(_MOST_RATIO, max(1.0, y / max(expected, least))) ** 2
            self._information = [[value / ratio2 for value in values] for values in self._information]
        doubt2 = self._doubt2(row)
        # Noise is a share of the truth, which lies between what was expected and what came: never of a low guess.
        noise2 = self._noise2(expected, least, uncertainty)
        likely = expected + (y - expected) * doubt2 / (doubt2 + noise2)
        noise2 = self._noise2(max(expected, likely), least, uncertainty)
        pull = 1.0 if trusted else min(1.0, HUBER * math.sqrt(noise2 + doubt2) / max(abs(y - expected), 1e-300))
        # A = A + w x x^T, c = c + A^-1 x w (y - x . c), with w = pull / noise^2.
        self._information = [
            [value + pull * (left * right) / noise2 for value, right in zip(values, row, strict=True)]
            for values, left in zip(self._information, row, strict=True)
        ]
        gain = pull * (y - expected) / noise2
        moved = _solved(self._information, row)
        self._factors = [factor + by * gain for factor, by in zip(self._factors, moved, strict=True)]
        share = noise2 / (noise2 + doubt2)
        excess = min(z * z, HUBER**2) / _CLIPPED_SQUARE - 1.0
        self._noise = min(_MOST_NOISE, max(_LEAST_NOISE, self._noise * math.exp(_NOISE_RATE * share * excess)))
        self.seen += 1
        self._fresh += 1
        return z

    def _in_guesses(self, x: Sequence[float]) -> Row:
        return [count * price for count, price in zip(x, self._guess, strict=True)]

    def _doubtful(self) -> Matrix:
        """The certainty of someone who knows no more than the size of the coefficients as they are now."""
        size = [max(factor, 1.0) for factor in self._factors]
        return [
            [value / (left * right) for value, right in zip(values, size, strict=True)]
            for values, left in zip(self._prior, size, strict=True)
        ]

    def _noise2(self, mean: float, least: float, uncertainty: float) -> float:
        return max(self._noise * mean, least) ** 2 + uncertainty**2

    def _doubt2(self, row: Row) -> float:
        return max(0.0, _inner(row, _solved(self._information, row)))

    def _follow_change(self, z: float) -> None:
        outlier = int(math.copysign(1, z)) if abs(z) > HUBER else 0
        self._run = self._run + outlier if outlier * self._run >= 0 and outlier else outlier
        self._lean += _LEAN_RATE * (max(-HUBER, min(HUBER, z)) - self._lean)
        if abs(self._run) >= _CHANGE_RUN:
            self._information, self._run, self._fresh, self._lean = self._doubtful(), 0, 0, 0.0
        elif abs(self._lean) > _MOST_LEAN:
            self._information = _mixed(_DRIFT_FADE, self._information, self._doubtful())

    @property
    def coefficients(self) -> Vector:
        """The estimates, never negative."""
        return np.maximum(self._factors, 0.0) * self._guess

    @property
    def deviations(self) -> Vector:
        """Their standard deviations."""
        variance = np.diag(np.linalg.inv(self._information))
        spread: Vector = np.sqrt(np.maximum(variance, 0.0)) * self._guess
        return spread

    def predict(self, x: Sequence[float], *, single: bool = True) -> Estimate:
        """The figure for these counts; with ``single``, of one occasion, noise included, else of the mean."""
        row = self._in_guesses(x)
        mean = _inner(row, [max(factor, 0.0) for factor in self._factors])
        return Estimate(mean, math.sqrt(self._doubt2(row) + (self._noise * mean) ** 2 * single))

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "guess": list(self._guess),
            "prior": [list(values) for values in self._prior],
            "information": [list(values) for values in self._information],
            "factors": list(self._factors),
            "noise": self._noise,
            "run": self._run,
            "lean": self._lean,
            "fresh": self._fresh,
            "seen": self.seen,
        }

    def text(self) -> str:
        """:meth:`state` as JSON, made once until something is learnt."""
        self._text = self._text or json.dumps(self.state())
        return self._text

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Regression:
        """The regression that :meth:`state` described, to the last bit."""
        made = cls(state["guess"])
        made._prior, made._information = _as_matrix(state["prior"]), _as_matrix(state["information"])
        made._factors, made._noise = [float(factor) for factor in state["factors"]], float(state["noise"])
        made._run, made.seen = int(state["run"]), int(state["seen"])
        # States of releases before these two were kept go on as if no drift had been seen.
        made._lean, made._fresh = float(state.get("lean", 0.0)), int(state.get("fresh", made.seen))
        return made


def _as_matrix(values: Any) -> Matrix:
    return [[float(value) for value in row] for row in values]


def _diagonal(values: Row) -> Matrix:
    return [[value if at == column else 0.0 for column in range(len(values))] for at, value in enumerate(values)]


def _mixed(share: float, one: Matrix, other: Matrix) -> Matrix:
    """``share * one + (1 - share) * other``."""
    rest = 1 - share
    return [
        [share * a + rest * b for a, b in zip(left, right, strict=True)] for left, right in zip(one, other, strict=True)
    ]


def _inner(left: Row, right: Row) -> float:
    """``left . right``."""
    return left[0] * right[0] if len(left) == 1 else left[0] * right[0] + left[1] * right[1]


def _solved(matrix: Matrix, row: Row) -> Row:
    """``matrix^-1 row`` of a symmetric positive definite matrix of one or two rows.

    One step of elimination, in the order of the larger pivot, as LU with partial pivoting would do it::

        m = c / a,  y = (r2 - m r1) / (d - m b),  x = (r1 - b y) / a     for [[a, b], [c, d]] [x, y] = [r1, r2]
    """
    if len(row) == 1:
        return [row[0] / matrix[0][0]]
    (a, b), (c, d) = matrix
    first, second = row
    if abs(c) > abs(a):
        a, b, first, c, d, second = c, d, second, a, b, first
    factor = c / a
    y = (second - factor * first) / (d - factor * b)
    return [(first - b * y) / a, y]
