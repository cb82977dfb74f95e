"""The USB drive of a bootloader: finding it, and copying a UF2 image onto it.

A board with a boot ROM for UF2 (RP2040: hold BOOTSEL while plugging in) shows a FAT drive with ``INFO_UF2.TXT``. It
flashes blocks as they are written and restarts after the last one, so the drive may vanish before the copy is closed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from firmware_tools.bridge.images.uf2 import unpack
from protos.errors import DataError, SensorError, UsageError

__all__ = ["INFO", "MOUNTS", "board_id", "copy_image", "find_drives"]

INFO = "INFO_UF2.TXT"
MOUNTS = Path("/proc/self/mounts")
_FAT = frozenset({"vfat", "msdos", "exfat"})
_GONE = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOENT})


def find_drives(board: str = "RPI-RP2", *, mounts: Path = MOUNTS) -> list[Path]:
    """Mounted drives of boards in their bootloader, in order of mounting.

    Args:
        board: what their ``Board-ID`` begins with.
        mounts: table in the form of ``/proc/self/mounts``. Only FAT is looked at: a dead network share would hang us.
    """
    return [folder for folder in _fat_folders(mounts) if (told := board_id(folder)) and told.startswith(board)]


def board_id(folder: Path) -> str | None:
    """``Board-ID`` of the drive at ``folder``; None when it is no such drive."""
    try:
        text = (folder / INFO).read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^Board-ID:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else None


def copy_image(data: bytes, folder: Path, name: str) -> Path:
    """Copy a UF2 file onto a drive and wait until all of it has left this computer; the path it was given there.

    Raises:
        DataError: ``data`` is no UF2 of one RP2040 image.
        UsageError: ``folder`` is no drive of a bootloader.
        SensorError: the drive went away before the last block, is full, or may not be written.
    """
    unpack(data, where=name)
    if board_id(folder) is None:
        raise UsageError(
            f"has no {INFO}", where=str(folder), fix="plug the board in with BOOTSEL held, mount its drive"
        )
    path = folder / name
    written = 0
    try:
        # Not a temporary file and a rename: the board restarts at the last block.
        with open(path, "wb", buffering=0) as file:
            while written < len(data):
                written += file.write(data[written:])
            os.fsync(file.fileno())
    except OSError as cause:
        if written < len(data) or cause.errno not in _GONE:
            raise SensorError(
                f"the copy failed after {written} of {len(data)} bytes ({cause.strerror})", where=str(path),
                fix="plug the board in again with BOOTSEL held",
            ) from cause  # fmt: skip
    return path


def _fat_folders(mounts: Path) -> Iterable[Path]:
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError as cause:
        raise DataError(
            f"cannot be read: {cause.strerror}", where=str(mounts), fix="name the drive by --volume"
        ) from cause
    for line in lines:
        _, folder, kind, *_ = [*line.split(), "", "", ""]
        if kind in _FAT:
            yield Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), folder))
