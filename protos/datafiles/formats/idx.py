"""IDX files, the format of MNIST and of its many relatives: a pair of images and labels, plain or gzipped.

Header: two zero bytes, a type byte, the number of dimensions, then each dimension as a big-endian 32-bit
integer; the values follow in C order, big-endian. Source: LeCun, Cortes, Burges, "The MNIST database of
handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Remark, Tally
from protos.datafiles.formats import columns as col
from protos.datafiles.formats.columns import Choose, Columns
from protos.datafiles.rows import kept_dtype, read_exactly, read_rows
from protos.errors import DataError, ShapeError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8
# Files of a folder that are held out, by a word of their name such as that of emnist-letters-test-images-idx3-ubyte;
# every other pair is for training.
_HELD_OUT = re.compile(r"(^(t10k|test|val)|[-_.](t10k|test|val|valid|validation|dev|eval)[-_.])", re.IGNORECASE)
_LABELS = re.compile(r"labels[-.]idx\d(?:-\w+)?(?:\.gz)?$", re.IGNORECASE)
_IMAGES = re.compile(r"images[-.]idx\d(?:-ubyte)?(?:\.gz)?$", re.IGNORECASE)


def is_images_file(path: Path) -> bool:
    """Whether the name is that of an images file, such as `train-images-idx3-ubyte.gz`."""
    return _IMAGES.search(path.name) is not None


def images_in(folder: Path) -> list[Path]:
    """The images files of a folder, training files first.

    Of the spellings of one file (`train-images-idx3-ubyte`, `train-images.idx3-ubyte`, either with `.gz`) the first is
    taken, a plain file before a gzipped one.
    """
    found: dict[str, Path] = {}
    with col.reading(str(folder), "a folder of idx files"):
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() == ".gz", path.name)):
            if not path.name.startswith(".") and is_images_file(path) and path.is_file():
                found.setdefault(_one_spelling(path), path)
    return sorted(found.values(), key=lambda path: (_is_held_out(path), path.name))


def left_out(folder: Path, read_files: list[Path]) -> tuple[Remark, ...]:
    """What else lies in a folder of pairs: other spellings of the files that were read, and other files by kind."""
    tally, used = Tally(), {_one_spelling(path) for path in read_files}
    for path in sorted(folder.iterdir()):
        if path in read_files or path.name.startswith(".") or _LABELS.search(path.name):
            continue
        if is_images_file(path) and _one_spelling(path) in used:
            tally.add("other spelling of a file that is read", path.name)
        else:
            tally.add("folder" if path.is_dir() else path.suffix.lower() or "file without an ending", path.name)
    return tally.remarks()


def _one_spelling(path: Path) -> str:
    return re.sub(r"[-.]idx", "-idx", path.name.lower()).removesuffix(".gz")


def _is_held_out(path: Path) -> bool:
    return _HELD_OUT.search(path.name) is not None


def read(paths: list[Path], choose: Choose, *, in_folder: bool) -> tuple[NDArray[Any], Columns]:
    """Read the chosen rows of one pair, or of every pair of a folder one after the other.

    Args:
        paths: images files; the name of each labels file follows from it.
        choose: says which rows to keep.
        in_folder: mark the examples of `t10k-*`, `test*`, `val*` and of `*-test-*` and the like as held out. A
            single pair that was named by the user is all for use, whatever it is called.

    Raises:
        DataError, ShapeError: naming the file.
    """
    labels = [_labels(labels_beside(path)) for path in paths]
    held_out = [in_folder and _is_held_out(path) for path in paths]
    described = Columns(
        np.concatenate(labels),
        np.concatenate([np.full(len(y), flag) for y, flag in zip(labels, held_out, strict=True)]),
    )
    rows = choose(described)
    x: NDArray[Any] | None = None
    first = filled = 0
    for path, y in zip(paths, labels, strict=True):
        mine = None if rows is None else rows[(rows >= first) & (rows < first + len(y))] - first
        length = len(y) if mine is None else len(mine)
        x = _images(path, len(y), mine, x, filled, len(described.y) if rows is None else len(rows))
        first += len(y)
        filled += length
    assert x is not None
    return x, described if rows is None else described.select(rows)


def labels_beside(images: Path) -> Path:
    """`train-images-idx3-ubyte.gz` -> `train-labels-idx1-ubyte.gz`, or the same without `.gz` (or with it).

    Raises:
        DataError: there is no such file.
    """
    name = re.sub(r"images([-.])idx\d", r"labels\1idx1", images.name, flags=re.IGNORECASE)
    plain = name.removesuffix(".gz")
    # QMNIST's labels are a table: the class, then whose hand it was.
    table = re.sub(r"idx1(-ubyte)?$", "idx2-int", plain, flags=re.IGNORECASE)
    for candidate in (name, plain, plain + ".gz", table, table + ".gz"):
        beside = images.with_name(candidate)
        if beside != images and beside.is_file():
            return beside
    raise DataError(f"has no labels file {name} beside it", where=str(images), fix="copy both files of the pair")


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


# A byte of a gzipped file becomes 1032 at most (RFC 1951: 258 values for two bits).
_MOST_OF_GZIP = 1032


def _header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype, where the file can hold as many values."""
    where = str(path)
    zero, kind, dimensions = struct.unpack(">HBB", read_exactly(stream, 4))
    if zero != 0 or kind not in _TYPES or not 0 < dimensions <= _MAX_DIMENSIONS:
        raise DataError("is no idx file", where=where, fix="use MNIST-style idx or idx.gz files")
    shape = struct.unpack(f">{dimensions}I", read_exactly(stream, 4 * dimensions))
    dtype = np.dtype(_TYPES[kind])
    most = path.stat().st_size * (_MOST_OF_GZIP if isinstance(stream, gzip.GzipFile) else 1)
    if math.prod(shape) * dtype.itemsize > most:
        raise DataError(f"is too short for the {list(shape)} values that its header says", where=where,
                        fix="copy the file again")  # fmt: skip
    return shape, dtype


