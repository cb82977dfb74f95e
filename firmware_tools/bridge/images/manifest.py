"""The committed images of the bridge's firmware, and the manifest that says what they are.

``firmware/images/manifest.json`` has one entry for each board::

    "atmega328p": {"file": "edgejoule-bridge-atmega328p.hex", "sha256": "...", "build_id": "...", "sources": "...",
                   "protocol": "1.1", "firmware": "0.2.0", "toolchain": {"avr-gcc": "5.4.0", ...}}

``build_id`` and the first four bytes of ``sources`` are what the running bridge says in HELLO (``build``, ``git``), so
that a port can be asked which image it runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protos.atomic import write_whole
from protos.errors import IntegrityError, ModelError, UsageError

__all__ = ["IMAGES", "Image", "image_of", "read_manifest", "verified_bytes", "write_manifest"]

IMAGES = Path(__file__).parents[1] / "firmware" / "images"
_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Image:
    """One entry of the manifest.

    Args:
        file: name of the Intel hex or UF2 file, beside the manifest.
        sha256: of that file, hexadecimal.
        build_id: first 8 bytes of the SHA-256 of the image with the id blanked, hexadecimal.
        sources: SHA-256 over the sources (``build.source_digest``), hexadecimal.
        protocol: of the wire, ``major.minor``.
        firmware: ``major.minor.patch``.
        toolchain: versions that made it, by program.
    """

    file: str
    sha256: str
    build_id: str
    sources: str
    protocol: str
    firmware: str
    toolchain: dict[str, str]


def read_manifest(folder: Path = IMAGES) -> dict[str, Image]:
    """Entries by board; none when there is no manifest.

    Raises:
        ModelError: it is not what this module writes.
    """
    path = folder / _NAME
    try:
        entries: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as cause:
        raise ModelError(f"cannot be read: {cause}", where=str(path), fix="restore it from the repository") from cause
    try:
        return {board: Image(**fields) for board, fields in entries.items()}
    except (AttributeError, TypeError) as cause:
        raise ModelError(f"is no manifest: {cause}", where=str(path), fix="restore it from the repository") from cause


def image_of(board: str, folder: Path = IMAGES) -> Image:
    """The entry of a board.

    Raises:
        UsageError: there is none.
    """
    entries = read_manifest(folder)
    if board not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise UsageError(f"no image for board {board!r}", where=str(folder), fix=f"there are: {known}")
    return entries[board]


def verified_bytes(image: Image, folder: Path = IMAGES) -> bytes:
    """The file of an entry.

    Raises:
        IntegrityError: it is missing, or not the one that the manifest describes.
    """
    path = folder / image.file
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise IntegrityError("cannot be read", where=str(path), fix="restore it from the repository") from cause
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise IntegrityError("is not the file of the manifest", where=str(path), fix="restore both, or build anew")
    return data


def write_manifest(entries: dict[str, Image], folder: Path) -> None:
    """Write the manifest whole; boards in order."""
    table = {board: asdict(entries[board]) for board in sorted(entries)}
    with write_whole(folder / _NAME) as file:
        file.write(json.dumps(table, indent=2).encode() + b"\n")
