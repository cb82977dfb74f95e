"""Rules that a few false reports cannot lead: all of a round's changes are held until it closes.

Let x_i be the n changes, w_i their weights, f of them perhaps false. In this order, each step as the plan has it:

    weight cap   w_i = min(w_i, cap * median w)
    norm clip    x_i = x_i * min(1, clip * median |x| / |x_i|)
    mixing       x_i = mean of the n - f changes nearest to x_i, itself among them,
                 and its weight the mean of theirs
                 (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, AISTATS 2023)

    mean               sum w x / sum w
    median             of each coordinate, weighted (Yin, Chen, Ramchandran, Bartlett, ICML 2018)
    trimmed_mean       of each coordinate without its f largest and f smallest values (the same)
    multi_krum         mean of the n - f changes whose n - f - 2 nearest are nearest in squares
                       (Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017)
    geometric_median   argmin of sum w |x - z|, by Weiszfeld's steps (Pillutla, Kakade, Harchaoui, IEEE TSP 2022)
    centred_clipping   v += sum w (x - v) min(1, tau / |x - v|) / sum w, from v = 0, five times, tau the median |x - v|
                       (Karimireddy, He, Jaggi, ICML 2021, where tau is given; no one tau suits every head)

Distances need inner products alone, so all but the two rules by coordinate work on the n x n Gram matrix, whatever the
size of the head. A codec's error is white and adds its power to the square of a change and to nothing else: taking that
power off the diagonal gives distances between what devices meant, in which a device that was ordered to send one bit a
coordinate is no farther away than one that sends eight. The power follows from the codec that was *ordered*, and is at
most that of a change of twice the median size, so that it is no lever for who sends a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coordinator.aggregate.mean import Wide
from protos.update.trees import FloatArray, Shapes, Tree, flattened, unflattened

__all__ = ["ROBUST_RULES", "Gathered", "Remark", "RobustSettings", "false_at_most"]

Reals = npt.NDArray[np.float64]

# Coordinates of all devices that are in memory as float64 at once.
_AT_ONCE = 1 << 15
_WEISZFELD_STEPS, _CLIPPING_STEPS = 64, 5
# Of a codec's error at most that of a change so many times the median size is taken off.
_TRUSTED_SIZE = 2.0
# A change that was cut to less than this of itself is told to operators.
_TOLD_BELOW = 0.5


@dataclass(frozen=True)
class RobustSettings:
    """What the plan says.

    Attributes:
        rule: a row of :data:`ROBUST_RULES`, or "mean".
        clip: times the median size of the round's changes; 0: not clipped.
        mix: whether each change is first replaced by the mean of those near it.
        malicious: share of the reports that may be false, 0 to 0.45.
        weight_cap: times the median weight; None: weights are as they are.
    """

    rule: str = "mean"
    clip: float = 0.0
    mix: bool = False
    malicious: float = 0.1
    weight_cap: float | None = None


@dataclass(frozen=True)
class Remark:
    """What was done to one device's change."""

    device_id: str
    text: str


