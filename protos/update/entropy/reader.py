"""Entropy-coded whole numbers of one tensor or of a whole tree: how to read them.

Value = step * s * (q - u), with q the numbers and s u a dither in (-1/2, 1/2), of sign s and size u, that both ends
make from ``seed`` (subtractive dither: Roberts 1962; Ziv 1985; the error is even over half a step to each side and
independent of the value). Without a dither, value = step * sign(q) * (|q| - inset), where the inset moves each level to
about the mean of what was rounded to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.entropy import rans, symbols
from protos.update.entropy.contexts import Indices, gain_of, mean_of
from protos.update.entropy.densities import exponential
from protos.update.entropy.frequencies import Model, read
from protos.update.quantised import dither
from protos.update.reading import at_most, step_of
from protos.update.trees import FloatArray

INSET = 128
MAX_INSET = 1 << 14
_AT_ONCE = 1 << 20  # coordinates that are decoded side by side: some 30 bytes each
MOST_AHEAD = _AT_ONCE // rans.SIDE_BY_SIDE  # of messages of more coordinates never enough are decoded side by side


def laplace_inset(level: int) -> float:
    """How far the mean of what is rounded to a level lies inside of it, for a Laplacian; in steps, 0 to 1/2."""
    mean = mean_of(level)
    if mean > 4:
        return 1 / (12 * mean)
    power = float(exponential(np.array([1 / mean]))[0])
    return max(0.0, 0.5 * (1 + power) / (1 - power) - mean)


@dataclass(frozen=True)
class LaidOut:
    """Which coordinates travel.

    Attributes:
        count: of all.
        moved: [tensors] those that are not all zero; ``own``: [tensors] their sizes, of all tensors.
        alive: coordinates of the tensors that moved.
        chosen: of those, the ones that travel; None: all.
        seed: of the dither, 0 without one.
        sizes: how many travel, and ``levels``: for each tensor that moved.
    """

    count: int
    moved: npt.NDArray[np.bool_]
    own: npt.NDArray[np.int64]
    alive: int
    chosen: Indices | None
    seed: int
    sizes: Sequence[int]
    levels: Sequence[int]

    @property
    def travelling(self) -> int:
        """How many coordinates travel."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Opened:
    """What stands between the codes and their numbers: a model, low bits that travel apart by tensor, a dither."""

    laid: LaidOut
    model: Model
    splits: Indices
    drawn: dither.Dither | None
    stream: rans.Stream


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
        laid = self.laid_out(count, [count] if sizes is None else sizes)
        if not laid.travelling:
            return self.placed(laid, np.zeros(0, np.float32))
        opened = self.opened(laid)
        return self.placed(laid, self.numbers(opened, opened.stream.decoded()))

    def laid_out(self, count: int, sizes: Sequence[int]) -> LaidOut:
        """Which of ``count`` coordinates travel.

        Raises:
            UpdateError: fields that do not fit each other or the tensors.
        """
        own = np.array(sizes, np.int64)
        if step_of(self.step) == 0 or not count:
            if self != EntropyCoded(self.step):
                raise UpdateError("zeros with something behind them")
            return LaidOut(count, np.zeros(own.size, np.bool_), own, 0, None, 0, [], [])
        seed = 0 if self.seed is None else at_most(self.seed, 2**32 - 1, "the seed")
        at_most(self.share, dither.WHOLE - 1, "the share")
        if self.seed is None and self.share:
            raise UpdateError("nothing to choose coordinates by")
        at_most(self.inset_first, MAX_INSET, "an inset")
        at_most(self.inset_rest, MAX_INSET, "an inset")
        if self.seed is not None and (self.inset_first or self.inset_rest):
            raise UpdateError("a dither and an inset exclude each other")
        if len(self.levels) != own.size or (self.gains and len(self.gains) != own.size):
            raise UpdateError(f"{len(self.levels)} levels and {len(self.gains)} gains for {own.size} tensors")
        moved = np.frombuffer(self.levels, np.uint8) != 0
        alive = int(own[moved].sum())
        chosen = dither.kept(seed, self.share, alive) if self.share else None
        sizes_sent = dither.sizes_of(chosen, own[moved].tolist())
        if not sum(sizes_sent) and (self.table or self.codes or self.low or self.tails):
            raise UpdateError("no coordinate travels, and yet there are codes")
        levels = [level for level in self.levels if level]
        return LaidOut(count, moved, own, alive, chosen, seed, sizes_sent, levels)

    def placed(self, laid: LaidOut, numbers: FloatArray) -> FloatArray:
        """All coordinates from the numbers of those that travel, which are used up."""
        if not laid.count or self.step == 0:
            return np.zeros(laid.count, np.float32)
        numbers *= np.float32(step_of(self.step) * (dither.WHOLE / self.share if self.share else 1))
        if self.gains:
            gains = [gain_of(code) for code, here in zip(self.gains, laid.moved, strict=True) if here]
            numbers *= np.repeat(np.array(gains, np.float32), laid.sizes)
        if laid.chosen is not None:
            numbers = _placed(numbers, laid.chosen, laid.alive)
        if laid.moved.all():
            return numbers
        return _placed(numbers, np.flatnonzero(np.repeat(laid.moved, laid.own)), laid.count)

    def opened(self, laid: LaidOut) -> Opened:
        """What decodes the codes of coordinates that travel, one at least.

        Raises:
            UpdateError: not a table.
        """
        model, rows = read(self.table, laid.levels, dithered=self.seed is not None)
        drawn = None if self.seed is None else dither.Dither.made(laid.seed, laid.travelling)
        row = rows.spread(laid.sizes, None if drawn is None else drawn.place)
        # Of a thousand rows at most; kept for many messages.
        context = None if isinstance(row, int) else row.astype(np.uint16)
        stream = rans.Stream(self.codes, model.frequencies, model.precision, laid.travelling, context)
        return Opened(laid, model, rows.splits, drawn, stream)

    def numbers(self, opened: Opened, symbols_sent: Indices) -> FloatArray:
        """Coordinates that travel, in steps, from their symbols, which are used up.

        Raises:
            UpdateError: low bits of another number of symbols.
        """
        laid = opened.laid
        high = symbols.numbers(symbols_sent, self.tails, opened.model)
        result = symbols.join_low(high, self.low, opened.splits, laid.sizes).astype(np.float32)
        if opened.drawn is not None:
            result -= opened.drawn.size
            result *= opened.drawn.sign
            return result
        return self._moved_in(result, laid.sizes, laid.levels)

    def _moved_in(self, numbers: FloatArray, sizes: Sequence[int], levels: Sequence[int]) -> FloatArray:
        size = np.abs(numbers)
        insets = [insets_of(level, self.inset_first, self.inset_rest) for level in levels]
        first, rest = (np.repeat(np.array(column, np.float32), sizes) for column in zip(*insets, strict=True))
        level = size - np.where(size > 1.5, rest, first)
        return np.where(size > 0.5, np.copysign(level, numbers), numbers).astype(np.float32, copy=False)


