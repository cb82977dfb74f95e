"""Images that stay in their files until they are embedded: a list of paths, read a few at a time, each decoded once.

What was found out about an image (whether it can be read, and the hash of its pixels) is kept by whoever opens the
data, under the file's path, size and time of change (:class:`Known`). As long as these stay the same nothing is decoded
again: the embedding is found by the hash. An image that turns out to be damaged while it is decoded is noted, and
stands in as zeros; who reads looks at the data again afterwards, without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protos.errors import DataError
from protos.progress import progressed

__all__ = ["FileRows", "Known", "Opens", "is_of_system", "stamp_of"]


_SAMPLED_BYTES = 16 << 20


class Opens(Protocol):
    """Makes raw values of one file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each example."""
        ...

    def read(self, path: Path) -> NDArray[Any]:
        """The values of this file.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def dtype_of(self, paths: Sequence[Path]) -> np.dtype[Any]:
        """uint8 or float32: what all of these are given as."""
        ...


class Known(Protocol):
    """What is remembered of files between two looks."""

    def look_of(self, stamp: str) -> str | None:
        """What the header of this file said (:meth:`~protos.datafiles.formats.pixels.Opener.look`); None: nobody."""
        ...

    def keep_look(self, stamp: str, look: str) -> None:
        """Remember it; a look that begins with `bad: ` is why the file cannot be used."""
        ...

    def key_of(self, stamp: str, shape: tuple[int, ...]) -> bytes | None:
        """The hash of its pixels in this shape; None when it was not decoded so."""
        ...

    def keep_key(self, stamp: str, shape: tuple[int, ...], key: bytes) -> None:
        """Remember it."""
        ...

    def sync(self) -> None:
        """What was remembered is on disk."""
        ...


class FileRows:
    """Images of one size, uint8 [N, height, width, channels], or examples of another kind, in their files.

    It stands for an array of rows as :class:`protos.datafiles.stored.StoredArray` does.

    Args:
        paths: of the images.
        stamps: of the files: see :func:`stamp_of`.
        opener: makes pixels of them.
        folder: what the user named, for messages.
        known: what is remembered.
    """

    mapped = None

    def __init__(self, paths: Sequence[Path], stamps: Sequence[str], opener: Opens, folder: Path, known: Known) -> None:
        self._paths, self._stamps, self._opener, self._known = list(paths), list(stamps), opener, known
        self.where, self.count, self.row_shape = str(folder), len(paths), opener.shape
        # One example of real numbers makes all of them such.
        self.dtype = opener.dtype_of(self._paths)
        # What was decoded to be looked at, until it is read.
        self._sampled: dict[int, NDArray[Any]] = {}
        self._to_look_at: set[int] = set()
        self.bad = 0
        """Images that turned out to be damaged since this was made."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These images; zeros for one that cannot be decoded, which is noted."""
        out = np.zeros((len(rows), *self.row_shape), self.dtype)
        for place, row in enumerate(rows.tolist()):
            progressed()
            held = self._sampled.get(row)
            if row in self._to_look_at:
                self._to_look_at.discard(row)
            else:
                self._sampled.pop(row, None)
            if held is None:
                held = self._decoded(row)
            if held is not None:
                out[place] = held
        self._known.sync()
        return out

    def sample(self, rows: NDArray[np.int64]) -> None:
        """Decode these ahead, as long as few megabytes hold them, and keep them until they are read twice: to be looked
        at, and to be embedded."""
        each = max(1, self.dtype.itemsize * int(np.prod(self.row_shape)))
        for row in rows.tolist()[: max(1, _SAMPLED_BYTES // each)]:
            progressed()
            found = self._decoded(row)
            if found is not None:
                self._sampled[row] = found
                self._to_look_at.add(row)

    def keys(self, rows: NDArray[np.int64]) -> list[bytes | None]:
        """The hash of each of these images; None of those that nobody decoded yet."""
        return [self._known.key_of(self._stamps[row], self.row_shape) for row in rows.tolist()]

    def keep_keys(self, rows: NDArray[np.int64], keys: Sequence[bytes]) -> None:
        """Remember the hashes of images that were read just now."""
        for row, key in zip(rows.tolist(), keys, strict=True):
            if not (self._known.look_of(self._stamps[row]) or "").startswith("bad: "):
                self._known.keep_key(self._stamps[row], self.row_shape, key)
        self._known.sync()

    def fingerprint(self, rows: NDArray[np.int64]) -> str:
        """Of these images, by path, size and time of change: nothing is read."""
        stamps = [self._stamps[row] for row in rows.tolist()]
        return hashlib.sha256(json.dumps([stamps, list(self.row_shape)]).encode()).hexdigest()

    def _decoded(self, row: int) -> NDArray[Any] | None:
        try:
            return self._opener.read(self._paths[row])
        except DataError as error:
            if is_of_system(error):
                # A disk that is away says nothing of the image.
                raise
            self.bad += 1
            self._known.keep_look(self._stamps[row], f"bad: {error.what}")
            return None


def is_of_system(error: DataError) -> bool:
    """Whether the system, and not the content of the file, is why it cannot be read."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def stamp_of(path: Path) -> str:
    """Path, size and time of change of a file; another one whenever its content may be.

    Raises:
        OSError: it cannot be looked at.
    """
    found = path.stat()
    return f"{path}|{found.st_size}|{found.st_mtime_ns}"
