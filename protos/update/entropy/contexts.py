"""Which row of the model codes a coordinate.

A tensor travels with its level: the mean absolute size of its numbers on a scale of eighths of an octave. The model
has rows for each level that occurs, so that layers of unlike scale share a stream and are yet coded each by its own
frequencies. Where numbers are small, knowing the dither says much about them: such a level has rows for parts of the
dither's size, the more of them the smaller its numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError

Indices = npt.NDArray[np.int64]
PER_OCTAVE = 8
_LOWEST = -6  # octaves of level 1: a mean of 1/64
MAX_LEVEL = 255
MAX_ROWS = 96
MAX_APART = 8
_QUIET = -1  # octave from which a level has half as many parts of the dither, then a quarter, then one

# 2**(i / 8), written out: both ends must have the same bits.
_EIGHTHS = (
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)


def mean_of(level: int) -> float:
    """The mean size that a level from 1 to 255 stands for.

    >>> mean_of(49), mean_of(57)
    (1.0, 2.0)
    """
    octave, eighth = divmod(level - 1, PER_OCTAVE)
    return math.ldexp(_EIGHTHS[eighth], octave + _LOWEST)


def level_of(mean: float, coarse: int = 1) -> int:
    """The nearest level to a mean size, among every ``coarse``-th."""
    place = (math.log2(max(mean, 1e-300)) - _LOWEST) * PER_OCTAVE / coarse
    last = (MAX_LEVEL - 1) // coarse
    return 1 + coarse * min(last, max(0, round(place)))


def gain_of(code: int) -> float:
    """2**((code - 128) / 8), for a code from 0 to 255."""
    octave, eighth = divmod(code - 128, PER_OCTAVE)
    return math.ldexp(_EIGHTHS[eighth], octave)


@dataclass(frozen=True)
class Contexts:
    """Rows of a model.

    Attributes:
        keys: for each kind of tensor its level after the splitting, how many low bits are split off, and how many
            rows it has: one, or one for each part of the dither.
        first: [tensors] first row of each tensor.
        rows_of: [tensors] how many rows it has.
        splits: [tensors] low bits that travel apart.
        count: rows in all.
    """

    keys: tuple[tuple[int, int, int], ...]
    first: Indices
    rows_of: Indices
    splits: Indices
    count: int

    def same_rows(self, other: Contexts) -> bool:
        """Whether every tensor has the same rows there."""
        return bool((self.first == other.first).all() and (self.rows_of == other.rows_of).all())

    def spread(self, sizes: Sequence[int], dither_place: npt.NDArray[np.uint16] | None) -> Indices | int:
        """The row of every coordinate, tensor by tensor; a number where all have the same.

        Args:
            dither_place: [n] the size of each dither in 65536ths; None: no dither.
        """
        if self.count == 1:
            return 0
        shift = 16 - np.array([rows.bit_length() for rows in self.rows_of.tolist()], np.uint16)
        if len(sizes) == 1 and dither_place is not None:
            of_one: Indices = (dither_place >> shift[0]).astype(np.int64)
            return of_one
        row: Indices = np.repeat(self.first, sizes)
        if dither_place is not None:
            row += dither_place >> np.repeat(shift, sizes)
        return row


def contexts(levels: Sequence[int], split: int, parts: int) -> Contexts:
    """Rows for tensors of these levels.

    Args:
        levels: of the tensors that travel, 1 to 255.
        split: numbers of a mean of 2**m have m - split low bits that travel apart; 0: none.
        parts: of the dither at the lowest levels, a power of two; 1 where there is none.

    Raises:
        UpdateError: more rows than :data:`MAX_ROWS`.
    """
    own = []
    for level in levels:
        apart = min(MAX_APART, max(0, (level - 1) // PER_OCTAVE + _LOWEST - split)) if split else 0
        fewer = max(0, (level - 1) // PER_OCTAVE + _LOWEST - _QUIET + 1)
        own.append((level - PER_OCTAVE * apart, apart, max(1, parts >> fewer)))
    first, count = {}, 0
    for key in sorted(set(own)):
        first[key] = count
        count += key[2]
    if count > MAX_ROWS:
        raise UpdateError(f"a model of {count} rows, not up to {MAX_ROWS}")
    return Contexts(
        tuple(first),
        np.array([first[key] for key in own], np.int64),
        np.array([key[2] for key in own], np.int64),
        np.array([key[1] for key in own], np.int64),
        count,
    )
