"""The coordinates of a tree on their way into the entropy coder: chosen, dithered, rounded, counted, priced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.entropy import rans
from protos.update.entropy.contexts import Contexts, Indices, contexts, gain_of, level_of
from protos.update.entropy.densities import SHAPES
from protos.update.entropy.frequencies import FINEST_PARTS, Model
from protos.update.entropy.histograms import Tally, begins, count, fit
from protos.update.quantised import dither
from protos.update.quantised.dither import Dither
from protos.update.trees import FloatArray, Tree

NOTHING = 1e-30  # a tensor without a coordinate beyond this travels as zeros
_SPLIT = 2  # numbers of a mean of 8 or more have low bits that travel apart


@dataclass(frozen=True)
class Source:
    """Coordinates that travel.

    Attributes:
        moved: which tensors of the tree, in the order of their names, are more than zeros.
        values: float32 [n], of the moved tensors one after the other, those chosen; in units of their gain, and times
            the sign of their dither.
        sizes: how many of them each moved tensor has, and their mean absolute ``means``.
        gains: a code for each tensor of the tree, or none.
    """

    moved: tuple[bool, ...]
    values: FloatArray
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    gains: bytes
    seed: int | None
    share: int
    dither: Dither | None

    def every(self, stride: int) -> Source:
        """A sample, of the same means."""
        sizes = dither.sizes_of(np.arange(0, self.values.size, stride), self.sizes)
        drawn = None if self.dither is None else self.dither.every(stride)
        return Source(
            self.moved, self.values[::stride], tuple(sizes), self.means, self.gains, self.seed, self.share, drawn
        )

    def levels(self, chosen: Sequence[int]) -> bytes:
        """A byte for each tensor of the tree, given those of the moved ones."""
        left = iter(chosen)
        return bytes(next(left) if moved else 0 for moved in self.moved)


def source(tree: Tree, *, share: int, per_tensor: bool, generator: np.random.Generator | None) -> Source:
    """A tree as what travels of it.

    Args:
        share: of 65536 coordinates that travel; 0: all.
        generator: of the dither's seed; None: no dither.
    """
    seed = None if generator is None else int(generator.integers(1 << 32))
    flats = [np.ascontiguousarray(tree[name], np.float32).ravel() for name in sorted(tree)]
    moved = tuple(bool(flat.size) and max(float(flat.max()), -float(flat.min())) >= NOTHING for flat in flats)
    alive = [flat for flat, here in zip(flats, moved, strict=True) if here]
    gains = b""
    if per_tensor and alive:
        rms = [math.sqrt(float(np.mean(np.square(flat, dtype=np.float64)))) for flat in alive]
        codes = iter([max(1, 128 + round(8 * math.log2(own / max(rms)))) for own in rms])
        gains = bytes(next(codes) if here else 0 for here in moved)
        scales = [gain_of(code) for code in gains if code]
        alive = [flat * np.float32(1 / scale) for flat, scale in zip(alive, scales, strict=True)]
    joined = np.concatenate([np.zeros(0, np.float32), *alive])
    sizes = [flat.size for flat in alive]
    if share and seed is not None:
        chosen = dither.kept(seed, share, joined.size)
        joined, sizes = joined[chosen], dither.sizes_of(chosen, sizes)
    drawn = None if seed is None else Dither.made(seed, joined.size)
    ends = np.cumsum([0, *sizes])
    means = tuple(
        float(np.abs(joined[begin:end]).mean(dtype=np.float64)) if end > begin else 0.0
        for begin, end in itertools.pairwise(ends)
    )
    if drawn is not None:
        joined *= drawn.sign
    return Source(moved, joined, tuple(sizes), means, gains, seed, share, drawn)


@dataclass(frozen=True)
class Fitted:
    """A source rounded at a step, and the model that codes it.

    Attributes:
        whole: float32 [n], whole numbers; ``high``: without their low bits.
        row: the context of each, or of all.
    """

    whole: FloatArray
    high: FloatArray
    row: Indices | int
    levels: tuple[int, ...]
    placed: Contexts
    model: Model
    cost_bits: float
    header_bits: float

    @property
    def fixed_bits(self) -> float:
        """Bits that are there at any step."""
        # A lane's state starts with 16 bits and ends with 8 that say nothing, on average.
        return self.header_bits + 8.0 * len(self.model.data) + 24.0 * rans.layout(self.whole.size)[1]

    @property
    def coded_bits(self) -> float:
        """Bits of the coordinates."""
        return self.cost_bits - 8.0 * len(self.model.data)


@dataclass(frozen=True)
class Estimate:
    """About what a source costs at a step."""

    coded_bits: float
    fixed_bits: float


class Pricer:
    """Rounds a source at steps, and says what that costs. Remembers which form of model was the cheapest."""

    def __init__(self, whole: Source, header_bits: float) -> None:
        self._source, self._header_bits = whole, header_bits
        self._forms: tuple[int, ...] | None = None
        self._rows: tuple[Contexts, Indices | int, FloatArray | float] | None = None

    def fitted(self, step: float) -> Fitted:
        """Everything, with a model."""
        own = self._source
        rounded, high, levels, placed = _rounded(own, step)
        row, begin = self._placed(placed)
        tally = _tally(own, high, begin, levels, placed)
        model, cost = fit(tally, self._forms)
        if self._forms is None:
            self._forms = _again(model)
        low = float((placed.splits * np.array(own.sizes)).sum())
        if model.parts != tally.parts:
            placed = contexts(levels, model.split, model.parts)
            row = placed.spread(own.sizes, None if own.dither is None else own.dither.place)
        return Fitted(rounded, high, row, levels, placed, model, cost + low, self._header_bits)

    def _placed(self, placed: Contexts) -> tuple[Indices | int, FloatArray | float]:
        """Rows of all coordinates and where these begin; from the last look where tensors still have the same."""
        if self._rows is None or not self._rows[0].same_rows(placed):
            own = self._source
            row = placed.spread(own.sizes, None if own.dither is None else own.dither.place)
            self._rows = placed, row, begins(row)
        return self._rows[1:]

    def estimated(self, step: float, stride: int) -> Estimate:
        """From every ``stride``-th coordinate."""
        own = self._source.every(stride)
        _, high, levels, placed = _rounded(own, step)
        row = placed.spread(own.sizes, None if own.dither is None else own.dither.place)
        tally = _tally(own, high, begins(row), levels, placed)
        more = self._source.values.size / own.values.size
        low = float((placed.splits * np.array(own.sizes)).sum())
        lanes = 24.0 * rans.layout(self._source.values.size)[1]
        if len(own.sizes) == 1:
            table = 8.0 * 20 * len(tally.central)
            return Estimate(more * (tally.ideal_bits() + low), self._header_bits + lanes + table)
        model, cost = fit(tally, self._forms or tuple(SHAPES))
        if self._forms is None:
            self._forms = _again(model)
        table = 8.0 * len(model.data)
        return Estimate(more * (cost - table + low), self._header_bits + lanes + table)


def _again(model: Model) -> tuple[int, ...]:
    """Forms to try at the next step: that of this model, and a table."""
    form = model.data[0] & 7
    return (form, 0) if form else (0,)


def _rounded(own: Source, step: float) -> tuple[FloatArray, FloatArray, tuple[int, ...], Contexts]:
    """Whole numbers, those without low bits, levels, and rows."""
    levels, placed = _levels(own, step)
    scaled = own.values * np.float32(1.0 / step)
    if own.dither is not None:
        scaled += own.dither.size
    np.rint(scaled, out=scaled)
    if not placed.splits.any():
        return scaled, scaled, levels, placed
    factor = np.float32(0.5) ** placed.splits.astype(np.float32)
    high = scaled * (factor[0] if len(own.sizes) == 1 else np.repeat(factor, own.sizes))
    return scaled, np.floor(high, out=high), levels, placed


def _levels(own: Source, step: float) -> tuple[tuple[int, ...], Contexts]:
    coarse = 1
    while True:
        levels = tuple(level_of(mean / step, coarse) for mean in own.means)
        try:
            return levels, contexts(levels, _SPLIT, 1 if own.dither is None else FINEST_PARTS)
        except UpdateError:
            coarse *= 2


def _tally(
    own: Source, high: FloatArray, begin: FloatArray | float, levels: tuple[int, ...], placed: Contexts
) -> Tally:
    central, tails = count(high, begin, placed)
    parts = 1 if own.dither is None else FINEST_PARTS
    return Tally(central, tails, levels, _SPLIT, parts, own.dither is not None)


def tokens_of(one: Fitted) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Whole numbers, and those without low bits, as integers."""
    whole = one.whole.astype(np.int64)
    return whole, whole if one.high is one.whole else one.high.astype(np.int64)
