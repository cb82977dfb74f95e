"""The container of a recording: blocks that stand alone, each with its length and its check.

A file is blocks and nothing else, so that it can only grow at its end (integers little-endian)::

    marker 4 bytes (89 "EJR") | kind u8 (1 header, 2 data) | version u8 = 1 | number u32 | size u32 | check u32 |
    body, ``size`` bytes

``number`` counts blocks from 0. ``check`` is the CRC-32 (zlib) of kind .. size and the body. A reader that finds no
whole block where one should be looks for the next marker from which a whole block follows: a cut file loses its last
block, a damaged one what was damaged. Kinds and versions that are not known are passed over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import IO

__all__ = ["LONGEST_BODY", "MARKER", "VERSION", "Block", "Damage", "Kind", "Scan", "block_bytes"]

MARKER = b"\x89EJR"
VERSION = 1
LONGEST_BODY = 4 << 20
"""Longer bodies are neither written nor believed."""
_HEAD = struct.Struct("<4sBBIII")
_CHECKED = slice(4, 14)
_READ_BYTES = 1 << 16


class Kind(IntEnum):
    """What a block holds."""

    HEADER = 1
    DATA = 2


@dataclass(frozen=True, slots=True)
class Block:
    """One whole block and where it begins in its file."""

    kind: int
    number: int
    body: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Damage:
    """What a reader had to leave out.

    Args:
        skipped_bytes: bytes that belong to no whole block, but for the end of the file.
        missing_blocks: numbers that are not there between those that are.
        cut_bytes: bytes at the end that belong to no whole block: the block being written at a power cut.
        strange_blocks: whole blocks whose contents are none of this format.
    """

    skipped_bytes: int = 0
    missing_blocks: int = 0
    cut_bytes: int = 0
    strange_blocks: int = 0

    def __bool__(self) -> bool:
        return self != Damage()


def block_bytes(kind: Kind, number: int, body: bytes) -> bytes:
    """A block as it stands in the file."""
    if len(body) > LONGEST_BODY:
        raise ValueError(f"a body of {len(body)} bytes")
    head = _HEAD.pack(MARKER, kind, VERSION, number & 0xFFFFFFFF, len(body), 0)
    return head[:-4] + struct.pack("<I", _check(head, body)) + body


class Scan:
    """The whole blocks of a file, in order; ``damage`` is complete when the iteration is.

    Memory is that of one block, however long the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._window = bytearray()
        self._ended = False
        self.damage = Damage()

    def __iter__(self) -> Iterator[Block]:
        at, expected, loose = 0, 0, 0
        while self._has(1):
            block = self._whole(at)
            if block is None:
                # Not even the marker may be trusted: look for the next one behind it.
                passed = self._pass_to_marker()
                loose, at = loose + passed, at + passed
                continue
            self.damage = replace(
                self.damage,
                skipped_bytes=self.damage.skipped_bytes + loose,
                missing_blocks=self.damage.missing_blocks + max(0, block.number - expected),
            )
            loose, expected = 0, block.number + 1
            at += _HEAD.size + len(block.body)
            del self._window[: _HEAD.size + len(block.body)]
            yield block
        self.damage = replace(self.damage, cut_bytes=loose)

    def _whole(self, at: int) -> Block | None:
        """The block at the beginning of the window, if one is there."""
        if not self._has(_HEAD.size) or not self._window.startswith(MARKER):
            return None
        head = bytes(self._window[: _HEAD.size])
        _, kind, version, number, size, check = _HEAD.unpack(head)
        if size > LONGEST_BODY or not self._has(_HEAD.size + size):
            return None
        body = bytes(self._window[_HEAD.size : _HEAD.size + size])
        if _check(head, body) != check:
            return None
        return Block(kind if version == VERSION else 0, number, body, at)

    def _pass_to_marker(self) -> int:
        """Drop bytes up to the next marker, or up to the end; how many."""
        passed = 0
        while (found := self._window.find(MARKER, 1)) < 0:
            # The window may end within a marker.
            kept = 0 if self._ended else len(MARKER) - 1
            dropped = max(0, len(self._window) - kept)
            passed += dropped
            del self._window[:dropped]
            if self._ended:
                return passed
            self._has(len(self._window) + _READ_BYTES)
            if self._window.startswith(MARKER) and dropped:
                return passed
        del self._window[:found]
        return passed + found

    def _has(self, count: int) -> bool:
        """Whether the window has ``count`` bytes, after reading what is needed."""
        while len(self._window) < count and not self._ended:
            data = self._file.read(max(_READ_BYTES, count - len(self._window)))
            self._window += data
            self._ended = not data
        return len(self._window) >= count


def _check(head: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(head[_CHECKED]))
