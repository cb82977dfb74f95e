"""Files that come from elsewhere: into one folder, under plain names, with the declared length and hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from protos.convert.received_files import MAX_BYTES, MAX_FILES, MAX_NAME, ReceivedFiles
from protos.errors import IntegrityError

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_NAME", "FileDownloads"]


class FileDownloads(ReceivedFiles):
    """Writes files into an existing folder, one after another. A context manager, which closes what is open.

    A file that is in the folder already is written anew, or gone on with where the sender says so. What is trusted,
    see :class:`~protos.convert.received_files.ReceivedFiles`; a file that has ended is on disk. What
    to do with a folder that was filled in part is for the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        super().__init__(self._open, self._end, self._go_on)

    def _open(self, name: str) -> BinaryIO:
        self._file = (self._folder / name).open("wb")
        return self._file

    def _go_on(self, name: str, from_byte: int) -> tuple[BinaryIO, Any]:
        """A file of which an earlier call brought the beginning, and the hash of that."""
        digest, left = hashlib.sha256(), from_byte
        try:
            self._file = (self._folder / name).open("r+b")
        except FileNotFoundError as error:
            raise IntegrityError("nothing of it is here", where=f"bundle file {name}") from error
        while left and (data := self._file.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        if left:
            raise IntegrityError(f"less than {from_byte} bytes of it are here", where=f"bundle file {name}")
        self._file.truncate(from_byte)
        return self._file, digest

    def _end(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> FileDownloads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
