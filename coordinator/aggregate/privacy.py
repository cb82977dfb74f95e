"""Device-level differential privacy of the head: each device's change is bounded, and noise hides any one of them.

With C the plan's ``clip``, z its ``noise`` and n the devices that really took part in a round:

    D = (sum of min(1, C / |x_i|) x_i + N(0, (z C)^2 I)) / n

Whether one device's change is in the sum or zero moves it by at most C, so that a round is a Gaussian mechanism with
noise multiplier z whatever n is. A device that took part in T rounds is in T of them, and T Gaussian mechanisms are
together exactly one with z / sqrt(T) (Dong, Roth, Su: "Gaussian differential privacy", JRSS B 2022, corollary 3.3),
whose (epsilon, delta) are (Balle and Wang, ICML 2018, theorem 8), with mu = sqrt(T) / z and Phi the normal
distribution:

    delta(epsilon) = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)

This is exact and not a bound, so that no accountant that composes numerically can be nearer. That devices are drawn at
random (``round.sample``) makes the true epsilon smaller; it is not counted, since who is present is nobody's secret.

What is protected is a device's contribution to the published heads, from everyone who sees them. The coordinator itself
sees single changes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping

import numpy as np

from coordinator.aggregate.mean import Wide
from protos.update.trees import Tree, norm

__all__ = ["MOST_EPSILON", "clipped", "delta_of", "epsilon_of", "noisy", "rounds_within"]

# Nothing is private beyond it, and e^epsilon still fits in a float.
MOST_EPSILON = 500.0
_MOST_ROUNDS = 1 << 31


def clipped(update: Tree, clip: float) -> Tree:
    """The same direction, at most ``clip`` long: float32, |x| over all tensors in float64."""
    size = norm(update)
    if size <= clip:
        return update
    # Rounding to float32 must not lead beyond the bound again.
    factor = clip / size * (1.0 - 1e-6)
    return {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in update.items()}


def noisy(mean: Mapping[str, np.ndarray], clip: float, noise: float, devices: float) -> Wide:
    """The mean of ``devices`` changes with N(0, (noise clip / devices)^2) in each coordinate. It is from the system's
    entropy: who knows the plan's seed must not know it, and it is another each time."""
    random = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
    deviation = noise * clip / devices
    return {name: value + deviation * random.standard_normal(value.shape) for name, value in sorted(mean.items())}


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def delta_of(epsilon: float, noise: float, rounds: int) -> float:
    """The least delta of ``rounds`` rounds at this epsilon; see the module."""
    mu = math.sqrt(rounds) / noise
    return max(0.0, _phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * _phi(-mu / 2 - epsilon / mu))


def epsilon_of(noise: float, rounds: int, delta: float) -> float:
    """The least epsilon of ``rounds`` rounds at this delta; infinite beyond :data:`MOST_EPSILON`.

    >>> round(epsilon_of(1.0, 1, 1e-5), 3), epsilon_of(1.0, 0, 1e-5)
    (4.377, 0.0)
    """
    if rounds <= 0 or delta_of(0.0, noise, rounds) <= delta:
        return 0.0
    if delta_of(MOST_EPSILON, noise, rounds) > delta:
        return math.inf
    low, high = 0.0, MOST_EPSILON
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, noise, rounds) > delta else (low, middle)
    return high


def rounds_within(noise: float, epsilon: float, delta: float) -> int:
    """In how many rounds a device may take part before its epsilon is spent.

    >>> rounds_within(1.0, 4.4, 1e-5), rounds_within(1.0, 1.0, 1e-5)
    (1, 0)
    """
    low, high = 0, 1
    while high < _MOST_ROUNDS and epsilon_of(noise, high, delta) <= epsilon:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon_of(noise, middle, delta) <= epsilon else (low, middle)
    return low
