"""Codes of 1 to 8 bits, packed least significant bit first into bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError

Codes = npt.NDArray[np.uint8]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits need.

    >>> packed_bytes(3, 3)
    2
    """
    return (count * bits + 7) // 8


def pack(codes: Codes, bits: int) -> bytes:
    """Pack uint8 codes [n], each under 2**bits, into ``packed_bytes(n, bits)`` bytes.

    >>> pack(np.array([1, 2, 3, 0], np.uint8), 2).hex()
    '39'
    """
    if bits == 8:
        return codes.tobytes()
    # Eight codes of b bits are b bytes: they are put side by side in one 64-bit word, whose low b bytes travel.
    groups = -(-codes.size // 8)
    columns = np.zeros((groups, 8), np.uint8)
    columns.ravel()[: codes.size] = codes
    word = np.zeros(groups, np.uint64)
    for place in range(8):
        word |= columns[:, place].astype(np.uint64) << np.uint64(place * bits)
    packed = word.astype("<u8", copy=False).view(np.uint8).reshape(groups, 8)[:, :bits].tobytes()
    return packed[: packed_bytes(codes.size, bits)]


def unpack(data: bytes, bits: int, count: int) -> Codes:
    """The inverse of :func:`pack`: uint8 [count].

    Raises:
        UpdateError: ``data`` is not just as long as it must be, or has bits set past the last code.
    """
    if len(data) != packed_bytes(count, bits):
        raise UpdateError(f"{count} codes of {bits} bits need {packed_bytes(count, bits)} bytes, got {len(data)}")
    raw = np.frombuffer(data, np.uint8)
    if bits == 8:
        return raw
    groups = -(-count // 8)
    padded = np.zeros(groups * bits, np.uint8)
    padded[: raw.size] = raw
    wide = np.zeros((groups, 8), np.uint8)
    wide[:, :bits] = padded.reshape(groups, bits)
    word = wide.view("<u8").ravel()
    columns = np.empty((groups, 8), np.uint8)
    for place in range(8):
        columns[:, place] = (word >> np.uint64(place * bits)) & np.uint64(2**bits - 1)
    flat = columns.ravel()
    if flat[count:].any() or (groups and int(raw[-1]) >> (8 - (len(raw) * 8 - count * bits)) and count * bits % 8):
        raise UpdateError("bits are set past the last code")
    return flat[:count]
