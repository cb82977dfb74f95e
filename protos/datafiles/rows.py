"""Rows out of a stream, a block at a time: memory for what is kept, not for what is in the file.

A board has 512 MB and a file may hold the data of a hundred owners. The stream is read to its end even
when the last rows are not wanted, because only then do zip and gzip compare their checksum.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protos.errors import DataError
from protos.progress import progressed

BLOCK_BYTES = 1 << 22


class Readable(Protocol):
    """The one method of a binary stream that is used here."""

    def read(self, size: int = -1, /) -> bytes: ...


def kept_dtype(stored: np.dtype[Any], where: str) -> np.dtype[Any]:
    """uint8 stays uint8, bool becomes uint8, every other number becomes float32.

    Raises:
        DataError: text, complex numbers, dates, records or Python objects.
    """
    if stored.kind == "b" or stored == np.uint8:
        return np.dtype(np.uint8)
    if stored.kind in "iuf":
        return np.dtype(np.float32)
    raise DataError(f"`x` holds {stored} values", where=where, fix="store `x` as uint8 or float32")


def are_token_ids(values: NDArray[Any], vocabulary: int) -> NDArray[np.bool_]:
    """Which values are whole numbers from 0 to ``vocabulary`` - 1: bool, of their shape. NaN and infinity are not."""
    with np.errstate(invalid="ignore"):
        return np.asarray((values >= 0) & (values < vocabulary) & (values == np.floor(values)))


def read_exactly(stream: Readable, size: int) -> bytes:
    """`size` bytes.

    Raises:
        EOFError: the stream ends before that.
    """
    pieces = []
    missing = size
    while missing:
        progressed()
        # A stream may set aside as many bytes as it is asked for, also where a header says more than there is.
        piece = stream.read(min(missing, BLOCK_BYTES))
        if not piece:
            raise EOFError(f"ends {missing} bytes too early")
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_rows(
    stream: Readable,
    count: int,
    row_shape: tuple[int, ...],
    stored: np.dtype[Any],
    rows: NDArray[np.int64] | None,
    where: str,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Read `count` rows in C order and keep some of them.

    Args:
        stream: at the first byte of the first row.
        count: rows in the stream.
        row_shape: shape of one row.
        stored: dtype in the stream, of either byte order.
        rows: ascending indices of the rows to keep; None keeps all.
        where: file name for messages.
        out: array [len(rows), *row_shape] to fill instead of a new one.

    Returns:
        uint8 or float32 [len(rows), *row_shape] (see `kept_dtype`).

    Raises:
        DataError: a dtype that is no number.
        EOFError: the stream ends early.
    """
    kept = kept_dtype(stored, where)
    length = count if rows is None else len(rows)
    row_bytes = stored.itemsize * math.prod(row_shape)
    if out is None:
        out = np.empty((length, *row_shape), kept)
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, count, step):
        stop = min(start + step, count)
        block = np.frombuffer(read_exactly(stream, (stop - start) * row_bytes), stored)
        block = block.reshape(stop - start, *row_shape)
        # A float64 beyond float32 becomes infinity here, and `check` says which example that is.
        with np.errstate(over="ignore"):
            if rows is None:
                out[start:stop] = block
            else:
                low, high = np.searchsorted(rows, (start, stop))
                out[low:high] = block[rows[low:high] - start]
    while stream.read(BLOCK_BYTES):
        pass
    return out