def false_at_most(reports: int, malicious: float) -> int:
    """How many of so many reports may be false: rounded up, and always fewer than half.

    >>> [false_at_most(n, 0.1) for n in (1, 2, 3, 10, 25)]
    [0, 0, 1, 1, 3]
    """
    return max(0, min(math.ceil(malicious * reports - 1e-9), (reports - 1) // 2))


@dataclass
class Gathered:
    """The changes of a round, each a flat row.

    Attributes:
        errors: of the codec that each was ordered to use: E |decoded - x|^2 / |x|^2.
        remarks: after :meth:`finish`.
    """

    shapes: Shapes
    settings: RobustSettings
    fednova: bool
    names: list[str] = field(default_factory=list)
    rows: list[FloatArray] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    normalisers: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    remarks: tuple[Remark, ...] = ()

    def add(self, device_id: str, update: Tree, weight: float, normaliser: float, error: float) -> None:
        """Keep one change; nothing happens without weight or without steps.

        Args:
            update: float32, of :attr:`shapes`; it is copied.
            weight: above 0 to count.
            normaliser: FedNova's |a|_1, above 0 to count.
            error: see :attr:`errors`; 0 for a lossless codec, or one whose error is not white.
        """
        if not weight > 0 or not normaliser > 0:
            return
        row: FloatArray = flattened(update)
        if self.fednova:
            # Changes of unequal numbers of steps are compared, and folded, by what one step makes of them.
            row = row / np.float32(normaliser)
        self.rows.append(row)
        self.names.append(device_id)
        self.weights.append(weight)
        self.normalisers.append(normaliser)
        self.errors.append(error)

    def finish(self) -> Wide | None:
        """The change of the head, or None when nothing was kept. Changes nothing but :attr:`remarks`."""
        if not self.rows:
            return None
        count, settings = len(self.rows), self.settings
        false = false_at_most(count, settings.malicious)
        weights = say = _capped(np.array(self.weights), settings.weight_cap)
        meant = _meant(_gram(self.rows), np.array(self.errors))
        made_of: Reals = np.eye(count)
        if settings.clip:
            factors = _clip_factors(meant, settings.clip)
            self.remarks = tuple(
                Remark(
                    name, f"its change is {1 / factor:.3g} times the limit of {settings.clip:g} medians, and was cut"
                )
                for name, factor in zip(self.names, factors, strict=True)
                if factor < _TOLD_BELOW
            )
            made_of = np.diag(factors)
            meant = made_of @ meant @ made_of.T
        if settings.mix:
            near = _nearest_means(_squared_distances(meant), count - false)
            made_of, meant, say = near @ made_of, near @ meant @ near.T, near @ weights
        flat = _folded(self.rows, made_of, meant, say, false, settings.rule)
        if self.fednova:
            flat *= float(weights @ np.array(self.normalisers) / weights.sum())
        return unflattened(flat, self.shapes)


def _capped(weights: Reals, cap: float | None) -> Reals:
    return weights if cap is None else np.minimum(weights, cap * float(np.median(weights)))


def _blocks(rows: Sequence[FloatArray]) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, rows[0].size, _AT_ONCE)]


def _block(rows: Sequence[FloatArray], part: slice) -> Reals:
    return np.stack([row[part] for row in rows]).astype(np.float64)


def _gram(rows: Sequence[FloatArray]) -> Reals:
    """Inner products of all pairs, [n, n], summed in float64."""
    gram: Reals = np.zeros((len(rows), len(rows)))
    for part in _blocks(rows):
        block = _block(rows, part)
        gram += block @ block.T
    return gram


def _meant(gram: Reals, errors: Reals) -> Reals:
    """The Gram matrix less the power of each codec's own error: with E |decoded|^2 = (1 + e) |x|^2 that is
    e / (1 + e) of the square that was seen."""
    squares = np.diag(gram)
    trusted = np.minimum(squares, _TRUSTED_SIZE**2 * float(np.median(squares)))
    less: Reals = gram - np.diag(errors / (1.0 + errors) * trusted)
    return less


def _squared_distances(gram: Reals) -> Reals:
    """|x_i - x_j|^2 = G_ii + G_jj - 2 G_ij, at least 0."""
    squares = np.diag(gram)
    found: Reals = np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


def _clip_factors(gram: Reals, clip: float) -> Reals:
    """What each change is multiplied with, at most 1."""
    sizes = np.sqrt(np.maximum(np.diag(gram), 0.0))
    limit = clip * float(np.median(sizes))
    found: Reals = np.minimum(1.0, np.divide(limit, sizes, out=np.ones_like(sizes), where=sizes > 0))
    return found


def _nearest_means(distances: Reals, kept: int) -> Reals:
    """Row i says of which changes, and how, the mean of the ``kept`` nearest to x_i is made."""
    count = len(distances)
    made: Reals = np.zeros((count, count))
    for row in range(count):
        by_distance = distances[row].copy()
        by_distance[row] = -1.0  # a change is nearest to itself
        made[row, np.argsort(by_distance, kind="stable")[:kept]] = 1.0 / kept
    return made


def _distances_to(gram: Reals, shares: Reals) -> Reals:
    """|x_i - z| for z = sum of shares_j x_j."""
    squares = np.diag(gram) - 2.0 * (gram @ shares) + shares @ gram @ shares
    found: Reals = np.sqrt(np.maximum(squares, 0.0))
    return found


