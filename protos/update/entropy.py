"""A tensor of entropy-coded whole numbers: how to read it.

Value = step * (q - u), with q the numbers and u a dither in (-1/2, 1/2) that both ends make from ``seed`` (subtractive
dither: Roberts 1962; Ziv 1985; the error is even over half a step to each side and independent of the value). Without
a dither, value = step * sign(q) * (|q| - inset), where the inset moves each level to the mean of what was rounded to
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update import dither, rans, symbols
from protos.update.frequencies import CONTEXTS, read
from protos.update.packing import unpack
from protos.update.reading import at_most, step_of
from protos.update.trees import FloatArray

INSET = 256


@dataclass(frozen=True)
class EntropyCoded:
    """Numbers times a step.

    Attributes:
        step: 0 for a tensor of zeros, of which nothing else travels.
        seed: of the dither, 32 bits; None: no dither.
        share: coordinates that travel, out of 65536, chosen by the seed and enlarged by 65536 / share; 0: all.
        split: low bits of each number that travel as they are.
        by_dither: whether the model has one row for each quarter of |u|; the sign of u then turns the numbers.
        inset_first, inset_rest: 1/256 of a step, for |q| = 1 and beyond.
        table: see :mod:`protos.update.frequencies`.
        codes: see :mod:`protos.update.rans`.
        low: packed low bits.
        tails: low bits of far numbers, see :mod:`protos.update.symbols`.
        shorter: halvings of the rows of the entropy coder, see :func:`protos.update.rans.layout`.
    """

    step: float
    seed: int | None = None
    share: int = 0
    split: int = 0
    by_dither: bool = False
    inset_first: int = 0
    inset_rest: int = 0
    table: bytes = b""
    codes: bytes = b""
    low: bytes = b""
    tails: bytes = b""
    shorter: int = 0

    def values(self, count: int) -> FloatArray:
        step = step_of(self.step)
        if step == 0 or not count:
            if self != EntropyCoded(self.step):
                raise UpdateError("zeros with something behind them")
            return np.zeros(count, np.float32)
        seed = 0 if self.seed is None else at_most(self.seed, 2**32 - 1, "the seed")
        at_most(self.share, dither.WHOLE - 1, "the share")
        at_most(self.split, symbols.MAX_SPLIT, "the split")
        if self.seed is None and (self.share or self.by_dither):
            raise UpdateError("nothing to choose coordinates or contexts by")
        chosen = dither.kept(seed, self.share, count) if self.share else None
        travelling = count if chosen is None else chosen.size
        u = None if self.seed is None else dither.dither(seed, travelling)
        whole = self._whole(travelling, u)
        scaled = self._scaled(whole, u) * np.float32(step)
        if chosen is None:
            return scaled
        spread = np.zeros(count, np.float32)
        spread[chosen] = scaled * np.float32(dither.WHOLE / self.share)
        return spread

    def _whole(self, count: int, u: FloatArray | None) -> npt.NDArray[np.int64]:
        if not count:
            if self.table or self.codes or self.low or self.tails:
                raise UpdateError("no coordinate travels, and yet there are codes")
            return np.zeros(0, np.int64)
        context = symbols.context_of(u) if self.by_dither and u is not None else None
        shorter = at_most(self.shorter, rans.MAX_SHORTER, "halvings of the rows")
        model = read(self.table, split=self.split, contexts=1 if context is None else CONTEXTS)
        coded = rans.decode(self.codes, model.frequencies, model.precision, count, context, shorter)
        high = symbols.put_back(coded, self.tails, model)
        if self.by_dither and u is not None:
            high = np.where(u < 0, -high, high)
        if self.split:
            return (high << self.split) | unpack(self.low, self.split, count)
        if self.low:
            raise UpdateError("low bits that belong to nothing")
        return high

    def _scaled(self, whole: npt.NDArray[np.int64], u: FloatArray | None) -> FloatArray:
        numbers = whole.astype(np.float32)
        if u is not None:
            if self.inset_first or self.inset_rest:
                raise UpdateError("a dither and an inset exclude each other")
            numbers -= u
            return numbers
        at_most(self.inset_first, INSET // 2, "an inset")
        at_most(self.inset_rest, INSET // 2, "an inset")
        size = np.abs(numbers)
        inset = np.where(size > 1.5, np.float32(self.inset_rest / INSET), np.float32(self.inset_first / INSET))
        return np.where(size > 0.5, np.copysign(size - inset, numbers), numbers)
