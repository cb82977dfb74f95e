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
    planes = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.ravel(), bitorder="little").tobytes()


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
    planes = np.unpackbits(raw, bitorder="little")
    if planes[count * bits :].any():
        raise UpdateError("bits are set past the last code")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    unpacked: Codes = (planes[: count * bits].reshape(count, bits) * weights).sum(axis=1, dtype=np.uint8)
    return unpacked
