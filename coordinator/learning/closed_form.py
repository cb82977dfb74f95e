"""A linear head from exact statistics alone: no gradient, no step, no second round.

With n_k, s_k and G of :mod:`protos.statistics.moments`, mu_k = s_k / n_k and the pooled within-class covariance
``S = (G - sum of n_k mu_k mu_k^T) / n``:

* ``lda``, Gaussians with one covariance (Fisher 1936; as a federated head GH-OFL, arXiv 2602.01186): with
  ``R = S + lambda tr(S) / d I``, kernel ``R^-1 mu_k``, bias ``log prior_k - mu_k^T R^-1 mu_k / 2``.
* ``ridge``, least squares onto the classes (Fed3R, arXiv 2406.01116), with an intercept that is not shrunk:
  ``(T + lambda tr(T) / d I)^-1`` of the covariance with the targets, T the total covariance.

How much to shrink is chosen by held-out data, or by leaving devices out, from the same statistics.
What the others say is a Gaussian for
every class, and the statistics of those left out say exactly how far their examples lie from it: their scatter about
the others' means, ``G_out - sum(s_k mu_k^T + mu_k s_k^T) + sum(n_k mu_k mu_k^T)``. With the margins that it gives,
the chance of a mistake between two classes is that of a normal distribution; the least sum over all pairs wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import EmptyShardError, NonFiniteError
from protos.statistics.moments import Moments, nothing, total

Reals = npt.NDArray[np.float64]

HEADS = ("lda", "ridge")
PRIORS = ("data", "uniform")
SHRINKAGES = tuple(10.0 ** (half / 2) for half in range(-8, 3))
# With one device nobody can be left out. Between the best of wide and narrow embeddings, none of which it misses by
# more than a point.
ALONE = 0.1
# Embeddings have heavier tails than Gaussians, so that lda is surer of itself than it may be: what fitted held-out data
# best was 0.17 to 0.7 on real ones. Scores of ridge lie about 1 apart, whatever the data.
_TEMPERATURES = {"lda": (0.25, 0.75), "ridge": (3.0, 30.0)}
# Leaving out more groups than this costs work and hardly changes what is chosen.
MAX_GROUPS = 5


@dataclass(frozen=True)
class LinearHead:
    """Class scores ``z @ kernel + bias`` of embeddings less their offset, in units of their last digit.

    Attributes:
        kernel: [D, C]
        bias: [C]
        shrinkage: lambda.
        expected_errors: by lambda, what it was chosen by, least of all: the share of mistakes on held-out data, or a
            sum over pairs of classes; empty where it was given.
        temperature: what the scores were multiplied with, so that their softmax is a probability.
        chosen: how the shrinkage came about, in words.
        total_moments: mean [D] and covariance [D, D] of all embeddings, classes taken together.
    """

    kernel: Reals
    bias: Reals
    shrinkage: float
    expected_errors: tuple[tuple[float, float], ...] = ()
    temperature: float = 1.0
    head: str = "lda"
    chosen: str = "given"
    total_moments: tuple[Reals, Reals] = (np.zeros(0), np.zeros((0, 0)))


def solve(
    parts: Sequence[Moments],
    *,
    head: str = "lda",
    priors: str = "data",
    shrinkage: float | None = None,
    accuracy: Callable[[Reals, Reals], float] | None = None,
) -> LinearHead:
    """The head of the sum of all parts.

    Args:
        parts: one for each device. Only the choice of the shrinkage sees that there are several.
        head: one of HEADS.
        priors: "data", as frequent as they are, or "uniform".
        shrinkage: lambda; None: chosen.
        accuracy: of a kernel and a bias on held-out data: the best wins, of equal ones the most shrunk. None: devices
            are left out.

    Raises:
        EmptyShardError: fewer than two classes have an example.
    """
    whole = total(list(parts), parts[0].classes, parts[0].width) if parts else None
    if whole is None or int((whole.counts > 0).sum()) < 2:
        raise EmptyShardError(
            "a head needs examples of two classes or more, and the devices together have them of "
            f"{0 if whole is None else int((whole.counts > 0).sum())}",
            fix="start devices that have other classes",
        )
    groups = grouped(parts)
    spectrum = _Spectrum.of(whole, head)
    found: tuple[tuple[float, float], ...] = ()
    chosen = "given"
    if shrinkage is None and accuracy is not None:
        found = tuple(
            (each_shrinkage, 1.0 - accuracy(*spectrum.head_of(priors, each_shrinkage))) for each_shrinkage in SHRINKAGES
        )
        shrinkage, chosen = min(found, key=lambda pair: (pair[1], -pair[0]))[0], "chosen by held-out data"
    elif shrinkage is None:
        found = leave_out(groups, head, priors) if len(groups) > 1 else ()
        shrinkage = min(found, key=lambda pair: pair[1])[0] if found else ALONE
        chosen = "chosen by leaving out devices" if found else "taken, since one device alone cannot be left out"
    kernel, bias = spectrum.head_of(priors, shrinkage)
    # Whoever has held-out data calibrates by them.
    factor = temperature(groups, head, priors, shrinkage) if len(groups) > 1 and accuracy is None else 1.0
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise NonFiniteError("the closed form has no finite solution", fix="set train.shrinkage to 0.1 or more")
    return LinearHead(kernel * factor, bias * factor, shrinkage, found, factor, head, chosen, _total_moments(whole))


def _total_moments(whole: Moments) -> tuple[Reals, Reals]:
    n = float(whole.examples)
    middle = whole.sums.sum(axis=0) / n
    covariance: Reals = whole.square() / n - np.outer(middle, middle)
    return middle, covariance


def grouped(parts: Sequence[Moments]) -> list[Moments]:
    """The parts in at most MAX_GROUPS groups of devices, about equal in examples, whatever their order."""
    filled = sorted((part for part in parts if part.examples), key=_place)
    if len(filled) <= MAX_GROUPS:
        return filled
    groups = [nothing(filled[0].classes, filled[0].width) for _ in range(MAX_GROUPS)]
    for moments in filled:
        smallest = min(range(MAX_GROUPS), key=lambda at: groups[at].examples)
        groups[smallest] = groups[smallest] + moments
    return groups


def _place(moments: Moments) -> tuple[int, bytes, bytes]:
    return -moments.examples, moments.counts.tobytes(), moments.sums.tobytes()


def leave_out(groups: Sequence[Moments], head: str, priors: str) -> tuple[tuple[float, float], ...]:
    """By shrinkage, the expected mistakes between two classes on examples of groups that were left out."""
    errors = np.zeros(len(SHRINKAGES))
    for margins in _margins(groups, head, priors, SHRINKAGES):
        for at, (share, mean, deviation) in enumerate(margins):
            errors[at] += float((share * _tail(mean / deviation)).sum())
    return tuple(zip(SHRINKAGES, errors.tolist(), strict=True))


def temperature(groups: Sequence[Moments], head: str, priors: str, shrinkage: float) -> float:
    """What to multiply scores with so that their softmax fits examples that were left out.

    Between two Gaussians whose scores differ by ``m`` on average, with deviation ``s``, on either side, the log odds
    are ``2 m / s**2`` times the difference. Pairs count by how often they are mistaken.
    """
    above = below = 0.0
    for ((share, mean, deviation),) in _margins(groups, head, priors, (shrinkage,)):
        apart = (mean > 0) & (deviation > 0)
        # Least squares of 2 m / s**2 over pairs, in units of the margin's own spread.
        weight = share * np.exp(-0.5 * np.minimum((mean / deviation) ** 2, 1400.0))
        above += float((weight * 2 * mean)[apart].sum())
        below += float((weight * deviation**2)[apart].sum())
    factor = above / below if below > 0 and above > 0 else 1.0
    lowest, highest = _TEMPERATURES[head]
    return min(highest, max(lowest, factor))


def _margins(
    groups: Sequence[Moments], head: str, priors: str, shrinkages: Sequence[float]
) -> list[list[tuple[Reals, Reals, Reals]]]:
    """For each group that is left out, by shrinkage: share, mean and deviation of the margin, each [C, C].

    A margin (k, j) is the score of k less that of j, on examples of k. The share of a pair is 0 where k is j, or where
    one of the two has no example among the others.
    """
    whole = total(list(groups), groups[0].classes, groups[0].width)
    made = []
    for out in groups:
        rest = whole - out
        if int((rest.counts > 0).sum()) < 2 or not out.examples:
            continue
        spectrum = _Spectrum.of(rest, head)
        # A class that only those left out have says nothing of the others' means.
        known = (rest.counts > 0) & (out.counts > 0)
        if not known.any():
            continue
        scatter, seen = _scatter_about(out, spectrum.means, rest.counts > 0)
        turned = spectrum.vectors.T @ scatter @ spectrum.vectors / max(1.0, seen)
        prior = _priors(rest, "data" if priors == "data" else "uniform")
        pairs = np.outer(out.counts / out.examples * known if priors == "data" else prior * known, rest.counts > 0)
        np.fill_diagonal(pairs, 0.0)
        row = []
        for shrinkage in shrinkages:
            kernel, bias = spectrum.turned_head(priors, shrinkage)
            score = spectrum.turned_means @ kernel + bias[None, :]
            mean = score.diagonal()[:, None] - score
            spread = kernel.T @ turned @ kernel
            own = spread.diagonal()
            deviation = np.sqrt(np.maximum(own[:, None] + own[None, :] - 2 * spread, 1e-300))
            row.append((pairs, np.where(pairs > 0, mean, 0.0), deviation))
        made.append(row)
    return made


def _scatter_about(moments: Moments, means: Reals, known: npt.NDArray[np.bool_]) -> tuple[Reals, float]:
    """The scatter of examples about given class means, and of how many. Examples of other classes count about their
    own mean."""
    counts, sums = moments.counts.astype(np.float64), moments.sums.astype(np.float64)
    own = sums / np.maximum(counts, 1.0)[:, None]
    about = np.where(known[:, None], means, own)
    crossed = sums.T @ about
    scatter = moments.square() - crossed - crossed.T + (about * counts[:, None]).T @ about
    return scatter, float(counts.sum())


def _priors(moments: Moments, kind: str) -> Reals:
    """[C], summing to 1; 0 for a class without an example."""
    there = moments.counts > 0
    weights = moments.counts.astype(np.float64) if kind == "data" else there.astype(np.float64)
    priors: Reals = weights / weights.sum()
    return priors


def _tail(values: Reals) -> Reals:
    """The chance that a standard normal number is below -value."""
    found: Reals = np.vectorize(lambda one: 0.5 * math.erfc(one / math.sqrt(2)), otypes=[np.float64])(values)
    return found


def calibrated(scores: Reals, labels: npt.NDArray[np.int32]) -> float:
    """What to multiply scores [N, C] with so that their softmax fits these labels [N] best: the least mean
    cross-entropy, by golden section over the logarithm; the loss has one minimum in it."""
    rows = np.arange(len(labels))

    def loss(power: float) -> float:
        scaled = scores * 2.0**power
        scaled -= scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).mean())

    low, high = -10.0, 10.0
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(40):
        inner, outer = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, outer) if loss(inner) <= loss(outer) else (inner, high)
    return float(2.0 ** ((low + high) / 2))


@dataclass(frozen=True)
class _Spectrum:
    """Everything of a sum that does not depend on the shrinkage.

    Attributes:
        moments: the sum.
        head: one of HEADS.
        means: [C, D] of the classes.
        values, vectors: of the covariance that is inverted: within classes for lda, of all for ridge.
        turned_means: [C, D] the means in these directions.
    """

    moments: Moments
    head: str
    means: Reals
    middle: Reals
    values: Reals
    vectors: Reals
    turned_means: Reals

    @staticmethod
    def of(moments: Moments, head: str) -> _Spectrum:
        counts, sums = moments.counts.astype(np.float64), moments.sums.astype(np.float64)
        n = counts.sum()
        means = sums / np.maximum(counts, 1.0)[:, None]
        middle = sums.sum(axis=0) / n
        if head == "lda":
            covariance = (moments.square() - sums.T @ means) / n
        else:
            covariance = moments.square() / n - np.outer(middle, middle)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        return _Spectrum(moments, head, means, middle, np.maximum(values, 0.0), vectors, means @ vectors)

    def head_of(self, priors: str, shrinkage: float) -> tuple[Reals, Reals]:
        kernel, bias = self.turned_head(priors, shrinkage)
        return self.vectors @ kernel, bias

    def turned_head(self, priors: str, shrinkage: float) -> tuple[Reals, Reals]:
        """Kernel [D, C], in the directions of :attr:`vectors`, and bias [C]. A class without an example is never
        chosen by more than chance: its score is below all others' at every known mean."""
        counts = self.moments.counts.astype(np.float64)
        prior = _priors(self.moments, priors)
        mean_value = float(self.values.mean())
        # Embeddings that never vary have nothing to be divided by.
        shrunk = self.values + shrinkage * (mean_value if mean_value > 0 else 1.0)
        there = counts > 0
        if self.head == "lda":
            kernel = (self.turned_means / shrunk[None, :]).T
            bias = np.log(np.maximum(prior, 1e-12)) - 0.5 * (self.turned_means.T * kernel).sum(axis=0)
        else:
            turned_middle = self.middle @ self.vectors
            # Classes weigh by their priors: n_k / n for "data".
            kernel = (prior[:, None] * (self.turned_means - turned_middle) / shrunk[None, :]).T
            bias = prior - turned_middle @ kernel
        if not there.all():
            kernel = np.where(there[None, :], kernel, 0.0)
            lowest = (self.turned_means[there] @ kernel[:, there] + bias[there]).min()
            bias = np.where(there, bias, lowest - 10.0 if self.head == "lda" else lowest - 1.0)
        return kernel, bias
