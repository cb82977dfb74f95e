"""Costs that are linear in a few counts, learnt one observation at a time.

Bayesian linear regression in the information form, with three safeguards:

* **Outliers** pull with the weight of Huber's loss (Huber, "Robust estimation of a location parameter", Ann. Math.
  Stat. 1964): beyond :data:`HUBER` standard deviations the pull no longer grows.
* **Change.** Old observations fade by :data:`FORGETTING` towards the prior's certainty, not towards none, so that a
  direction that is never excited (always the same number of steps) stays bounded. A run of outliers on one side is
  a change and not bad luck: certainty is then dropped at once.
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
        self._information = FORGETTING * self._information + (1 - FORGETTING) * self._prior
        expected = float(row @ self._factors)
        # Never surer than a thousandth of the guess: the information must stay invertible, whatever the counts.
        least = _LEAST_SHARE * float(row.sum())
        noise2 = max(self._noise * expected, least) ** 2 + uncertainty**2
        doubt2 = float(row @ np.linalg.solve(self._information, row))
        z = (y - expected) / math.sqrt(noise2 + doubt2)
        self._follow_change(z)
        if self._run == 0:
            doubt2 = float(row @ np.linalg.solve(self._information, row))
        # A first guess may be wrong by far more than it says: the first figures are no outliers of it.
        pull = (
            1.0
            if self.seen < _TRUSTED
            else min(1.0, HUBER * math.sqrt(noise2 + doubt2) / max(abs(y - expected), 1e-300))
        )
        self._information = self._information + pull * np.outer(row, row) / noise2
        self._factors = self._factors + np.linalg.solve(self._information, row) * (pull * (y - expected) / noise2)
        share = noise2 / (noise2 + doubt2)
        excess = min(z * z, HUBER**2) / _CLIPPED_SQUARE - 1.0
        self._noise = min(_MOST_NOISE, max(_LEAST_NOISE, self._noise * math.exp(_NOISE_RATE * share * excess)))
        self.seen += 1
        return z

    def _follow_change(self, z: float) -> None:
        outlier = int(math.copysign(1, z)) if abs(z) > HUBER else 0
        self._run = self._run + outlier if outlier * self._run >= 0 and outlier else outlier
        if abs(self._run) >= _CHANGE_RUN:
            self._information, self._run = self._prior.copy(), 0

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
        variance = max(0.0, float(row @ np.linalg.solve(self._information, row)))
        return Estimate(mean, math.sqrt(variance + (self._noise * mean) ** 2 * single))

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "guess": self.guess.tolist(),
            "prior": self._prior.tolist(),
            "information": self._information.tolist(),
            "factors": self._factors.tolist(),
            "noise": self._noise,
            "run": self._run,
            "seen": self.seen,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Regression:
        """The regression that :meth:`state` described, to the last bit."""
        made = cls(state["guess"])
        made._prior, made._information = np.array(state["prior"]), np.array(state["information"])
        made._factors, made._noise = np.array(state["factors"]), float(state["noise"])
        made._run, made.seen = int(state["run"]), int(state["seen"])
        return made
