"""A head for one device: the fleet's, moved towards the device's own examples as far as these say that it pays.

Fine-tuning the fleet's head on the few examples of one device makes it worse as often as better. So nothing is taken
on trust: the device's training examples are divided into folds, every candidate is made without a fold and judged on
it, and the fleet's head stays unless a candidate is better by more than chance. Candidates, on frozen features x
(standardised, a one added for the bias, d + 1 wide), K classes:

steps       proximal gradient steps from the fleet's head, stopped after so many passes, and mixed back:
            W = W_fleet + a (W_steps - W_fleet) (proximal term of FedProx, arXiv:1812.06127; mixing as in
            Mansour et al. 2020, arXiv:2002.10619)
statistics  one Newton step in closed form, with the fleet's statistics beside the device's own:
            W = W_fleet + (G_own + w G_fleet / n_fleet)^-1 X^T (Y - P),    P = softmax(X W_fleet)
            G the Gram matrices of x. The fleet counts as w examples; as w grows, nothing moves.

The head with the least mean cross-entropy over folds is chosen among those that are better than the fleet's head by
more than ``CAUTION`` standard errors of the examples' paired differences, in cross-entropy and in right answers both.
It is then made again of all examples.

Linear heads only. Everything is float64 numpy: a few dozen small systems of equations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import EmptyShardError, ShapeError
from protos.model.head_algebra import Array, Tree

Reals = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]

FOLDS = 4
CAUTION = 2.0
# Fewer examples than this tell nothing about a head.
LEAST_EXAMPLES = 16
WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0)
PASSES = (1, 2, 4, 8, 16)
MIXES = (0.25, 0.5, 1.0)
RATE, PROXIMAL_MU, BATCH = 0.05, 0.1, 32


@dataclass(frozen=True)
class Candidate:
    """One way to a personal head; ``fleet`` is to leave it.

    Attributes:
        kind: "fleet", "steps" or "statistics"; of `personal_means`, "means".
        passes, mix: of steps; mix also of means, what their scores are multiplied with.
        weight: of statistics, and of the fleet's means.
    """

    kind: str
    passes: int = 0
    mix: float = 1.0
    weight: float = 0.0

    def in_words(self) -> str:
        """For a log."""
        if self.kind == "steps":
            return f"{self.passes} passes, mixed {self.mix:g}"
        if self.kind == "means":
            return f"own means times {self.mix:g}, the fleet's count as {self.weight:g} examples of a class"
        return f"statistics, the fleet's count as {self.weight:g} examples" if self.kind == "statistics" else "fleet"


FLEET = Candidate("fleet")


@dataclass(frozen=True)
class Personal:
    """What came of it.

    Attributes:
        tree: the device's head, of the shapes of the fleet's.
        candidate: how it was made.
        gain: mean cross-entropy that it is expected to save on the device's own examples, nats; 0 for the fleet's.
        error: standard error of that.
        share: of heads of the device's own in it; 0: the fleet's.
    """

    tree: Tree
    candidate: Candidate
    gain: float
    error: float
    share: float = 0.0


def candidates(kinds: Sequence[str]) -> list[Candidate]:
    """Every candidate of these kinds, the fleet's head first."""
    found = [FLEET]
    if "steps" in kinds:
        found += [Candidate("steps", passes, mix) for passes in PASSES for mix in MIXES]
    if "statistics" in kinds:
        found += [Candidate("statistics", weight=weight) for weight in WEIGHTS]
    return found


def features_gram(x: Array) -> Reals:
    """Sum of x x^T with a one added to each x: what ``statistics`` needs of the fleet, over all examples, by n."""
    wide = _wide(np.asarray(x, np.float64))
    gram: Reals = wide.T @ wide
    return gram


def gram_of_sums(gram: Reals, total: Reals, count: int, mean: Array, scale: Array) -> Reals:
    """The same from sums over plain features: ``sum z z^T`` [D, D], ``sum z`` [D], for x = (z - mean) * scale."""
    middle, factor = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
    centred = gram - np.outer(total, middle) - np.outer(middle, total) + count * np.outer(middle, middle)
    corner = (total - count * middle) * factor
    wide = np.empty((len(middle) + 1, len(middle) + 1))
    wide[:-1, :-1] = centred * np.outer(factor, factor)
    wide[:-1, -1] = wide[-1, :-1] = corner
    wide[-1, -1] = count
    return wide


