"""Files that come from elsewhere: into one folder, under plain names, with the declared length and hash."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from protos.convert.received_files import MAX_BYTES, MAX_FILES, MAX_NAME, ReceivedFiles

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_NAME", "FileDownloads"]


class FileDownloads(ReceivedFiles):
    """Writes files into an existing folder, one after another. A context manager, which closes what is open.

    What is trusted, see :class:`~protos.convert.received_files.ReceivedFiles`; a file that has ended is on disk. What
    to do with a folder that was filled in part is for the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        super().__init__(self._open, self._end)

    def _open(self, name: str) -> BinaryIO:
        self._file = (self._folder / name).open("xb")
        return self._file

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
