"""Files that come from elsewhere, part by part: under plain names, with the declared length and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from protos.errors import IntegrityError

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_NAME", "Files", "ReceivedFiles", "receive_file_part"]

MAX_BYTES = 1 << 30
MAX_FILES = 16
MAX_NAME = 100


class Files(Protocol):
    """What takes files, as :class:`ReceivedFiles` does."""

    def begin(self, name: str, size_bytes: int, sha256: bytes, from_byte: int = 0) -> None:
        """Begin a file, or go on with one."""

    def add(self, data: bytes) -> None:
        """Add to the file that was begun last."""


class ReceivedFiles:
    """Takes files one after another.

    Nothing is trusted: a name that is more than a name, more bytes than declared, or another hash is an
    :class:`~protos.errors.IntegrityError`.

    Args:
        opened: a file's name to where its bytes go, by `write`.
        ended: called with that when all of a file has come; before it is known whether they are the declared ones.
        goes_on: a file's name, and how much of it is here already, to the same and the hash of those bytes; None:
            nothing is.
    """

    def __init__(
        self,
        opened: Callable[[str], Any],
        ended: Callable[[Any], object] = lambda _: None,
        goes_on: Callable[[str, int], tuple[Any, Any]] | None = None,
    ) -> None:
        self._opened, self._ended, self._goes_on = opened, ended, goes_on
        self._sink: Any = None
        self._names: set[str] = set()
        self._name, self._declared, self._size, self._total = "", (0, b""), 0, 0
        self._digest = hashlib.sha256()

    def begin(self, name: str, size_bytes: int, sha256: bytes, from_byte: int = 0) -> None:
        """End the file before, and begin one of these declared properties, or go on with it from a byte on.

        Raises:
            IntegrityError: the file before is not as declared, the name cannot be one, or less of it is here.
            OSError: it cannot be written.
        """
        self.finish()
        plain = Path(name).name == name and name not in ("", ".", "..") and name.isprintable() and "\\" not in name
        if not plain or len(name) > MAX_NAME or name in self._names or len(self._names) >= MAX_FILES:
            raise IntegrityError(f"{name[:MAX_NAME]!r} cannot be a file of a bundle", where="bundle")
        self._names.add(name)
        self._name, self._declared, self._size, self._digest = name, (size_bytes, sha256), 0, hashlib.sha256()
        if not from_byte:
            self._sink = self._opened(name)
            return
        if self._goes_on is None or from_byte > size_bytes:
            raise IntegrityError(f"goes on from byte {from_byte}, which was not asked for", where=f"bundle file {name}")
        self._sink, self._digest = self._goes_on(name, from_byte)
        self._size, self._total = from_byte, self._total + from_byte

    def add(self, data: bytes) -> None:
        """Add bytes to the file that was begun last.

        Raises:
            IntegrityError: none was begun, or these are more than were declared.
        """
        self._size += len(data)
        self._total += len(data)
        if self._sink is None or self._size > self._declared[0] or self._total > MAX_BYTES:
            raise IntegrityError("sends more than it declared", where="bundle")
        self._digest.update(data)
        self._sink.write(data)

    def finish(self) -> None:
        """The file that was begun last has come whole, and is the declared one.

        Raises:
            IntegrityError: it is not.
        """
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        self._ended(sink)
        if (self._size, self._digest.digest()) != self._declared:
            raise IntegrityError("arrived damaged", where=f"bundle file {self._name}", fix="it will be asked again")


def receive_file_part(files: Files, part: Any, allowed: Iterable[Callable[[str, int], None]] = ()) -> None:
    """One part of a stream of files: a `file` part begins one, its `data` parts follow.

    Args:
        part: a message with `file` and `data`, one of them set.
        allowed: each is called with a file's name and declared size before it begins, and raises where it may not.
    """
    if part.WhichOneof("part") == "file":
        for one in allowed:
            one(part.file.name, part.file.size_bytes)
        files.begin(part.file.name, part.file.size_bytes, part.file.sha256, part.file.from_byte)
    else:
        files.add(part.data)
