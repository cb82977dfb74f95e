"""The seal of an RP2040 image: without it the boot ROM takes the flash for empty (RP2040 data sheet 2.8.1.3.1).

The first 256 bytes of the flash are the second stage of the boot. Their last four are the CRC-32 of the others:
polynomial 04C11DB7h, begun with FFFFFFFFh, bits as they stand, nothing added at the end; little-endian.
"""

from __future__ import annotations

__all__ = ["STAGE_BYTES", "sealed"]

STAGE_BYTES = 256
_POLYNOMIAL = 0x04C11DB7


def crc32(data: bytes) -> int:
    """CRC-32/MPEG-2.

    >>> hex(crc32(b"123456789"))
    '0x376e6e7'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (_POLYNOMIAL if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


def sealed(image: bytes) -> bytes:
    """An image with the check sum of its first stage in place.

    Raises:
        ValueError: shorter than the stage, or something stands where the check sum belongs.
    """
    if len(image) < STAGE_BYTES or any(image[STAGE_BYTES - 4 : STAGE_BYTES]):
        raise ValueError(f"{len(image)} bytes without room for the check sum of the boot stage")
    check = crc32(image[: STAGE_BYTES - 4]).to_bytes(4, "little")
    return image[: STAGE_BYTES - 4] + check + image[STAGE_BYTES:]
