"""A tensor that was rotated chunk by chunk and rounded to the best levels for a Gaussian: how to read it.

A chunk x of n = 2**k coordinates travels as codes of y = H (s * x), with H the orthonormal Hadamard matrix and s random
signs; it is read as ``scale * s * H q``. Chunks of 256 or fewer are turned three times, with signs of their own each
time: once is too little like a uniform rotation there, and the mean of many codings would be off by up to 5 % of the
norm squared at 16 coordinates. The first coordinates of a chunk have a bit more than the others, which is
how a fraction of a bit is made; with no bit at all for the others, less than one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.packing import packed_bytes, unpack
from protos.update.quantised import dither
from protos.update.quantised.levels import lloyd_max
from protos.update.reading import ABSURD, at_most, floats
from protos.update.trees import FloatArray

MIN_CHUNK, MAX_CHUNK = 16, 1 << 16
_SMALLEST = 64  # a rest below this is filled up with zeros to a power of two, which is less than one more scale costs
_TURNED_ONCE = 512  # coordinates from which one turn is enough


def chunks(count: int, chunk: int) -> list[tuple[int, int, int]]:
    """(first coordinate, chunks, size of each): whole chunks, then the rest in falling powers of two.

    Only the last piece reaches past ``count``.

    >>> chunks(10_000, 4096)
    [(0, 2, 4096), (8192, 1, 1024), (9216, 1, 512), (9728, 1, 256), (9984, 1, 16)]
    """
    pieces = []
    begin = 0
    if count >= chunk:
        pieces.append((0, count // chunk, chunk))
        begin = count // chunk * chunk
    while begin < count:
        rest = count - begin
        size = 1 << (rest.bit_length() - 1)
        if size < min(_SMALLEST, chunk):
            size = max(MIN_CHUNK, 1 << (rest - 1).bit_length())
        pieces.append((begin, 1, size))
        begin += size
    return pieces


def richer(size: int, mixed: int) -> int:
    """How many coordinates of a chunk have a bit more."""
    return round(size * mixed / dither.WHOLE)


@functools.lru_cache(maxsize=20)
def _hadamard(order: int) -> FloatArray:
    matrix: FloatArray = np.ones((1, 1), np.float32)
    for _ in range(order):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]).astype(np.float32)
    return matrix


def rotate(rows: FloatArray) -> FloatArray:
    """Orthonormal Hadamard transform of each row [k, 2**m]; its own inverse. Two matrix products: H is a Kronecker
    product of two smaller ones."""
    number, size = rows.shape
    order = size.bit_length() - 1
    left, right = _hadamard(order - order // 2), _hadamard(order // 2)
    square = rows.reshape(number, len(left), len(right))
    turned: FloatArray = np.matmul(np.matmul(left, square), right) * np.float32(size**-0.5)
    return turned.reshape(number, size)


def signs(seed: int, count: int, purpose: int) -> FloatArray:
    """float32 [count] of -1 and 1."""
    raw = dither.words(seed, purpose, -(-count // 16)).astype("<u2", copy=False).view(np.uint8)
    bits = np.unpackbits(raw, bitorder="little")[:count]
    return np.float32(1) - np.float32(2) * bits.astype(np.float32)


class Rotation:
    """Random signs and Hadamard transforms of every chunk."""

    def __init__(self, pieces: list[tuple[int, int, int]], seed: int) -> None:
        self.padded = sum(number * size for _, number, size in pieces)
        self._small = next((begin for begin, _, size in pieces if size < _TURNED_ONCE), self.padded)
        first, *more = dither.SIGNS
        self._first = signs(seed, self.padded, first)
        self._more = [signs(seed, self.padded - self._small, purpose) for purpose in more]

    def there(self, rows: FloatArray, begin: int) -> FloatArray:
        """Chunks [k, size] from coordinate ``begin`` on, turned."""
        for sign in self._signs(begin, rows.shape):
            rows = rotate(rows * sign)
        return rows

    def back(self, rows: FloatArray, begin: int) -> FloatArray:
        """The inverse of :meth:`there`."""
        for sign in reversed(self._signs(begin, rows.shape)):
            rows = rotate(rows) * sign
        return rows

    def _signs(self, begin: int, shape: tuple[int, ...]) -> list[FloatArray]:
        stop = begin + shape[0] * shape[1]
        own = [self._first[begin:stop]]
        if shape[1] < _TURNED_ONCE:
            own += [array[begin - self._small : stop - self._small] for array in self._more]
        return [array.reshape(shape) for array in own]


@dataclass(frozen=True)
class Rotated:
    """Codes of rotated chunks.

    Attributes:
        chunk: size of a whole chunk, a power of two from 16 to 65,536.
        seed: of the signs, 32 bits.
        bits: of every coordinate, 0 to 8.
        mixed: coordinates of a chunk with one bit more, out of 65536.
        scale: float32 per chunk.
        codes: all codes of ``bits + 1`` bits, then all of ``bits``, each packed by itself.
    """

    chunk: int
    seed: int
    bits: int
    mixed: int
    scale: bytes
    codes: bytes

    def values(self, count: int) -> FloatArray:
        at_most(self.chunk, MAX_CHUNK, "the size of a chunk", at_least=MIN_CHUNK)
        if self.chunk & (self.chunk - 1):
            raise UpdateError(f"a chunk of {self.chunk} is no power of two")
        at_most(self.seed, 2**32 - 1, "the seed")
        at_most(self.mixed, dither.WHOLE - 1, "the share with a bit more")
        at_most(self.bits, 7 if self.mixed else 8, "bits of a coordinate")
        pieces = chunks(count, self.chunk)
        scale = floats(self.scale, "<f4", sum(number for _, number, _ in pieces))
        if float(np.abs(scale).max(initial=0)) > ABSURD:
            raise UpdateError(f"a scale is beyond {ABSURD:g}")
        rich = sum(number * richer(size, self.mixed) for _, number, size in pieces)
        poor = sum(number * size for _, number, size in pieces) - rich
        cut = packed_bytes(rich, self.bits + 1)
        parts = self._levels(self.codes[:cut], rich, self.bits + 1), self._levels(self.codes[cut:], poor, self.bits)
        return self._turned(pieces, *parts, scale)[:count]

    def _levels(self, data: bytes, count: int, bits: int) -> FloatArray:
        if bits and count:
            return lloyd_max(bits)[unpack(data, bits, count)]
        if data:
            raise UpdateError("codes past the last coordinate")
        return np.zeros(count, np.float32)

    def _turned(
        self,
        pieces: list[tuple[int, int, int]],
        rich: FloatArray,
        poor: FloatArray,
        scale: npt.NDArray[np.floating],
    ) -> FloatArray:
        rotation = Rotation(pieces, self.seed)
        result = np.empty(rotation.padded, np.float32)
        for (begin, number, size), one_rich, one_poor, own in _shares(pieces, self.mixed, rich, poor, scale):
            rows = np.concatenate([one_rich, one_poor], axis=1)
            turned = rotation.back(rows, begin) * own[:, None].astype(np.float32)
            result[begin : begin + number * size] = turned.ravel()
        return result


def _shares(
    pieces: list[tuple[int, int, int]],
    mixed: int,
    rich: FloatArray,
    poor: FloatArray,
    scale: npt.NDArray[np.floating],
) -> Iterator[tuple[tuple[int, int, int], FloatArray, FloatArray, npt.NDArray[np.floating]]]:
    """Each piece with its own codes [chunks, coordinates] and scales."""
    at_rich = at_poor = at_scale = 0
    for piece in pieces:
        _, number, size = piece
        more = richer(size, mixed)
        less = size - more
        yield (
            piece,
            rich[at_rich : at_rich + number * more].reshape(number, more),
            poor[at_poor : at_poor + number * less].reshape(number, less),
            scale[at_scale : at_scale + number],
        )
        at_rich, at_poor, at_scale = at_rich + number * more, at_poor + number * less, at_scale + number
