"""Files that come from elsewhere: into one folder, under plain names, with the declared length and hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from protos.errors import IntegrityError

MAX_BYTES = 1 << 30
MAX_FILES = 16
MAX_NAME = 100


class FileDownloads:
    """Writes files into an existing folder, one after another. A context manager, which closes what is open.

    Nothing is trusted: a name that is more than a name, more bytes than declared, or another hash is an
    :class:`~protos.errors.IntegrityError`. What to do with a folder that was filled in part is for the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._names: set[str] = set()
        self._name, self._declared, self._size, self._total = "", (0, b""), 0, 0
        self._digest = hashlib.sha256()

    def begin(self, name: str, size_bytes: int, sha256: bytes) -> None:
        """End the file before, and begin one of these declared properties.

        Raises:
            IntegrityError: the file before is not as declared, or the name cannot be one.
            OSError: it cannot be written.
        """
        self.finish()
        plain = Path(name).name == name and name not in ("", ".", "..") and name.isprintable() and "\\" not in name
        if not plain or len(name) > MAX_NAME or name in self._names or len(self._names) >= MAX_FILES:
            raise IntegrityError(f"{name[:MAX_NAME]!r} cannot be a file of a bundle", where="bundle")
        self._names.add(name)
        self._name, self._declared, self._size, self._digest = name, (size_bytes, sha256), 0, hashlib.sha256()
        self._file = (self._folder / name).open("xb")

    def add(self, data: bytes) -> None:
        """Add bytes to the file that was begun last.

        Raises:
            IntegrityError: none was begun, or these are more than were declared.
        """
        self._size += len(data)
        self._total += len(data)
        if self._file is None or self._size > self._declared[0] or self._total > MAX_BYTES:
            raise IntegrityError("sends more than it declared", where="bundle")
        self._digest.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """The file that was begun last is on disk, and is the declared one.

        Raises:
            IntegrityError: it is not.
        """
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._close()
        if (self._size, self._digest.digest()) != self._declared:
            raise IntegrityError("arrived damaged", where=f"bundle file {self._name}", fix="it will be asked again")

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
