"""Rows that stay in their file until they are asked for: what a device embeds need not fit into its memory.

A file that is not compressed holds its rows one after the other, so that any of them can be read alone. Blocks are
read with `pread` and not through a memory map: pages of a map count as resident memory of the process, and a file
that is cut short under a map ends the process instead of raising an error.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.formats.columns import reading
from protos.datafiles.rows import BLOCK_BYTES, kept_dtype
from protos.errors import DataError
from protos.progress import progressed

# Rows between two wanted ones that are read along rather than skipped, in number and bytes.
_GAP_ROWS, _GAP_BYTES = 3, 16 << 10


class StoredArray:
    """An array [count, *row_shape] in C order within an open file.

    Args:
        file: descriptor of the file; a duplicate of it is kept open for as long as this lives.
        where: path of the file.
        offset: of the first byte of the first row.
        count: rows.
        row_shape: shape of one row, without a 0.
        stored: dtype in the file, of either byte order.

    Attributes:
        dtype: uint8 or float32, what rows are given as (see `kept_dtype`).
    """

    def __init__(
        self, file: int, where: str, offset: int, count: int, row_shape: tuple[int, ...], stored: np.dtype[Any]
    ) -> None:
        self.where, self.count, self.row_shape = where, count, row_shape
        self.dtype = kept_dtype(stored, where)
        self._stored, self._offset = stored, offset
        self._row_bytes = stored.itemsize * math.prod(row_shape)
        self._file = os.dup(file)
        weakref.finalize(self, os.close, self._file)
        self._stamp = self._stamp_now()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, uint8 or float32 [len(rows), *row_shape]; one call of the system for a run of near ones.

        Raises:
            DataError: the file cannot be read, or was changed since it was opened.
        """
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        with reading(self.where, "an npz file"):
            ahead = np.diff(rows)
            far = (ahead < 1) | (ahead > 1 + min(_GAP_ROWS, _GAP_BYTES // self._row_bytes))
            limits = [0, *(np.flatnonzero(far) + 1).tolist(), len(rows)]
            step = max(1, BLOCK_BYTES // (1 + _GAP_ROWS) // self._row_bytes)
            for first, last in itertools.pairwise(limits):
                for start in range(first, last, step):
                    progressed()
                    near = rows[start : min(start + step, last)]
                    lowest, span = int(near[0]), int(near[-1] - near[0]) + 1
                    block = self._span(lowest, span)
                    # A float64 beyond float32 becomes infinity here, and `check` says which example that is.
                    with np.errstate(over="ignore"):
                        out[start : start + len(near)] = block if span == len(near) else block[near - lowest]
            if self._stamp_now() != self._stamp:
                raise DataError("was changed while it was in use", where=self.where, fix="start again")
        return out

    @cached_property
    def mapped(self) -> NDArray[Any] | None:
        """A read-only memory map of all rows; None when they must be converted."""
        if self._stored != self.dtype:
            return None
        with reading(self.where, "an npz file"), open(self._file, "rb", closefd=False) as file:
            return np.memmap(file, self.dtype, "r", self._offset, (self.count, *self.row_shape))

    def _span(self, first: int, count: int) -> NDArray[Any]:
        size, place = count * self._row_bytes, self._offset + first * self._row_bytes
        data = os.pread(self._file, size, place)
        while len(data) < size:
            more = os.pread(self._file, size - len(data), place + len(data))
            if not more:
                raise EOFError(f"ends {size - len(data)} bytes too early")
            data += more
        return np.frombuffer(data, self._stored).reshape(count, *self.row_shape)

    def _stamp_now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns


class Source(Protocol):
    """What rows are read from: a file that holds an array, or the files of a folder."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        ...

    @property
    def mapped(self) -> NDArray[Any] | None:
        """All rows as a memory map, or None."""
        ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows."""
        ...


class StoredRows:
    """Some rows of a stored array, [N, *row_shape]; a slice of it is read into memory.

    Args:
        source: the array, or the files.
        rows: [N] places in it, in the order wanted.
        row_shape: another shape of one row, of as many values.
    """

    def __init__(self, source: Source, rows: NDArray[np.int64], row_shape: tuple[int, ...] | None = None) -> None:
        self._source, self._rows = source, rows
        self._row_shape = source.row_shape if row_shape is None else row_shape

    @property
    def source(self) -> Source:
        """What the rows are read from."""
        return self._source

    @property
    def places(self) -> NDArray[np.int64]:
        """Where they are in it."""
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._source.dtype

    def __getitem__(self, block: slice) -> NDArray[Any]:
        read = self._source.read(self._rows[block])
        return read.reshape(len(read), *self._row_shape)

    def select(self, places: NDArray[np.int64]) -> StoredRows:
        """The rows at these places, in this order. Nothing is read."""
        return StoredRows(self._source, self._rows[places], self._row_shape)

    def reshaped(self, row_shape: tuple[int, ...]) -> StoredRows:
        """The same rows in another shape."""
        return StoredRows(self._source, self._rows, row_shape)

    @cached_property
    def array(self) -> NDArray[Any]:
        """All rows: a read-only memory map where they are neighbours in the file, else read into memory, once."""
        consecutive = len(self._rows) > 0 and bool((np.diff(self._rows) == 1).all())
        if not consecutive or self._source.mapped is None:
            return self[:]
        first = int(self._rows[0])
        return self._source.mapped[first : first + len(self._rows)].reshape(self.shape)


# Examples as they are held: in memory, or in a file from which slices are read.
Rows: TypeAlias = NDArray[Any] | StoredRows


def taken(held: Rows, places: NDArray[Any]) -> NDArray[Any]:
    """The rows at these places, in this order, in memory; nothing else is read."""
    return held.select(np.asarray(places, np.int64))[:] if isinstance(held, StoredRows) else held[places]
