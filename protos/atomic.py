"""Files are written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def write_whole(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under `path` only when the block ends without an error.

    The bytes go to a temporary file in the same folder, are forced to disk, and are then renamed over
    `path`; the folder is forced to disk as well, so that the new name survives a power cut. When the block
    raises, `path` is what it was before.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    target = Path(path)
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only the owner may read; give what an ordinary open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    force_to_disk(target.parent)


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """A new name in the folder of `path`, for a library that opens files by itself; what it wrote there appears under
    `path` when the block ends without an error, on disk, and otherwise nothing does. Two that write the same file at
    the same time have a name each.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    target = Path(path)
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(number)
    made = Path(name)
    try:
        yield made
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        force_to_disk(made)
        os.replace(made, target)
    finally:
        made.unlink(missing_ok=True)
    force_to_disk(target.parent)


def force_to_disk(path: str | Path) -> None:
    """Force the bytes of a file, or the names in a folder, to disk. Windows opens no folder, forces nothing that is
    open for reading, and writes names by itself.

    Raises:
        OSError: it cannot.
    """
    if sys.platform == "win32":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
