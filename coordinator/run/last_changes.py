"""The last change of each device, which guesses of it are made from: on disk, since each is as large as a head."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from coordinator.budgets.guesses import Remembered
from protos.errors import StoreError
from protos.update.trees import Shapes, Tree


class LastChanges:
    """One row a device in a file without a name, which is gone with the process: all of it can be made anew from the
    reports that the store keeps.

    Args:
        folder: on the disk that has room for a head a device.
        shapes: of the head; float32.
    """

    def __init__(self, folder: Path, shapes: Shapes) -> None:
        self._folder = folder
        self._shapes = {name: shapes[name] for name in sorted(shapes)}
        self._sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in self._shapes.items()}
        self._row_bytes = 4 * sum(self._sizes.values())
        self._rows: dict[str, int] = {}
        self._rounds: dict[str, int] = {}
        self._file: int | None = None

    def round_of(self, device_id: str) -> int | None:
        """Of which round the change of a device is; None without one."""
        return self._rounds.get(device_id)

    def put(self, device_id: str, of_round: int, change: Tree) -> None:
        """Keep a change in place of the one before.

        Raises:
            StoreError: it cannot be written.
        """
        row = self._rows.setdefault(device_id, len(self._rows))
        data = b"".join(np.ascontiguousarray(change[name], np.float32).tobytes() for name in self._shapes)
        # Until it is whole there is none.
        self._rounds.pop(device_id, None)
        try:
            if os.pwrite(self._opened(), data, row * self._row_bytes) != len(data):
                raise OSError("the disk is full")
        except OSError as error:
            raise StoreError(
                f"the last changes of devices cannot be kept ({error.strerror or error})",
                where=str(self._folder),
                fix="free space",
            ) from error
        self._rounds[device_id] = of_round

    def get(self, device_id: str) -> Remembered | None:
        """The change of a device, read now; None without one.

        Raises:
            StoreError: it cannot be read.
        """
        of_round = self._rounds.get(device_id)
        if of_round is None:
            return None
        try:
            data = os.pread(self._opened(), self._row_bytes, self._rows[device_id] * self._row_bytes)
        except OSError as error:
            raise StoreError(
                f"the last changes of devices cannot be read ({error.strerror})", where=str(self._folder)
            ) from error
        flat, at, change = np.frombuffer(data, np.float32), 0, {}
        for name, shape in self._shapes.items():
            change[name] = flat[at : at + self._sizes[name]].reshape(shape)
            at += self._sizes[name]
        return Remembered(change, of_round)

    def _opened(self) -> int:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file, path = tempfile.mkstemp(prefix="last-changes-", dir=self._folder)
            weakref.finalize(self, os.close, self._file)
            Path(path).unlink()
        return self._file
