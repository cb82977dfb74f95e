"""Entropy-coded whole numbers of one tensor or of a whole tree: how to read them.

Value = step * s * (q - u), with q the numbers and s u a dither in (-1/2, 1/2), of sign s and size u, that both ends
make from ``seed`` (subtractive dither: Roberts 1962; Ziv 1985; the error is even over half a step to each side and
independent of the value). Without a dither, value = step * sign(q) * (|q| - inset), where the inset moves each level to
about the mean of what was rounded to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.entropy import rans, symbols
from protos.update.entropy.contexts import Indices, gain_of, mean_of
from protos.update.entropy.densities import exponential
from protos.update.entropy.frequencies import read
from protos.update.quantised import dither
from protos.update.reading import at_most, step_of
from protos.update.trees import FloatArray

INSET = 128
MAX_INSET = 1 << 14


def laplace_inset(level: int) -> float:
    """How far the mean of what is rounded to a level lies inside of it, for a Laplacian; in steps, 0 to 1/2."""
    mean = mean_of(level)
    if mean > 4:
        return 1 / (12 * mean)
    power = float(exponential(np.array([1 / mean]))[0])
    return max(0.0, 0.5 * (1 + power) / (1 - power) - mean)


@dataclass(frozen=True)
class EntropyCoded:
    """Numbers times a step.

    Attributes:
        step: 0 where all is zero, and nothing else travels.
        seed: of the dither, 32 bits; None: no dither.
        share: coordinates that travel, out of 65536, chosen by the seed and enlarged by 65536 / share; 0: all.
        inset_first, inset_rest: 1/128 of what it would be for a Laplacian, for |q| = 1 and beyond.
        levels: a byte for each tensor, the mean size of its numbers, see
            :mod:`protos.update.entropy.contexts`; 0: a tensor of zeros, of which nothing travels.
        gains: a byte for each tensor: its own step, in eighths of octaves times ``step``; empty: one step for all.
        table: see :mod:`protos.update.entropy.frequencies`.
        codes: see :mod:`protos.update.entropy.rans`.
        low: low bits of the numbers, see :mod:`protos.update.entropy.symbols`.
        tails: low bits of far numbers.
    """

    step: float
    seed: int | None = None
    share: int = 0
    inset_first: int = 0
    inset_rest: int = 0
    levels: bytes = b""
    gains: bytes = b""
    table: bytes = b""
    codes: bytes = b""
    low: bytes = b""
    tails: bytes = b""

    def values(self, count: int, sizes: Sequence[int] | None = None) -> FloatArray:
        """All coordinates [count], one tensor of ``sizes`` after the other; None: all one tensor."""
        step = step_of(self.step)
        if step == 0 or not count:
            if self != EntropyCoded(self.step):
                raise UpdateError("zeros with something behind them")
            return np.zeros(count, np.float32)
        seed = 0 if self.seed is None else at_most(self.seed, 2**32 - 1, "the seed")
        at_most(self.share, dither.WHOLE - 1, "the share")
        if self.seed is None and self.share:
            raise UpdateError("nothing to choose coordinates by")
        at_most(self.inset_first, MAX_INSET, "an inset")
        at_most(self.inset_rest, MAX_INSET, "an inset")
        if self.seed is not None and (self.inset_first or self.inset_rest):
            raise UpdateError("a dither and an inset exclude each other")
        own = np.array([count] if sizes is None else sizes, np.int64)
        if len(self.levels) != own.size or (self.gains and len(self.gains) != own.size):
            raise UpdateError(f"{len(self.levels)} levels and {len(self.gains)} gains for {own.size} tensors")
        moved = np.frombuffer(self.levels, np.uint8) != 0
        place = np.flatnonzero(np.repeat(moved, own)) if not moved.all() else None
        alive = int(own[moved].sum())
        chosen = dither.kept(seed, self.share, alive) if self.share else None
        travelling = dither.sizes_of(chosen, own[moved].tolist())
        numbers = self._numbers(seed, travelling, [level for level in self.levels if level])
        numbers *= np.float32(step * (dither.WHOLE / self.share if self.share else 1))
        if self.gains:
            gains = [gain_of(code) for code, here in zip(self.gains, moved, strict=True) if here]
            numbers *= np.repeat(np.array(gains, np.float32), travelling)
        if chosen is not None:
            numbers = _placed(numbers, chosen, alive)
        return numbers if place is None else _placed(numbers, place, count)

    def _numbers(self, seed: int, sizes: Sequence[int], levels: Sequence[int]) -> FloatArray:
        count = sum(sizes)
        if not count:
            if self.table or self.codes or self.low or self.tails:
                raise UpdateError("no coordinate travels, and yet there are codes")
            return np.zeros(0, np.float32)
        model, placed = read(self.table, levels, dithered=self.seed is not None)
        drawn = None if self.seed is None else dither.Dither.made(seed, count)
        row = placed.spread(sizes, None if drawn is None else drawn.place)
        context = None if isinstance(row, int) else row
        coded = rans.decode(self.codes, model.frequencies, model.precision, count, context)
        whole = symbols.join_low(symbols.numbers(coded, self.tails, model), self.low, placed.splits, sizes)
        result = whole.astype(np.float32)
        if drawn is not None:
            result -= drawn.size
            result *= drawn.sign
            return result
        return self._moved_in(result, sizes, levels)

    def _moved_in(self, numbers: FloatArray, sizes: Sequence[int], levels: Sequence[int]) -> FloatArray:
        size = np.abs(numbers)
        insets = [insets_of(level, self.inset_first, self.inset_rest) for level in levels]
        first, rest = (np.repeat(np.array(column, np.float32), sizes) for column in zip(*insets, strict=True))
        level = size - np.where(size > 1.5, rest, first)
        return np.where(size > 0.5, np.copysign(level, numbers), numbers).astype(np.float32, copy=False)


def insets_of(level: int, first: int, rest: int) -> tuple[float, float]:
    """Insets of a tensor of this level, for |q| = 1 and beyond; a level never moves by more than half a step."""
    own = laplace_inset(level) / INSET
    return min(0.5, first * own), min(0.5, rest * own)


def _placed(values: FloatArray, places: npt.NDArray[np.intp] | Indices, count: int) -> FloatArray:
    result = np.zeros(count, np.float32)
    result[places] = values
    return result
