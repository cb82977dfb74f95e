"""Which example is which, by its content: an embedding that was computed once is found again in other data.

Data grow and are set in another order; what the frozen backbone makes of one example does not change. Each row of a
cache has a key, a hash of the raw example. A cache that is filled anew takes the rows of examples that the caches
beside it have, of the same backbone, preprocessing and engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.datafiles.lazy import FileRows
from protos.datafiles.stored import Rows, StoredRows

KEY_BYTES = 16
NO_KEY = bytes(KEY_BYTES)
"""Of a row of which nobody knows the example: it was embedded by a version that kept no keys."""


def keys_of(raw: npt.NDArray[Any]) -> list[bytes]:
    """A key for each raw example of [n, ...]: the first 16 bytes of the SHA-256 of its dtype, shape and values."""
    head = f"{raw.dtype.str}{raw.shape[1:]}".encode()
    return [hashlib.sha256(head + np.ascontiguousarray(one).tobytes()).digest()[:KEY_BYTES] for one in raw]


def keys_remembered(raw: Rows, block: slice) -> list[bytes | None]:
    """The keys of examples that need not be read for it, since they are files that were read before; else None each."""
    if isinstance(raw, StoredRows) and isinstance(raw.source, FileRows):
        return raw.source.keys(raw.places[block])
    return [None] * len(range(*block.indices(len(raw))))


def remember_keys(raw: Rows, block: slice, keys: Sequence[bytes]) -> None:
    """Remember the keys of examples that are files."""
    if isinstance(raw, StoredRows) and isinstance(raw.source, FileRows):
        raw.source.keep_keys(raw.places[block], keys)


def damaged_in(raw: Rows) -> int:
    """How many examples turned out to be damaged while they were read."""
    return raw.source.bad if isinstance(raw, StoredRows) and isinstance(raw.source, FileRows) else 0


def read_keys(path: Path, rows: int) -> npt.NDArray[np.uint8]:
    """The keys of the first ``rows`` rows, uint8 [n, 16] with n up to ``rows``: what is missing is not known."""
    try:
        data = path.read_bytes()[: rows * KEY_BYTES]
    except OSError:
        return np.zeros((0, KEY_BYTES), np.uint8)
    count = len(data) // KEY_BYTES
    return np.frombuffer(data[: count * KEY_BYTES], np.uint8).reshape(count, KEY_BYTES)


class Known:
    """Embeddings by key, from several caches.

    Rows stay in their files. In memory are 32 bytes of each: its key, and the first half of that with its place, in the
    order of the former. The whole key is compared when one is found.
    """

    def __init__(self) -> None:
        self._views: list[npt.NDArray[Any]] = []
        self._keys: list[npt.NDArray[np.uint8]] = []
        self._ends: list[int] = [0]
        self._halves = np.zeros(0, np.uint64)
        self._places = np.zeros(0, np.int64)

    def add(self, view: npt.NDArray[Any], keys: npt.NDArray[np.uint8]) -> None:
        """Take a cache's rows [N, D] with the keys of the first of them."""
        if not len(keys):
            return
        halves = np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
        places = self._ends[-1] + np.arange(len(keys), dtype=np.int64)
        self._views.append(view)
        self._keys.append(keys)
        self._ends.append(self._ends[-1] + len(keys))
        both, all_places = np.concatenate([self._halves, halves]), np.concatenate([self._places, places])
        order = np.argsort(both, kind="stable")
        self._halves, self._places = both[order], all_places[order]

    def __len__(self) -> int:
        return len(self._halves)

    def find(self, key: bytes) -> npt.NDArray[Any] | None:
        """The embedding [D] of the example with this key, or None."""
        if not len(self._halves) or key == NO_KEY:
            return None
        half = np.frombuffer(key[:8], np.uint64)[0]
        at = int(np.searchsorted(self._halves, half))
        while at < len(self._halves) and self._halves[at] == half:
            place = int(self._places[at])
            cache = int(np.searchsorted(self._ends, place, side="right")) - 1
            row = place - self._ends[cache]
            if self._keys[cache][row].tobytes() == key:
                found: npt.NDArray[Any] = np.asarray(self._views[cache][row])
                return found
            at += 1
        return None