@dataclass(frozen=True)
class DecodedAhead:
    """A message whose codes were decoded beside those of others, see :func:`decoded_ahead`."""

    coded: EntropyCoded
    laid: LaidOut
    numbers: FloatArray

    def values(self, count: int, sizes: Sequence[int] | None = None) -> FloatArray:
        """As :meth:`EntropyCoded.values`."""
        if count != self.laid.count or not np.array_equal([count] if sizes is None else sizes, self.laid.own):
            return self.coded.values(count, sizes)
        return self.coded.placed(self.laid, self.numbers.copy())


def decoded_ahead(messages: Sequence[tuple[EntropyCoded, Sequence[int]]]) -> list[EntropyCoded | DecodedAhead]:
    """Messages with the sizes of their tensors, those decoded whose codes are quicker decoded side by side. Others,
    and those with something wrong in them, which :meth:`EntropyCoded.values` names, stay as they are."""
    result: list[EntropyCoded | DecodedAhead] = []
    some: list[tuple[EntropyCoded, Sequence[int]]] = []
    held = 0
    for message in messages:
        if held + sum(message[1]) > _AT_ONCE:
            result += _ahead(some)
            some, held = [], 0
        some.append(message)
        held += sum(message[1])
    return result + _ahead(some)


def _ahead(messages: Sequence[tuple[EntropyCoded, Sequence[int]]]) -> list[EntropyCoded | DecodedAhead]:
    result: list[EntropyCoded | DecodedAhead] = [coded for coded, _ in messages]
    if len(messages) < rans.SIDE_BY_SIDE:
        return result
    opened: list[tuple[int, Opened]] = []
    for at, (coded, sizes) in enumerate(messages):
        with suppress(UpdateError):
            laid = coded.laid_out(sum(sizes), sizes)
            if laid.travelling:
                opened.append((at, coded.opened(laid)))
    decoded = rans.decode_side_by_side([one.stream for _, one in opened])
    for (at, one), found in zip(opened, decoded, strict=True):
        if found is not None:
            with suppress(UpdateError):
                coded = messages[at][0]
                result[at] = DecodedAhead(coded, one.laid, coded.numbers(one, found.astype(np.int64)))
    return result


def insets_of(level: int, first: int, rest: int) -> tuple[float, float]:
    """Insets of a tensor of this level, for |q| = 1 and beyond; a level never moves by more than half a step."""
    own = laplace_inset(level) / INSET
    return min(0.5, first * own), min(0.5, rest * own)


def _placed(values: FloatArray, places: npt.NDArray[np.intp] | Indices, count: int) -> FloatArray:
    result = np.zeros(count, np.float32)
    result[places] = values
    return result
