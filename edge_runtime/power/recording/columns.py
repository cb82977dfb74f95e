"""Columns of integers in few bytes: differences, zigzag, byte planes, deflate.

One column, all integers as LEB128 varints where not said otherwise::

    coding u8     order (0..2) | planes (0..8) << 2 | deflated << 6
    first         zigzag varint, ``order`` times: the values that the differences begin with
    centre        zigzag varint, subtracted from each difference
    size          varint: bytes that follow; not there without planes
    bytes         the zigzag of (difference - centre), least significant plane first

Order 0 keeps values, order 1 stores differences, order 2 differences of differences; the smallest result is taken.
A column that is constant, or climbs in equal steps, has no plane at all. Arithmetic is modulo 2^64, so every int64
comes back.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Cursor", "DamagedBlock", "pack", "pack_floats", "unpack", "unpack_floats", "varint"]

Ints = npt.NDArray[np.int64]

MOST_VALUES = 1 << 20
"""More values than this in one column are no column of ours."""
_DEFLATED = 1 << 6
_WORTH_DEFLATING = 24
_HIGHEST_ORDER = 2
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)


class DamagedBlock(ValueError):
    """Bytes whose check is right and whose contents are none of this format."""


@dataclass(slots=True)
class Cursor:
    """Bytes read from the front. Every method raises DamagedBlock when there are too few."""

    data: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > len(self.data) - self.at:
            raise DamagedBlock(f"{count} bytes wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """The next unsigned number below 2^64."""
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise DamagedBlock("a number without an end")
        if number >> 64:
            raise DamagedBlock("a number over 64 bits")
        return number

    def signed(self) -> int:
        """The next signed number of 64 bits."""
        number = self.varint()
        return number >> 1 ^ -(number & 1)

    def count(self, limit: int) -> int:
        """The next unsigned number, which must not exceed ``limit``."""
        number = self.varint()
        if number > limit:
            raise DamagedBlock(f"{number} where at most {limit} can be")
        return number


def varint(number: int) -> bytes:
    """An unsigned number, seven bits a byte, lowest first.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def pack(values: npt.NDArray[np.integer]) -> bytes:
    """A column of integers as bytes; int64 [N] (or narrower), N from 0 up."""
    numbers = np.ascontiguousarray(values, np.int64)
    orders = range(min(_HIGHEST_ORDER, max(0, len(numbers) - 1)) + 1)
    return min((_packed(numbers, order) for order in orders), key=len)


def unpack(cursor: Cursor, count: int) -> Ints:
    """The next column, which has ``count`` values; int64 [count].

    Raises:
        DamagedBlock: it is no such column.
    """
    if count > MOST_VALUES:
        raise DamagedBlock(f"a column of {count} values")
    coding = cursor.take(1)[0]
    order, planes = coding & 3, coding >> 2 & 0xF
    if order > _HIGHEST_ORDER or planes > 8 or (order and order >= count) or coding >> 7:
        raise DamagedBlock(f"coding {coding:#x} of a column of {count} values")
    firsts = [cursor.signed() for _ in range(order)]
    centre = np.int64(cursor.signed())
    body = cursor.take(cursor.varint()) if planes else b""
    rows = count - order
    raw = _inflate(body, planes * rows) if coding & _DEFLATED else body
    if len(raw) != planes * rows:
        raise DamagedBlock(f"{len(raw)} bytes for {planes} planes of {rows}")
    whole = np.zeros((rows, 8), np.uint8)
    whole[:, :planes] = np.frombuffer(raw, np.uint8).reshape(planes, rows).T
    unsigned = whole.view("<u8")[:, 0].astype(np.uint64)
    with np.errstate(over="ignore"):
        values = (unsigned >> np.uint64(1)).view(np.int64) ^ -(unsigned & np.uint64(1)).view(np.int64)
        values = values + centre
        for first in reversed(firsts):
            values = np.cumsum(np.concatenate([[np.int64(first)], values]), dtype=np.int64)
    return values


def pack_floats(values: npt.NDArray[np.float64]) -> bytes:
    """A column of float64, bit for bit: neighbouring numbers have neighbouring bit patterns."""
    return pack(np.ascontiguousarray(values, "<f8").view(np.int64))


def unpack_floats(cursor: Cursor, count: int) -> npt.NDArray[np.float64]:
    """The next column of ``count`` float64."""
    return unpack(cursor, count).view(np.float64)


def _packed(numbers: Ints, order: int) -> bytes:
    firsts = []
    with np.errstate(over="ignore"):
        for _ in range(order):
            firsts.append(int(numbers[0]))
            numbers = np.diff(numbers)
        centre = int(np.partition(numbers, len(numbers) // 2)[len(numbers) // 2]) if len(numbers) else 0
        apart = numbers - np.int64(centre)
        unsigned = ((apart << 1) ^ (apart >> 63)).view(np.uint64)
    top = int(unsigned.max()) if len(unsigned) else 0
    planes = (top.bit_length() + 7) // 8
    body = np.ascontiguousarray(unsigned.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :planes].T).tobytes()
    coding = order | planes << 2
    if len(body) >= _WORTH_DEFLATING and len(smaller := _deflate(body)) < len(body):
        body, coding = smaller, coding | _DEFLATED
    head = b"".join(varint(_zigzag(number)) for number in (*firsts, centre))
    return bytes([coding]) + head + (varint(len(body)) + body if planes else b"")


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _deflate(body: bytes) -> bytes:
    """Deflated with whichever strategy is shortest: noise has no repetitions, and looking for them costs bits."""
    return min((_deflated(body, strategy) for strategy in _STRATEGIES), key=len)


def _deflated(body: bytes, strategy: int) -> bytes:
    deflater = zlib.compressobj(6, wbits=-15, strategy=strategy)
    return deflater.compress(body) + deflater.flush()


def _inflate(body: bytes, size: int) -> bytes:
    """Inflate to exactly ``size`` bytes; never more memory than that."""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        raw = inflater.decompress(body, size + 1)
    except zlib.error as cause:
        raise DamagedBlock("deflated bytes that do not inflate") from cause
    if len(raw) != size or not inflater.eof or inflater.unused_data:
        raise DamagedBlock(f"{len(raw)} bytes inflated where {size} must be")
    return raw
