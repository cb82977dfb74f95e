"""A head for one device from its own class means beside the fleet's, in closed form.

A device's few examples are of a few classes; tomorrow's are of others too. Fine-tuning on them teaches the head above
all which classes the device has had so far, and that is what it loses by: of the held-out examples of FEMNIST's writers
every fourth is of a class that the writer's own training examples lack. So here nothing is learned from how often a
class occurs. Own statistics move the means of classes, and the rest stays the fleet's: how classes are spread, and
their shares. With x standardised features, n_k of the device's n examples of class k, m_k and p_k means and shares of
the fleet's classes:

    s    = sum (x - m_y) / (n + 10)                      how all of the device's examples differ: its style
    m'_k = (w (m_k + s) + sum of own x of k) / (w + n_k) the fleet's mean, so shifted, counts as w examples
    S    = (G - sum_k N_k m_k m_k^T) / N                 spread within classes, over the fleet's N examples
    W    = W_fleet + a [S^-1 m'_k;  log p_k - m'_k^T S^-1 m'_k / 2]

The bracket is the linear discriminant of these means; added to the scores of the fleet's head it is a product of two
experts, the second with a weight of a (log-linear pool: Genest & Zidek 1986). A class that the device lacks keeps a
mean of its own by s.

Candidates are pairs of a and w. Each is judged on the device's own examples twice, made without them: folds of
examples, and folds of classes, so that a class is judged by a head that never saw it. The second counts as much as
chance has it that the next example is of a new class, the share of the classes seen once, N_1 / n (Good 1953). Judged
is by cross-entropy at the temperature that suits each head best, the fleet's too: that scores have become larger is no
merit.

Of candidates, the fleet's head among them, the device gets the mean, each weighed by exp(-L_c / 4), L_c its summed loss
in nats on what it was made without (exponentially weighted aggregation: Leung & Barron 2006, Dalalyan & Tsybakov 2008).
A device of few examples cannot tell candidates apart: their mean loses less than the one that happens to look best, and
by the convexity of cross-entropy never more than they do on average. What does not pay weighs little.

Linear heads only. Everything is float64 numpy: one inverse, and a product for each candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import EmptyShardError, ShapeError
from protos.model.head_algebra import Array, Tree
from protos.model.head_kinds.personal import FLEET, FOLDS, LEAST_EXAMPLES, Candidate, Personal, Reals, gram_of_sums

# Chosen with the temperature on writers whom no figure of docs/results/personal.md judges.
WEIGHTS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
MIXES = (0.05, 0.1, 0.2)
# Nats of summed cross-entropy by which a candidate may be worse before it weighs 1 / e of another.
TEMPERATURE_NATS = 4.0
_SHIFT_HELD_BACK = 10.0
# Of the mean spread, on the diagonal of S: features that are dead in the fleet may not divide by zero.
_FLOOR = 1e-2
_TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FleetSums:
    """What a round of statistics leaves of the fleet, over x: standardised features and a one, D + 1 wide.

    Attributes:
        gram: [D + 1, D + 1], sum of x x^T.
        by_class: [K, D + 1], sum of x by class; the last column is how many there are.
    """

    gram: Reals
    by_class: Reals

    @classmethod
    def of_plain(cls, square: Reals, sums: Reals, counts: Reals, mean: Array, scale: Array) -> FleetSums:
        """From sums over plain features, for x = (z - mean) * scale.

        Args:
            square: sum of z z^T, [D, D].
            sums: of z by class, [K, D].
            counts: of examples by class, [K].
        """
        count = np.asarray(counts, np.float64)
        moved = (np.asarray(sums, np.float64) - np.outer(count, mean)) * np.asarray(scale, np.float64)
        gram = gram_of_sums(square, np.asarray(sums, np.float64).sum(axis=0), int(count.sum()), mean, scale)
        return cls(gram, np.hstack([moved, count[:, None]]))

    @property
    def examples(self) -> float:
        """How many there are."""
        return float(self.by_class[:, -1].sum())

    def shares(self) -> Reals:
        """[K] of classes; a class that nobody has counts as one example."""
        counts = np.maximum(self.by_class[:, -1], 1.0)
        found: Reals = counts / counts.sum()
        return found

    def means(self) -> Reals:
        """[K, D + 1] of x by class; where a class has none, that over all."""
        counts = self.by_class[:, -1:]
        whole = self.by_class.sum(axis=0) / self.examples
        found: Reals = np.where(counts > 0, self.by_class / np.maximum(counts, 1.0), whole)
        return found


def own_means(
    fleet: Mapping[str, Array], x: Array, y: Labels, sums: FleetSums, *, seed: int = 0, caution: float | None = None,
    weights: Sequence[float] = WEIGHTS, mixes: Sequence[float] = MIXES,
) -> Personal:  # fmt: skip
    """The head of one device: the fleet's moved as far as its own examples say that it pays.

    Args:
        fleet: linear head as it travels.
        x: float32 [N, D] standardised features of the device's training examples.
        y: int32 [N].
        caution: None: the mean of all candidates by their weights. A number: the one candidate that saves most, if
            by so many standard errors; 0: by however little.
        weights, mixes: w and a of candidates.

    Returns:
        With the mean, ``candidate`` has the mean mix and weight, ``gain`` is the mean of candidates' gains.

    Raises:
        ShapeError: a head with a hidden layer, or arrays that do not fit it.
        EmptyShardError: the fleet's sums are of no example.
    """
    if "hidden_kernel" in fleet:
        raise ShapeError("a personal head is linear, and this one has a hidden layer")
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    wide = np.hstack([np.asarray(x, np.float64), np.ones((len(x), 1))])
    if wide.shape[1] != start.shape[0] or len(y) != len(wide):
        raise ShapeError(f"features of shape {list(x.shape)} and {len(y)} labels for a head of {len(start) - 1} inputs")
    if sums.gram.shape != (len(start), len(start)) or sums.by_class.shape != (start.shape[1], len(start)):
        raise ShapeError(f"sums of shape {list(sums.gram.shape)} and {list(sums.by_class.shape)} for a head of "
                         f"{len(start) - 1} inputs and {start.shape[1]} classes")  # fmt: skip
    if sums.examples < 1:
        raise EmptyShardError("a personal head needs the fleet's sums, and these are of no example")
    if len(wide) < LEAST_EXAMPLES:
        return Personal(_tree(start), FLEET, 0.0, 0.0)
    maker = _Maker(start, sums, weights, mixes)
    # By class matters as far as the next example is of a class that the device has not had.
    counts = np.bincount(y, minlength=start.shape[1])
    new = float((counts == 1).sum()) / len(y)
    random = np.random.default_rng([seed, 0xCA])
    examples = np.array_split(random.permutation(len(y)), FOLDS)
    classes = [
        np.flatnonzero(np.isin(y, some)) for some in np.array_split(random.permutation(np.flatnonzero(counts)), FOLDS)
    ]
    losses = (1 - new) * maker.losses(wide, y, examples) + new * maker.losses(wide, y, classes)
    # [candidates, N], each at the temperature that suits it best.
    best_at = losses.mean(axis=2).argmin(axis=1)
    chosen = losses[np.arange(len(losses)), best_at]
    saved = chosen[0] - chosen
    gains, errors = saved.mean(axis=1), saved.std(axis=1, ddof=1) / math.sqrt(len(y))
    if caution is None:
        return _mean_of(maker, maker.experts(wide, y), gains, errors, len(y))
    worth = np.where(gains > caution * errors, gains, 0.0)
    worth[0] = 0.0
    best = int(np.argmax(worth))
    made = maker.head(maker.experts(wide, y), best)
    return Personal(_tree(made), maker.candidates[best], float(gains[best]), float(errors[best]), float(best > 0))


def _mean_of(maker: _Maker, experts: Reals, gains: Reals, errors: Reals, examples: int) -> Personal:
    shares = np.exp((gains - gains.max()) * examples / TEMPERATURE_NATS)
    shares /= shares.sum()
    own = maker.candidates[1:]
    mixes = shares[1:] * [one.mix for one in own]
    head = maker.start + np.tensordot(mixes.reshape(len(experts), -1).sum(axis=1), experts, axes=1)
    mix = float(mixes.sum())
    mean = FLEET
    if mix > 0:
        mean = Candidate("means", mix=mix, weight=float(mixes @ [one.weight for one in own]) / mix)
    return Personal(_tree(head), mean, float(shares @ gains), float(shares @ errors), float(shares[1:].sum()))


def fleet_means(fleet: Mapping[str, Array], sums: FleetSums, mix: float) -> Tree:
    """The same without any example of a device: the fleet's head with the discriminant of its own means, times mix.

    What :func:`own_means` gains over this is what the device's examples are good for.
    """
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    maker = _Maker(start, sums)
    experts = maker.experts(np.zeros((0, len(start))), np.zeros(0, np.int32))
    return _tree(start + mix * experts[0])


class _Maker:
    """All candidates from one start: the fleet's head, then each expert of :meth:`experts` with each mix."""

    def __init__(
        self, start: Reals, sums: FleetSums, weights: Sequence[float] = WEIGHTS, mixes: Sequence[float] = MIXES
    ) -> None:
        self.start, self.means, self.log_shares = start, sums.means()[:, :-1], np.log(sums.shares())
        counts = sums.by_class[:, -1]
        spread = (sums.gram[:-1, :-1] - (self.means * counts[:, None]).T @ self.means) / sums.examples
        # In place: a board has room for few matrices of this size.
        spread.flat[:: len(spread) + 1] += _FLOOR * max(float(np.trace(spread)) / len(spread), 1e-12)
        self.inverse: Reals = np.asarray(np.linalg.inv(spread), np.float64)
        self.weights, self.mixes = weights, mixes
        self.candidates = [FLEET, *(Candidate("means", mix=mix, weight=weight) for weight in weights for mix in mixes)]

    def experts(self, x: Reals, y: Labels) -> Reals:
        """[weights, D + 1, K]: the discriminants of these examples' means beside the fleet's."""
        classes = self.start.shape[1]
        own = np.zeros((classes, x.shape[1] - 1))
        np.add.at(own, y, x[:, :-1])
        counts = np.bincount(y, minlength=classes)[:, None]
        shift = (x[:, :-1] - self.means[y]).sum(axis=0) / (len(y) + _SHIFT_HELD_BACK)
        found = []
        for weight in self.weights:
            means = (weight * (self.means + shift) + own) / (weight + counts)
            kernel = self.inverse @ means.T
            bias = self.log_shares - 0.5 * (means.T * kernel).sum(axis=0)
            found.append(np.vstack([kernel, bias]))
        return np.stack(found)

    def head(self, experts: Reals, at: int) -> Reals:
        """[D + 1, K] of one candidate by its place in ``candidates``."""
        if at == 0:
            return self.start
        found: Reals = self.start + self.candidates[at].mix * experts[(at - 1) // len(self.mixes)]
        return found

    def losses(self, x: Reals, y: Labels, folds: list[npt.NDArray[np.int64]]) -> Reals:
        """[candidates, temperatures, N]: cross-entropy of each example, by heads made without its fold; nats."""
        found = np.zeros((len(self.candidates), len(_TEMPERATURES), len(y)))
        for out in folds:
            rest = np.setdiff1d(np.arange(len(y)), out)
            if not len(out):
                continue
            base = x[out] @ self.start
            # Where nothing is left, the device has but one class: no head of its own can be judged on it.
            by_expert = [x[out] @ expert for expert in self.experts(x[rest], y[rest])] if len(rest) else (
                [np.zeros_like(base)] * len(self.weights))  # fmt: skip
            for at, candidate in enumerate(self.candidates):
                scores = base if at == 0 else base + candidate.mix * by_expert[(at - 1) // len(self.mixes)]
                found[at][:, out] = [_losses(scores / temperature, y[out]) for temperature in _TEMPERATURES]
        return found


def _losses(scores: Reals, y: Labels) -> Reals:
    shifted = scores - scores.max(axis=1, keepdims=True)
    found: Reals = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return found


def _tree(wide: Reals) -> Tree:
    return {"out_bias": wide[-1].astype(np.float32), "out_kernel": np.ascontiguousarray(wide[:-1], np.float32)}
