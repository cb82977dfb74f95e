"""A tensor of which only some coordinates travel: how to read it.

Places are coded after Elias (1974) and Fano (1971): of the i-th place p the ``split`` low bits travel as they are, and
bit number ``(p >> split) + i`` of a bitmap is set; about 2 + log2(count / kept) bits a place, and both ways are array
operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.entropy.reader import EntropyCoded
from protos.update.quantised.grid import Float16, Float32, UniformGrid
from protos.update.quantised.levels import Codebook
from protos.update.quantised.rotated import Rotated
from protos.update.reading import at_most
from protos.update.trees import FloatArray

MAX_SPLIT = 30


def split_for(kept: int, count: int) -> int:
    """Low bits of a place that travel as they are.

    >>> split_for(10, 1000)
    6
    """
    return max(0, (count // max(1, kept)).bit_length() - 1)


def places_to(places: npt.NDArray[np.integer], count: int) -> tuple[bytes, bytes]:
    """Rising places, each under ``count``, as low bits and bitmap."""
    split = split_for(places.size, count)
    low = ((places[:, None] >> np.arange(split)) & 1).astype(np.uint8)
    bitmap = np.zeros(places.size + ((count - 1) >> split) + 1 if places.size else 0, np.uint8)
    bitmap[(places >> split) + np.arange(places.size)] = 1
    return _packed(low.ravel()), _packed(bitmap)


def places_from(low: bytes, high: bytes, kept: int, count: int) -> npt.NDArray[np.int64]:
    """The inverse of :func:`places_to`.

    Raises:
        UpdateError: wrong lengths, a place past ``count``, or places that do not rise.
    """
    split = split_for(kept, count)
    remainder = _unpacked(low, kept * split).reshape(kept, split).astype(np.int64) @ (1 << np.arange(split))
    bitmap = _unpacked(high, kept + ((count - 1) >> split) + 1 if kept else 0)
    found = np.flatnonzero(bitmap)
    if found.size != kept:
        raise UpdateError(f"{found.size} places, not {kept}")
    places: npt.NDArray[np.int64] = ((found - np.arange(kept)) << split) + remainder
    if kept and (int(places[-1]) >= count or (np.diff(places) <= 0).any()):
        raise UpdateError("places that do not rise, or one past the end")
    return places


def _packed(bits: npt.NDArray[np.uint8]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _unpacked(data: bytes, count: int) -> npt.NDArray[np.uint8]:
    if len(data) != (count + 7) // 8:
        raise UpdateError(f"{count} bits need {(count + 7) // 8} bytes, got {len(data)}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count:].any():
        raise UpdateError("bits are set past the last place")
    return bits[:count]


@dataclass(frozen=True)
class Sparse:
    """Some coordinates, the others are 0.

    Attributes:
        kept: how many travel.
        low, high: their places, see :func:`places_to`.
        inner: their values, in the order of their places.
    """

    kept: int
    low: bytes
    high: bytes
    inner: Float32 | Float16 | UniformGrid | Codebook | EntropyCoded | Rotated

    def values(self, count: int) -> FloatArray:
        at_most(self.kept, count, "the number of coordinates that travel")
        places = places_from(self.low, self.high, self.kept, count)
        result = np.zeros(count, np.float32)
        result[places] = self.inner.values(self.kept)
        return result
