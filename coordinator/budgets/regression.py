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

Coefficients are kept relative to a first guess, so that joules per byte and joules per step weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

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
        guess: positive, one a coefficient.
        anchored: deviation of the guess relative to it, one a coefficient; :data:`DOUBT` for each without.
    """

    def __init__(self, guess: Sequence[float], anchored: Sequence[float] | None = None) -> None:
        self.guess: Vector = np.asarray(guess, np.float64)
        if not (self.guess > 0).all():
            raise ValueError(f"guesses must be positive: {list(guess)}")
        doubt = np.asarray(anchored if anchored is not None else [DOUBT] * len(guess), np.float64)
        self._prior: Vector = np.diag(1.0 / doubt**2)
        self._information: Vector = self._prior.copy()
        self._factors: Vector = np.ones(len(self.guess))
        self._noise = _FIRST_NOISE
        self._run = 0
        self._lean = 0.0
        self._fresh = 0
        self.seen = 0

    def observe(self, x: Sequence[float], y: float, uncertainty: float = 0.0) -> float:
        """Learn from one figure; returns how many deviations it was off.

        Args:
            x: counts, >= 0; all zero teaches nothing.
            y: the figure, in the unit of guess times counts.
            uncertainty: its own standard deviation.
        """
        row = np.asarray(x, np.float64) * self.guess
        if not row.any() or not math.isfinite(y):
            return 0.0
        y = max(0.0, y)
        self._information = FORGETTING * self._information + (1 - FORGETTING) * self._doubtful()
        expected = float(row @ self._factors)
        # Never surer than a thousandth of the guess: the information must stay invertible, whatever the counts.
        least = _LEAST_SHARE * float(row.sum())
        z = (y - expected) / math.sqrt(self._noise2(expected, least, uncertainty) + self._doubt2(row))
        self._follow_change(z)
        trusted = self._fresh < _TRUSTED
        if trusted and y > expected:
            # A first guess may be wrong by far more than it says: the first figures are no outliers of it.
            self._information = self._information / min(_MOST_RATIO, max(1.0, y / max(expected, least))) ** 2
        doubt2 = self._doubt2(row)
        # Noise is a share of the truth, which lies between what was expected and what came: never of a low guess.
        noise2 = self._noise2(expected, least, uncertainty)
        likely = expected + (y - expected) * doubt2 / (doubt2 + noise2)
        noise2 = self._noise2(max(expected, likely), least, uncertainty)
        pull = 1.0 if trusted else min(1.0, HUBER * math.sqrt(noise2 + doubt2) / max(abs(y - expected), 1e-300))
        self._information = self._information + pull * np.outer(row, row) / noise2
        self._factors = self._factors + _solved(self._information, row) * (pull * (y - expected) / noise2)
        share = noise2 / (noise2 + doubt2)
        excess = min(z * z, HUBER**2) / _CLIPPED_SQUARE - 1.0
        self._noise = min(_MOST_NOISE, max(_LEAST_NOISE, self._noise * math.exp(_NOISE_RATE * share * excess)))
        self.seen += 1
        self._fresh += 1
        return z

    def _doubtful(self) -> Vector:
        """The certainty of someone who knows no more than the size of the coefficients as they are now."""
        size = np.maximum(self._factors, 1.0)
        doubtful: Vector = self._prior / np.outer(size, size)
        return doubtful

    def _noise2(self, mean: float, least: float, uncertainty: float) -> float:
        return max(self._noise * mean, least) ** 2 + uncertainty**2

    def _doubt2(self, row: Vector) -> float:
        return max(0.0, float(row @ _solved(self._information, row)))

    def _follow_change(self, z: float) -> None:
        outlier = int(math.copysign(1, z)) if abs(z) > HUBER else 0
        self._run = self._run + outlier if outlier * self._run >= 0 and outlier else outlier
        self._lean += _LEAN_RATE * (max(-HUBER, min(HUBER, z)) - self._lean)
        if abs(self._run) >= _CHANGE_RUN:
            self._information, self._run, self._fresh, self._lean = self._doubtful(), 0, 0, 0.0
        elif abs(self._lean) > _MOST_LEAN:
            self._information = _DRIFT_FADE * self._information + (1 - _DRIFT_FADE) * self._doubtful()

    @property
    def coefficients(self) -> Vector:
        """The estimates, never negative."""
        return np.maximum(self._factors, 0.0) * self.guess

    @property
    def deviations(self) -> Vector:
        """Their standard deviations."""
        variance = np.diag(np.linalg.inv(self._information))
        spread: Vector = np.sqrt(np.maximum(variance, 0.0)) * self.guess
        return spread

    def predict(self, x: Sequence[float], *, single: bool = True) -> Estimate:
        """The figure for these counts; with ``single``, of one occasion, noise included, else of the mean."""
        row = np.asarray(x, np.float64) * self.guess
        mean = float(row @ np.maximum(self._factors, 0.0))
        return Estimate(mean, math.sqrt(self._doubt2(row) + (self._noise * mean) ** 2 * single))

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "guess": self.guess.tolist(),
            "prior": self._prior.tolist(),
            "information": self._information.tolist(),
            "factors": self._factors.tolist(),
            "noise": self._noise,
            "run": self._run,
            "lean": self._lean,
            "fresh": self._fresh,
            "seen": self.seen,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Regression:
        """The regression that :meth:`state` described, to the last bit."""
        made = cls(state["guess"])
        made._prior, made._information = np.array(state["prior"]), np.array(state["information"])
        made._factors, made._noise = np.array(state["factors"]), float(state["noise"])
        made._run, made.seen = int(state["run"]), int(state["seen"])
        # States of releases before these two were kept go on as if no drift had been seen.
        made._lean, made._fresh = float(state.get("lean", 0.0)), int(state.get("fresh", made.seen))
        return made


def _solved(matrix: Vector, row: Vector) -> Vector:
    """``matrix^-1 row`` of a symmetric positive definite matrix of one or two rows, written out: it is asked for a
    dozen times an order, and a library's call for it takes longer than all else here.

    One step of elimination, in the order of the larger pivot, as LU with partial pivoting would do it::

        m = c / a,  y = (r2 - m r1) / (d - m b),  x = (r1 - b y) / a     for [[a, b], [c, d]] [x, y] = [r1, r2]
    """
    if len(row) == 1:
        made: Vector = row / matrix[0, 0]
        return made
    (a, b), (c, d) = matrix.tolist()
    first, second = row.tolist()
    if abs(c) > abs(a):
        a, b, first, c, d, second = c, d, second, a, b, first
    factor = c / a
    y = (second - factor * first) / (d - factor * b)
    return np.array([(first - b * y) / a, y])
