"""UF2, the file that a bootloader on a USB drive flashes as it is copied there (github.com/microsoft/uf2).

A file is a row of blocks of 512 bytes, little-endian; each says where its payload belongs::

    magic 0x0A324655 | magic 0x9E5D5157 | flags | address | payload bytes | block | blocks | family |
    data[476] | magic 0x0AB16F30

Blocks stand alone: a drive may write them in any order.
"""

from __future__ import annotations

import struct

from protos.errors import DataError

__all__ = ["BLOCK_BYTES", "FLASH_START", "PAYLOAD_BYTES", "RP2040", "pack", "unpack"]

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
"""Of each block: a page of the RP2040's flash. Its boot ROM takes no other size (RP2040 data sheet 2.8.4.2)."""
RP2040 = 0xE48BFF56
"""Family of the RP2040."""
FLASH_START = 0x1000_0000
"""Where the RP2040 sees its flash (RP2040 data sheet 2.2)."""

_MAGIC = (0x0A324655, 0x9E5D5157)
_MAGIC_END = 0x0AB16F30
_HAS_FAMILY = 0x2000
_BLOCK = struct.Struct("<8I476sI")


def pack(image: bytes, *, address: int = FLASH_START, family: int = RP2040) -> bytes:
    """An image as UF2; the last page is filled up with FFh, as erased flash reads.

    Args:
        image: at least one byte.
        address: of its first byte; a multiple of PAYLOAD_BYTES.
        family: who may flash it.

    Raises:
        ValueError: empty, not at the start of a page, or past 32 bits.

    >>> pack(b"abc")[:8].hex()
    '5546320a57515d9e'
    """
    if not image or address % PAYLOAD_BYTES or not 0 <= address <= (1 << 32) - len(image):
        raise ValueError(f"{len(image)} bytes at {address:#x} are no image for UF2")
    total = -(-len(image) // PAYLOAD_BYTES)
    blocks = []
    for number in range(total):
        at = number * PAYLOAD_BYTES
        data = image[at : at + PAYLOAD_BYTES].ljust(PAYLOAD_BYTES, b"\xff")
        blocks.append(
            _BLOCK.pack(*_MAGIC, _HAS_FAMILY, address + at, PAYLOAD_BYTES, number, total, family, data, _MAGIC_END)
        )
    return b"".join(blocks)


def unpack(data: bytes, *, family: int = RP2040, where: str = "UF2") -> tuple[int, bytes]:
    """Address and bytes of the one image in a UF2 file, filled up to whole pages.

    Args:
        data: the file; its blocks may stand in any order.
        family: the only one taken.
        where: name of the file, for errors.

    Raises:
        DataError: not UF2, for another family, blocks missing or twice, or with gaps between them.
    """
    if not data or len(data) % BLOCK_BYTES:
        raise DataError(f"{len(data)} bytes are not blocks of {BLOCK_BYTES}", where=where, fix="build or fetch it anew")
    blocks: dict[int, tuple[int, bytes]] = {}
    count = len(data) // BLOCK_BYTES
    for index, fields in enumerate(_BLOCK.iter_unpack(data)):
        *magic, flags, address, size, number, total, owner, payload, end = fields
        if (*magic, end) != (*_MAGIC, _MAGIC_END):
            raise _damaged(where, f"block {index} has no magic")
        if flags != _HAS_FAMILY or owner != family:
            raise DataError(f"is for family {owner:08x}, not {family:08x}", where=where, fix="use the board's image")
        if size != PAYLOAD_BYTES or address % PAYLOAD_BYTES:
            raise _damaged(where, f"block {index} is {size} bytes at {address:#x}")
        if total != count or number >= count or number in blocks:
            raise _damaged(where, f"block {number} of {total} among {count}")
        blocks[number] = address, payload[:PAYLOAD_BYTES]
    start = blocks[0][0]
    for number in range(count):
        if blocks[number][0] != start + number * PAYLOAD_BYTES:
            raise _damaged(where, f"a gap before block {number}")
    return start, b"".join(blocks[number][1] for number in range(count))


def _damaged(where: str, what: str) -> DataError:
    return DataError(f"is not the UF2 of one image: {what}", where=where, fix="build or fetch it anew")
