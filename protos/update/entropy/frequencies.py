"""The static model of the entropy coder: how often each symbol occurs in each context, in few bytes.

A table starts with three bytes: ``form + 8 * log2(parts)``, ``reach``, ``octaves + 32 * split``. Symbols are the
integers -reach..reach, then the tails: for each side and each e under ``octaves`` one symbol for a distance past the
reach of 2**e to 2**(e+1) - 1 (its e low bits travel apart). Contexts: see :mod:`protos.update.entropy.contexts`. Form:

* 0: one byte per symbol and context follows, ``16 * e + m`` for a weight of (16 + m) * 2**e - 16; 0 is a symbol that
  does not occur. One row after the other.
* 1 to 5: nothing follows; every row comes from a density, see :mod:`protos.update.entropy.densities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import UpdateError
from protos.update.entropy import densities
from protos.update.entropy.contexts import Contexts, contexts
from protos.update.entropy.densities import SHAPES, Counts, normalise
from protos.update.reading import at_most

MAX_REACH, MAX_OCTAVES, MAX_SPLIT = 63, 24, 7
FINEST_PARTS = 8
_HEAD = 3


@dataclass(frozen=True)
class Model:
    """``frequencies`` int64 [contexts, 2 * reach + 1 + 2 * octaves], each row with the sum ``1 << precision``."""

    data: bytes
    reach: int
    octaves: int
    precision: int
    parts: int
    split: int
    frequencies: Counts

    def cost_bits(self, counts: Counts) -> float:
        """Bits of the coded symbols, their tails' low bits and the table itself."""
        total = float(counts.sum())
        chosen = counts > 0
        coded = total * self.precision - float((counts[chosen] * np.log2(self.frequencies[chosen])).sum())
        tails = counts[:, 2 * self.reach + 1 :].sum(axis=0)
        octave = np.tile(np.arange(self.octaves), 2)
        return coded + float((tails * octave).sum()) + 8.0 * len(self.data)


def precision_for(rows: int) -> int:
    """Bits of a frequency. The lookup of a decoder has ``rows << precision`` places, and must stay in the cache."""
    return 15 if rows <= 2 else 14 if rows <= 8 else 13 if rows <= 24 else 12


def read(data: bytes, levels: Sequence[int], *, dithered: bool) -> tuple[Model, Contexts]:
    """A model from its table, and which row of it is whose.

    Args:
        levels: of the tensors that travel, 1 to 255.
        dithered: whether the numbers were rounded with a dither.

    Raises:
        UpdateError: no table, or of another length than it must be.
    """
    if len(data) < _HEAD:
        raise UpdateError("the table of frequencies is cut short")
    form = at_most(data[0] & 7, len(SHAPES), "the form of a table")
    parts = 1 << at_most(data[0] >> 3, 3 if dithered else 0, "the logarithm of parts of the dither")
    reach = at_most(data[1], MAX_REACH, "the reach of a table")
    octaves, split = at_most(data[2] & 31, MAX_OCTAVES, "octaves of a table"), data[2] >> 5
    placed = contexts(levels, split, parts)
    symbols = 2 * reach + 1 + 2 * octaves
    if len(data) != _HEAD + (0 if form else symbols * placed.count):
        raise UpdateError(f"a table of frequencies has {len(data)} bytes")
    precision = precision_for(placed.count)
    if form:
        frequencies = np.concatenate(
            [densities.rows(form, *key, dithered, reach, octaves, precision) for key in placed.keys]
        )
    else:
        stored = np.frombuffer(data, np.uint8, offset=_HEAD).reshape(placed.count, symbols).astype(np.int64)
        weights = ((16 + (stored & 15)) << (stored >> 4)) - 16
        if (weights.sum(axis=1) == 0).any():
            raise UpdateError("a table of frequencies without a symbol")
        frequencies = normalise(weights, precision)
    return Model(data, reach, octaves, precision, parts, split, frequencies), placed


def head(form: int, parts: int, reach: int, octaves: int, split: int) -> bytes:
    """The three bytes that a table starts with."""
    return bytes([form + 8 * (parts.bit_length() - 1), reach, octaves + 32 * split])


def stored(counts: Counts) -> bytes:
    """Weights as bytes, rounded up so that no symbol that occurs is lost."""
    top = counts.max(axis=1, keepdims=True).clip(1)
    # The largest weight of a byte is 31 << 15; counts are brought near it, and a row that never occurs is made even.
    scaled = np.where(counts.any(axis=1, keepdims=True), counts, 1) / top * float(30 << 15)
    value = np.where(scaled > 0, np.maximum(scaled, 1.0), 0.0) + 16.0
    exponent = np.floor(np.log2(value)).astype(np.int64) - 4
    mantissa = np.rint(value / 2.0**exponent).astype(np.int64) - 16
    return (16 * exponent + mantissa).clip(0, 255).astype(np.uint8).tobytes()
