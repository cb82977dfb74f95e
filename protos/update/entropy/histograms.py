"""How often each number occurs in each context, and the cheapest model for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protos.update.entropy.contexts import Contexts, Indices, contexts
from protos.update.entropy.densities import SHAPES, Counts
from protos.update.entropy.frequencies import FINEST_PARTS, MAX_OCTAVES, MAX_REACH, Model, head, read, stored
from protos.update.trees import FloatArray

WIDTH = 2 * MAX_REACH + 3  # numbers past the reach on either side are counted together first
MIDDLE = MAX_REACH + 1
_REACHES = (1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63)
_TABLE_PARTS = 4  # of the dither in a table that travels: each is a row of bytes
_LARGE = 1 << 17  # coordinates from which a table costs nothing that matters, and few forms are worth a look
_COMMON = (0, 1, 3)


@dataclass(frozen=True)
class Tally:
    """Counts by context.

    Attributes:
        central: [rows, 2 * MAX_REACH + 1]
        tails: [rows, 2, MAX_OCTAVES] for distances past MAX_REACH
        levels, split, parts: what the rows are, see :func:`protos.update.entropy.contexts.contexts`.
        dithered: whether the values had a dither added.
    """

    central: Counts
    tails: Counts
    levels: tuple[int, ...]
    split: int
    parts: int
    dithered: bool

    def ideal_bits(self) -> float:
        """What a model that knew the counts would need for them, without its table."""
        rows = np.concatenate([self.central, self.tails.reshape(len(self.tails), -1)], axis=1)
        total = rows.sum(axis=1)
        own, whole = rows[rows > 0], total[total > 0]
        low = float((self.tails.sum(axis=(0, 1)) * np.arange(MAX_OCTAVES)).sum())
        return float((whole * np.log2(whole)).sum() - (own * np.log2(own)).sum()) + low

    def coarser(self, parts: int) -> Tally:
        """The same counts with fewer parts of the dither."""
        if parts == self.parts:
            return self
        edges: list[int] = []
        begin = 0
        for _, _, own in contexts(self.levels, self.split, self.parts).keys:
            edges += range(begin, begin + own, own // max(1, own * parts // self.parts))
            begin += own
        central, tails = np.add.reduceat(self.central, edges), np.add.reduceat(self.tails, edges)
        return Tally(central, tails, self.levels, self.split, parts, self.dithered)

    def symbols(self, reach: int, octaves: int) -> Counts:
        """Counts of the symbols of a model; what lies past a shorter reach moves into the tails."""
        middle = self.central[:, MAX_REACH - reach : MAX_REACH + reach + 1]
        sides = self.tails.copy()
        if reach < MAX_REACH:
            octave = np.floor(np.log2(np.arange(1, MAX_REACH - reach + 1))).astype(np.int64)
            starts = np.searchsorted(octave, np.arange(octave[-1] + 1))
            below = self.central[:, : MAX_REACH - reach][:, ::-1]
            above = self.central[:, MAX_REACH + reach + 1 :]
            sides[:, 0, : starts.size] += np.add.reduceat(below, starts, axis=1)
            sides[:, 1, : starts.size] += np.add.reduceat(above, starts, axis=1)
        return np.concatenate([middle, sides[:, 0, :octaves], sides[:, 1, :octaves]], axis=1)


def begins(row: Indices | int) -> FloatArray | float:
    """Where the counts of each coordinate's row begin, at the number 0."""
    if isinstance(row, int):
        return float(row * WIDTH + MIDDLE)
    place = row.astype(np.float32)
    place *= np.float32(WIDTH)
    place += np.float32(MIDDLE)
    return place


def count(high: FloatArray, begin: FloatArray | float, placed: Contexts) -> tuple[Counts, Counts]:
    """``central`` and ``tails`` of a :class:`Tally`.

    Args:
        high: whole numbers [n].
        begin: of :func:`begins`.
    """
    near = np.clip(high, np.float32(-MIDDLE), np.float32(MIDDLE))
    near += np.float32(begin) if isinstance(begin, float) else begin
    central = np.bincount(near.astype(np.intp), minlength=placed.count * WIDTH).reshape(placed.count, WIDTH)
    tails = np.zeros((placed.count, 2, MAX_OCTAVES), np.int64)
    if central[:, 0].any() or central[:, -1].any():
        far = np.flatnonzero(np.abs(high) > MAX_REACH)
        distance = np.abs(high[far]).astype(np.int64) - MAX_REACH
        octave = np.log2(distance).astype(np.int64)
        own = np.broadcast_to(np.asarray(begin), high.shape)[far].astype(np.int64) // WIDTH
        np.add.at(tails, (own, (high[far] > 0).astype(np.int64), octave), 1)
    return central[:, 1:-1].astype(np.int64), tails


def _widest(tally: Tally) -> tuple[int, int]:
    """The reach that holds every number, or the greatest there is, and the octaves needed past it."""
    far = np.flatnonzero(tally.tails.any(axis=(0, 1)))
    if far.size:
        return MAX_REACH, int(far[-1]) + 1
    used = np.flatnonzero(tally.central.any(axis=0))
    widest = int(np.abs(used - MAX_REACH).max(initial=0))
    return next(reach for reach in _REACHES if reach >= widest), 0


def _options(tally: Tally, forms: Sequence[int]) -> Iterator[tuple[Tally, int, int, int]]:
    """What to try: counts, form, reach, octaves. A table may also be narrower, with the rest in the tails."""
    widest, octaves = _widest(tally)
    narrower = [reach for reach in _REACHES[1:] if 2 * widest <= 5 * reach <= 3 * widest and not octaves]
    for form in forms:
        if form:
            yield tally, form, widest, octaves
            continue
        for parts in (_TABLE_PARTS, 1) if tally.parts > 1 else (1,):
            merged = tally.coarser(parts)
            yield merged, 0, widest, octaves
            for reach in narrower:
                yield merged, 0, reach, (widest - reach).bit_length()


def fit(tally: Tally, forms: Sequence[int] | None = None) -> tuple[Model, float]:
    """The cheapest model for these counts, and what all costs with it, in bits.

    Args:
        forms: to choose from, of those of :mod:`protos.update.entropy.frequencies`; None: those that are worth a look.
    """
    if forms is None:
        large = int(tally.central.sum()) >= _LARGE and len(tally.central) <= FINEST_PARTS
        forms = _COMMON if large else (0, *SHAPES)
    best: tuple[Model, float] | None = None
    for merged, form, reach, octaves in _options(tally, forms):
        counts = merged.symbols(reach, octaves)
        data = head(form, merged.parts, reach, octaves, tally.split) + (b"" if form else stored(counts))
        model, _ = read(data, tally.levels, dithered=tally.dithered)
        cost = model.cost_bits(counts)
        if best is None or cost < best[1]:
            best = model, cost
    assert best is not None
    return best
