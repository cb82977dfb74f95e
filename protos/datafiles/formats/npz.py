"""`.npz` files: `x` [N,...], `y` [N], and where known `is_test` [N], `device` [N], `class_names` [C].

Nothing is unpickled: an array of Python objects is refused from its header. The checksum of every array is compared,
in one pass over the file. `x` of a file that is not compressed stays in the file until it is asked for; of a
compressed one it is streamed, so that one owner of a large file costs the memory of that owner.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from protos.atomic import write_whole
from protos.datafiles.account import Tally
from protos.datafiles.classes import renumber
from protos.datafiles.formats import columns as col
from protos.datafiles.formats.columns import Choose, Columns
from protos.datafiles.formats.npy import header
from protos.datafiles.rows import BLOCK_BYTES, kept_dtype, read_rows
from protos.datafiles.stored import Rows, StoredArray, StoredRows
from protos.errors import DataError, ShapeError
from protos.progress import progressed

# A member of a zip file begins with a header of this many bytes; the last two 16-bit numbers of it are the lengths of
# the name and of the extra field that follow (APPNOTE.TXT 6.3.10, section 4.3.7).
_LOCAL_HEADER_BYTES = 30


def read(
    path: Path,
    choose: Choose,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
    quantities: int | None = None,
) -> tuple[Rows, Columns]:
    """Read the columns and find the chosen rows.

    Args:
        path: the file.
        choose: says which rows to keep, from the other columns.
        classes: class names of the model; labels are renumbered when the file names its classes likewise.
        renames: the file's class names to the model's; None where the caller has no such option.
        tolerant: a label that is none becomes `NO_LABEL` instead of an error.
        quantities: labels are real numbers, so many each (0: any); None: they are classes.

    Returns:
        x, uint8 or float32 [M, ...], in the file still if it can be read from there, and its columns.

    Raises:
        DataError, ShapeError, LabelError, NonFiniteError: naming the file.
    """
    where = str(path)
    with col.reading(where, "an npz file"), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for needed in ("x", "y"):
            if needed not in members:
                held = ", ".join(sorted(members)) or "nothing"
                raise DataError(
                    f"has no `{needed}` (it holds {held})",
                    where=where,
                    fix=_saved_as(set(members)),
                )

        def small(name: str) -> NDArray[Any] | None:
            return _whole(archive, members[name], name, where) if name in members else None

        raw_y = small("y")
        assert raw_y is not None
        if raw_y.ndim == 0:
            raise ShapeError("`y` is a single value", where=where, fix="store one class index per example")
        y: NDArray[Any]
        class_names = None
        if quantities is not None:
            y = col.quantities(raw_y, quantities, where, tolerant=tolerant)
        else:
            y = col.labels(raw_y, where, tolerant=tolerant)
            class_names = col.names(small("class_names"), where)
        if class_names is not None:
            y, class_names = renumber(
                y.astype(np.int32, copy=False), class_names, classes, where, renames, tolerant=tolerant
            )
        others = Tally()
        for name in sorted(set(members) - _READ):
            others.add("array of another name, which is not read", name)
        described = Columns(
            y,
            col.flags(small("is_test"), len(y), where),
            col.owners(small("device"), len(y), where),
            class_names,
            others.remarks(),
        )
        info = archive.getinfo(members["x"])
        with archive.open(info) as stream:
            shape, fortran, dtype = _header(stream, info, "x", where)
            kept_dtype(dtype, where)
            if len(shape) < 2 or shape[0] != len(y):
                raise ShapeError(
                    f"`x` has shape {shape} for {len(y)} labels",
                    where=where,
                    fix="store x as [N, ...] with as many examples as y",
                )
            rows = choose(described)
            if fortran:
                count = int(shape[0])
                whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
                kept = whole if rows is None else whole[rows]
                return np.ascontiguousarray(kept, kept_dtype(dtype, where)), (
                    described if rows is None or len(rows) == count else described.select(rows)
                )
            x: Rows
            if info.compress_type == zipfile.ZIP_STORED and 0 not in shape:
                offset = _data_offset(file.fileno(), info) + stream.tell()
                while stream.read(BLOCK_BYTES):
                    progressed()  # at its end the checksum is compared
                stored = StoredArray(file.fileno(), where, offset, shape[0], shape[1:], dtype)
                x = StoredRows(stored, np.arange(shape[0], dtype=np.int64) if rows is None else rows)
            else:
                x = read_rows(stream, shape[0], shape[1:], dtype, rows, where)
    return x, described if rows is None else described.select(rows)


_READ = frozenset({"x", "y", "is_test", "device", "class_names"})
_EXAMPLES = ("x", "X", "images", "image", "data", "features", "samples", "inputs", "arr_0")
_LABELS = ("y", "Y", "labels", "label", "targets", "target", "classes", "arr_1")


def _saved_as(members: set[str]) -> str:
    """How to save what a file holds under the names that are read here; ``d`` is what ``numpy.load(FILE)`` gives."""
    if {"x_train", "y_train", "x_test", "y_test"} <= members:  # as Keras keeps its data sets
        both = (f"numpy.concatenate([d['{text}_train'], d['{text}_test']])" for text in "xy")
        x, y = both
        return (
            f"numpy.savez(FILE, x={x}, y={y}, is_test=numpy.arange(len(d['x_train']) + len(d['x_test'])) >= "
            "len(d['x_train'])), d being numpy.load of this one"
        )
    held, told = (next((name for name in names if name in members), None) for names in (_EXAMPLES, _LABELS))
    if held is None or told is None:
        return "save it with numpy.savez(FILE, x=..., y=...)"
    return f"numpy.savez(FILE, x=d['{held}'], y=d['{told}']), d being numpy.load of this one"


def examples_alone(path: Path) -> NDArray[Any]:
    """`x` [N, ...] of a file, whatever else is in it or lacks.

    Raises:
        DataError: it has none, or is damaged.
    """
    with col.reading(str(path), "an npz file"), zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if "x" not in members:
            what = f"has no `x` (it holds {', '.join(members) or 'nothing'})"
            raise DataError(what, where=str(path), fix="save it with numpy.savez(FILE, x=...)")
        x = _whole(archive, members["x"], "x", str(path))
    if x.dtype != np.uint8:
        kept_dtype(x.dtype, str(path))
        x = x.astype(np.float32)
    if x.ndim < 2:
        raise ShapeError(f"`x` has shape {x.shape}", where=str(path), fix="store x as [N, ...]")
    return x


def write(path: Path, x: NDArray[Any], columns: Columns) -> None:
    """Write a file that `read` gives back, whole or not at all; not compressed, so that a board streams it."""
    arrays: dict[str, NDArray[Any]] = {"x": x, "y": columns.y, "is_test": columns.is_test}
    if columns.owner is not None:
        arrays["device"] = columns.owner
    if columns.class_names is not None:
        arrays["class_names"] = np.array(columns.class_names, dtype=np.str_)
    with write_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _data_offset(file: int, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin; the local header may have another extra field than the directory."""
    header = os.pread(file, _LOCAL_HEADER_BYTES, info.header_offset)
    name_bytes, extra_bytes = struct.unpack("<HH", header[-4:])
    return info.header_offset + _LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)


# A byte of a deflated member becomes 1032 at most (RFC 1951: 258 values for two bits), and some bytes are always there.
_MOST_OF_DEFLATE, _SLACK_BYTES = 1032, 4096


def _header(
    stream: IO[bytes], info: zipfile.ZipInfo, name: str, where: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What a member says of itself, where there can be bytes for it."""
    most = info.compress_size if info.compress_type == zipfile.ZIP_STORED else None
    if info.compress_type == zipfile.ZIP_DEFLATED:
        most = info.compress_size * _MOST_OF_DEFLATE + _SLACK_BYTES
    if most is not None and info.file_size > most:
        raise DataError(f"`{name}` is shorter than it says", where=where, fix="make the file again")
    return header(stream, info.file_size, f"`{name}`", where)


def _whole(archive: zipfile.ZipFile, member: str, name: str, where: str) -> NDArray[Any]:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream, archive.getinfo(member), name, where)
        return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran else "C")