def _labels(path: Path) -> NDArray[np.int32]:
    where = str(path)
    with col.reading(where, "an idx file"), _open(path) as stream:
        shape, dtype = _header(stream, path)
        table = len(shape) == 2 and shape[1] >= 1 and "idx2" in path.name.lower()
        if len(shape) != 1 and not table:
            raise ShapeError(f"has shape {shape}", where=where, fix="give a labels file of one dimension")
        raw = np.frombuffer(read_exactly(stream, math.prod(shape) * dtype.itemsize), dtype)
        raw = raw.reshape(shape)[:, 0] if table else raw
        if stream.read(1):
            raise DataError("has more bytes than its header says", where=where, fix="copy the file again")
        return col.labels(raw, where)


def _images(
    path: Path, count: int, rows: NDArray[np.int64] | None, x: NDArray[Any] | None, filled: int, total: int
) -> NDArray[Any]:
    """Fill `x` from row `filled` on; make it, for `total` rows, when this is the first file."""
    where = str(path)
    with col.reading(where, "an idx file"), _open(path) as stream:
        shape, dtype = _header(stream, path)
        if len(shape) < 2 or shape[0] != count:
            raise ShapeError(
                f"has shape {shape} for {count} labels", where=where, fix="copy both files of the pair again"
            )
        if x is None:
            x = np.empty((total, *shape[1:]), kept_dtype(dtype, where))
        if x.shape[1:] != shape[1:] or x.dtype != kept_dtype(dtype, where):
            raise ShapeError(
                f"has examples of shape {shape[1:]}, the file before it of {x.shape[1:]}",
                where=where,
                fix="keep one data set per folder",
            )
        part = x[filled : filled + (count if rows is None else len(rows))]
        read_rows(stream, count, shape[1:], dtype, rows, where, part)
        return x
