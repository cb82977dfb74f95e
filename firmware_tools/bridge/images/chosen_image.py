"""The image that a bridge is to run: the committed one, or a file; its identity, and where it is known from.

Reading Intel hex files, the form in which an AVR's flash is kept (``build.intel_hex`` writes them).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from firmware_tools.bridge.images.manifest import IMAGES, image_of, read_manifest, verified_bytes
from firmware_tools.bridge.images.uf2 import unpack
from protos.errors import DataError

__all__ = ["BOARD_CODES", "ChosenImage", "read_intel_hex", "wanted_image"]

_DATA, _END, _SEGMENT, _START_SEGMENT, _UPPER, _START = range(6)
_LIMIT = 0x10000


def read_intel_hex(data: bytes, *, where: str) -> bytes:
    """The image from address 0, gaps filled with FFh as erased flash reads; at most 64 KiB.

    Args:
        data: the file.
        where: its name, for errors.

    Raises:
        DataError: not Intel hex, a wrong checksum, bytes given twice, no end record, or addresses past 64 KiB.

    >>> read_intel_hex(b":020000000102FB\\n:00000001FF\\n", where="x").hex()
    '0102'
    """
    image: dict[int, int] = {}
    lines = data.split()
    for number, line in enumerate(lines, start=1):
        kind, address, content = _record(line, f"{where}:{number}")
        if kind == _END:
            if number != len(lines):
                raise _damaged("text after the end record", f"{where}:{number}")
            return bytes(image.get(at, 0xFF) for at in range(max(image, default=-1) + 1))
        if kind == _DATA:
            places = range(address, address + len(content))
            if places.stop > _LIMIT or not image.keys().isdisjoint(places):
                raise _damaged("bytes that are given twice or lie past 64 KiB", f"{where}:{number}")
            image.update(zip(places, content, strict=True))
        elif kind in (_SEGMENT, _UPPER) and any(content):
            raise _damaged("addresses past 64 KiB", f"{where}:{number}")
        elif kind not in (_SEGMENT, _START_SEGMENT, _UPPER, _START):
            raise _damaged(f"a record of unknown type {kind}", f"{where}:{number}")
    raise _damaged("no end record", where)


def _record(line: bytes, where: str) -> tuple[int, int, bytes]:
    try:
        raw = bytes.fromhex(line[1:].decode("ascii"))
    except ValueError:
        raw = b""
    if line[:1] != b":" or len(raw) < 5 or len(raw) != raw[0] + 5:
        raise _damaged("no record of Intel hex", where)
    if sum(raw) & 0xFF:
        raise _damaged("a wrong checksum", where)
    return raw[3], int.from_bytes(raw[1:3], "big"), raw[4:-1]


def _damaged(what: str, where: str) -> DataError:
    return DataError(f"the hex file has {what}", where=where, fix="build or fetch it anew")


BOARD_CODES = {"atmega328p": 1, "rp2040": 2}
"""Byte ``board`` of HELLO."""

_TAG = b"EJ-BUILD"
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """An image to be flashed or compared.

    Args:
        board: a key of BOARD_CODES.
        path: of its file.
        data: of that file.
        build_id: in the image, hexadecimal; what HELLO will say.
        firmware: ``major.minor.patch`` by a manifest beside the file; None without one.
    """

    board: str
    path: Path
    data: bytes
    build_id: str
    firmware: str | None

    @property
    def version(self) -> tuple[int, ...] | None:
        return None if self.firmware is None else tuple(map(int, self.firmware.split(".")))


def wanted_image(board: str, file: Path | None = None) -> ChosenImage:
    """The committed image of a board, or the one in ``file``.

    A manifest beside the file that names it must agree with it.

    Raises:
        UsageError: no image of this board is committed.
        DataError: the file cannot be read, or holds no firmware of the bridge.
        IntegrityError: it is not the one of its manifest.
    """
    path = IMAGES / image_of(board).file if file is None else file
    entry = read_manifest(path.parent).get(board)
    if entry is not None and entry.file == path.name:
        data, firmware = verified_bytes(entry, path.parent), entry.firmware
    else:
        entry, firmware = None, None
        try:
            data = path.read_bytes()
        except OSError as cause:
            raise DataError(f"cannot be read: {cause.strerror}", where=str(path), fix="correct --hex") from cause
    image = unpack(data, where=str(path))[1] if board == "rp2040" else read_intel_hex(data, where=str(path))
    at = image.find(_TAG) + len(_TAG)
    if image.count(_TAG) != 1 or len(image) < at + _ID_BYTES:
        raise DataError("holds no firmware of the bridge", where=str(path), fix="give an image of bridge build")
    build_id = image[at : at + _ID_BYTES].hex()
    if entry is not None and entry.build_id != build_id:
        raise DataError(
            f"holds build {build_id}, its manifest says {entry.build_id}", where=str(path), fix="build both anew"
        )
    return ChosenImage(board, path, data, build_id, firmware)