def _mean(gram: Reals, weights: Reals, false: int) -> Reals:
    shares: Reals = weights / weights.sum()
    return shares


def _multi_krum(gram: Reals, weights: Reals, false: int) -> Reals:
    count = len(gram)
    distances = np.sort(_squared_distances(gram), axis=1)[:, 1:]  # without itself, which is the nearest
    scores = distances[:, : max(1, count - false - 2)].sum(axis=1)
    shares: Reals = np.zeros(count)
    # Who ties with the last that is chosen is chosen, too: who came first must not matter.
    last = np.sort(scores)[count - false - 1]
    chosen = scores <= last * (1.0 + 1e-9)
    shares[chosen] = weights[chosen]
    shares /= shares.sum()
    return shares


def _geometric_median(gram: Reals, weights: Reals, false: int) -> Reals:
    shares = _mean(gram, weights, false)
    # A change that lies just where the median is must not weigh infinitely much.
    least = 1e-6 * math.sqrt(max(float(np.median(np.diag(gram))), 0.0)) or 1e-30
    for _ in range(_WEISZFELD_STEPS):
        pulled = weights / np.maximum(_distances_to(gram, shares), least)
        pulled /= pulled.sum()
        if float(np.abs(pulled - shares).sum()) < 1e-9:
            break
        shares = pulled
    return shares


def _centred_clipping(gram: Reals, weights: Reals, false: int) -> Reals:
    say, shares = weights / weights.sum(), np.zeros(len(gram))
    for _ in range(_CLIPPING_STEPS):
        away = _distances_to(gram, shares)
        radius = float(np.median(away))
        cut = say * np.minimum(1.0, np.divide(radius, away, out=np.ones_like(away), where=away > 0))
        # v + sum cut (x - v)
        shares = shares * (1.0 - cut.sum()) + cut
    return shares


def _median(block: Reals, weights: Reals, false: int) -> Reals:
    """The value with half the weight on either side, [coordinates]; the middle of two where it lies between them."""
    order = np.argsort(block, axis=0, kind="stable")
    ranked = np.take_along_axis(block, order, axis=0)
    below = np.cumsum(weights[order], axis=0)
    half, slack = below[-1] / 2.0, 1e-12 * below[-1]
    at = np.argmax(below >= half - slack, axis=0)
    columns = np.arange(block.shape[1])
    low = ranked[at, columns]
    between = np.abs(below[at, columns] - half) <= slack
    high = ranked[np.minimum(at + 1, len(block) - 1), columns]
    found: Reals = np.where(between, (low + high) / 2.0, low)
    return found


def _trimmed_mean(block: Reals, weights: Reals, false: int) -> Reals:
    order = np.argsort(block, axis=0, kind="stable")[false : len(block) - false]
    kept, say = np.take_along_axis(block, order, axis=0), weights[order]
    found: Reals = (kept * say).sum(axis=0) / say.sum(axis=0)
    return found


_SHARES: Mapping[str, Callable[[Reals, Reals, int], Reals]] = {
    "mean": _mean,
    "multi_krum": _multi_krum,
    "geometric_median": _geometric_median,
    "centred_clipping": _centred_clipping,
}
_BY_COORDINATE: Mapping[str, Callable[[Reals, Reals, int], Reals]] = {
    "median": _median,
    "trimmed_mean": _trimmed_mean,
}
ROBUST_RULES = (*_SHARES, *_BY_COORDINATE)
"""Every value of ``aggregate.rule``."""


def _folded(rows: Sequence[FloatArray], made_of: Reals, gram: Reals, weights: Reals, false: int, rule: str) -> Reals:
    """The rule's result, flat.

    Args:
        made_of: [n, n], the changes that the rule sees as sums of ``rows``.
        gram: of these changes.
    """
    flat: Reals = np.empty(rows[0].size)
    if rule in _SHARES:
        shares = _SHARES[rule](gram, weights, false) @ made_of
        for part in _blocks(rows):
            flat[part] = shares @ _block(rows, part)
        return flat
    for part in _blocks(rows):
        flat[part] = _BY_COORDINATE[rule](made_of @ _block(rows, part), weights, false)
    return flat