def personalise(
    fleet: Mapping[str, Array], x: Array, y: Labels, *, kinds: Sequence[str] = ("steps", "statistics"),
    fleet_gram: Reals | None = None, fleet_examples: int = 0, seed: int = 0, caution: float = CAUTION,
) -> Personal:  # fmt: skip
    """The head of one device.

    Args:
        fleet: linear head as it travels.
        x: float32 [N, D] standardised features of the device's training examples.
        y: int32 [N].
        kinds: of candidates, beside the fleet's head.
        fleet_gram: [D + 1, D + 1] of :func:`features_gram`, over ``fleet_examples``; needed by "statistics".
        caution: standard errors by which a candidate must be better; 0: whatever is best on the folds.

    Raises:
        ShapeError: a head with a hidden layer, or arrays that do not fit it.
        EmptyShardError: "statistics" without the fleet's.
    """
    if "hidden_kernel" in fleet:
        raise ShapeError("a personal head is linear, and this one has a hidden layer")
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    wide = _wide(np.asarray(x, np.float64))
    if wide.shape[1] != start.shape[0] or len(y) != len(wide):
        raise ShapeError(f"features of shape {list(x.shape)} and {len(y)} labels for a head of {len(start) - 1} inputs")
    if "statistics" in kinds and (fleet_gram is None or fleet_examples < 1):
        raise EmptyShardError("a head by statistics needs those of the fleet", fix="leave the kind out")
    everyone = candidates(kinds)
    prior = None if fleet_gram is None else fleet_gram / fleet_examples
    if len(wide) < LEAST_EXAMPLES:
        return Personal(_tree(start), FLEET, 0.0, 0.0)
    losses = np.empty((len(everyone), len(wide)))
    right = np.empty((len(everyone), len(wide)), np.bool_)
    order = np.random.default_rng([seed, 0x9E]).permutation(len(wide))
    for out in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, out)
        for at, made in enumerate(_made(everyone, start, wide[rest], y[rest], prior, seed)):
            scores = wide[out] @ made
            losses[at, out] = _losses(scores, y[out])
            right[at, out] = scores.argmax(axis=1) == y[out]
    saved = losses[0] - losses
    gains, errors = saved.mean(axis=1), saved.std(axis=1, ddof=1) / math.sqrt(len(wide))
    # Where the two heads differ: examples that only one of them has right (McNemar 1947). Were they equally good, the
    # difference of the two counts would have the square root of their sum as its deviation.
    won, lost = (right & ~right[0]).sum(axis=1), (~right & right[0]).sum(axis=1)
    better = won - lost >= caution * np.sqrt(won + lost)
    worth = np.where((gains > caution * errors) & better, gains, 0.0)
    best = int(np.argmax(worth))
    (tree,) = _made([everyone[best]], start, wide, y, prior, seed)
    return Personal(_tree(tree), everyone[best], float(gains[best]), float(errors[best]), float(best > 0))


def _wide(x: Reals) -> Reals:
    return np.hstack([x, np.ones((len(x), 1))])


def _tree(wide: Reals) -> Tree:
    return {"out_bias": wide[-1].astype(np.float32), "out_kernel": np.ascontiguousarray(wide[:-1], np.float32)}


def _losses(scores: Reals, y: Labels) -> Reals:
    """Cross-entropy of each example, nats."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    found: Reals = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return found


def _residual(scores: Reals, y: Labels) -> Reals:
    """Y - P: minus the slope of the cross-entropy by the scores."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    residual: Reals = -shifted / shifted.sum(axis=1, keepdims=True)
    residual[np.arange(len(y)), y] += 1.0
    return residual


def _made(
    wanted: Sequence[Candidate], start: Reals, x: Reals, y: Labels, prior: Reals | None, seed: int
) -> list[Reals]:
    """The heads of these candidates from the same examples; steps are taken once for all of them."""
    stops = {candidate.passes for candidate in wanted if candidate.kind == "steps"}
    walked = _walk(start, x, y, stops, seed) if stops else {}
    found = []
    for candidate in wanted:
        if candidate.kind == "steps":
            found.append(start + candidate.mix * (walked[candidate.passes] - start))
        elif candidate.kind == "statistics":
            assert prior is not None
            found.append(
                start + np.linalg.solve(x.T @ x + candidate.weight * _firm(prior), x.T @ _residual(x @ start, y))
            )
        else:
            found.append(start)
    return found


def _firm(prior: Reals) -> Reals:
    """With a thousandth of its mean on the diagonal: features that are dead in the fleet may not divide by zero."""
    return prior + 1e-3 * float(np.trace(prior)) / len(prior) * np.eye(len(prior))


def _walk(start: Reals, x: Reals, y: Labels, stops: set[int], seed: int) -> Mapping[int, Reals]:
    """The head after so many passes of w <- w - rate (slope + mu (w - start)), batches in an order of the seed."""
    random = np.random.default_rng([seed, 0x57])
    head, found = start.copy(), {}
    for number in range(1, max(stops) + 1):
        order = random.permutation(len(x))
        for first in range(0, len(x), BATCH):
            rows = order[first : first + BATCH]
            slope = -x[rows].T @ _residual(x[rows] @ head, y[rows]) / len(rows)
            head = head - RATE * (slope + PROXIMAL_MU * (head - start))
        if number in stops:
            found[number] = head.copy()
    return found
