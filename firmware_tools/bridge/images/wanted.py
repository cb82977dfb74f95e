"""The image that a bridge is to run: the committed one, or a file; its identity, and where it is known from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from firmware_tools.bridge.images.intel_hex import read_intel_hex
from firmware_tools.bridge.images.manifest import IMAGES, image_of, read_manifest, verified_bytes
from firmware_tools.bridge.images.uf2 import unpack
from protos.errors import DataError

__all__ = ["BOARD_CODES", "Wanted", "wanted_image"]

BOARD_CODES = {"atmega328p": 1, "rp2040": 2}
"""Byte ``board`` of HELLO."""

_TAG = b"EJ-BUILD"
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Wanted:
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


def wanted_image(board: str, file: Path | None = None) -> Wanted:
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
    return Wanted(board, path, data, build_id, firmware)
