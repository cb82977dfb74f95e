"""The columns that describe examples: label, held-out flag, owner, class names; and how each is refused."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Remark
from protos.errors import DataError, EdgejouleError, LabelError, NonFiniteError, ShapeError

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of N examples before their `x` is read.

    Attributes:
        y: int32 [N], class index; or float32 [N, K] of quantities.
        is_test: bool [N], True for held-out examples.
        owner: [N] integers or strings, the natural owner; None when the file does not say.
        class_names: name of class i at i; None when the file does not say.
        left_out: what lay there and was not read.
        changed: what was changed while it was read.
        set_aside: bad examples that were left out, where the caller allows that.
    """

    y: NDArray[Any]
    is_test: NDArray[np.bool_]
    owner: Array | None = None
    class_names: tuple[str, ...] | None = None
    left_out: tuple[Remark, ...] = ()
    changed: tuple[Remark, ...] = ()
    set_aside: tuple[Remark, ...] = ()

    def select(self, rows: Array | slice) -> Columns:
        """The columns of these rows, in this order."""
        owner = None if self.owner is None else self.owner[rows]
        return replace(self, y=self.y[rows], is_test=self.is_test[rows], owner=owner)


# Says which rows to read, ascending; None means all. Readers ask before they touch a pixel.
Choose: TypeAlias = Callable[[Columns], NDArray[np.int64] | None]


# A label of an example that has none. It is outside the classes of every model.
NO_LABEL = -1


def labels(raw: Array, where: str, *, tolerant: bool = False) -> NDArray[np.int32]:
    """Class indices from a stored array: integers of any width, or floats that are whole numbers.

    Args:
        raw: [N] or [N, 1].
        where: the file, for the message.
        tolerant: a number that is no label becomes :data:`NO_LABEL` instead of an error.

    Raises:
        ShapeError: more than one label per example.
        LabelError: not a number, a fraction, or too big for int32.
        NonFiniteError: NaN or infinity.
    """
    flat = raw.reshape(len(raw)) if raw.ndim == 2 and raw.shape[1] == 1 else raw
    if flat.ndim != 1:
        hot = ", such as y.argmax(axis=1)" if flat.ndim == 2 and len(flat) > 1 else ""
        raise ShapeError(
            f"`y` has shape {raw.shape}", where=where, fix=f"store one class index per example: y [N]{hot}"
        )
    if tolerant and flat.dtype.kind == "f":
        whole = np.isfinite(flat) & (np.abs(np.nan_to_num(flat)) <= np.iinfo(np.int32).max)
        whole &= flat == np.floor(flat)
        return np.where(whole, flat, NO_LABEL).astype(np.int32)
    if flat.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(flat))
        if bad.size:
            raise NonFiniteError(f"`y` is {flat[bad[0]]} at example {bad[0]}", where=where, fix="store a class index")
        bad = np.flatnonzero(flat != np.floor(flat))
        if bad.size:
            raise LabelError(
                f"`y` is {flat[bad[0]]} at example {bad[0]}, which is no class index",
                where=where,
                fix="store whole numbers 0 to classes-1; for quantities, convert with --objective regression",
            )
    elif flat.dtype.kind not in "iub":
        named = ": class_names, y = numpy.unique(y, return_inverse=True)" if flat.dtype.kind in "US" else ""
        raise LabelError(f"`y` holds {flat.dtype} values", where=where, fix=f"store class indices as integers{named}")
    wide = np.flatnonzero(np.abs(flat.astype(np.float64)) > np.iinfo(np.int32).max)
    if wide.size and tolerant:
        flat = flat.copy()
        flat[wide] = 0
        found = flat.astype(np.int32)
        found[wide] = NO_LABEL
        return found
    if wide.size:
        raise LabelError(
            f"`y` is {flat[wide[0]]} at example {wide[0]}, beyond int32",
            where=where,
            fix="store whole numbers 0 to classes-1",
        )
    return flat.astype(np.int32)


def quantities(raw: Array, count: int, where: str, *, tolerant: bool = False) -> NDArray[np.float32]:
    """Real numbers for each example, float32 [N, K], from [N] or [N, K].

    Args:
        count: K; 0 for any.
        tolerant: NaN and infinity are kept for whoever screens the examples.

    Raises:
        ShapeError: another shape.
        LabelError: no numbers, or beyond float32.
        NonFiniteError: NaN or infinity.
    """
    table = raw.reshape(len(raw), 1) if raw.ndim == 1 else raw
    if table.ndim != 2 or (count and table.shape[1] != count):
        wanted = f"[N, {count}]" if count else "[N, K]"
        raise ShapeError(f"`y` has shape {raw.shape}", where=where, fix=f"store the quantities as y {wanted}")
    if table.dtype.kind not in "iufb":
        raise LabelError(f"`y` holds {table.dtype} values", where=where, fix="store real numbers")
    finite = np.isfinite(table).all(axis=1)
    if not finite.all() and not tolerant:
        bad = int(np.argmin(finite))
        raise NonFiniteError(f"`y` is {table[bad].tolist()} at example {bad}", where=where, fix="remove or repair it")
    largest = np.finfo(np.float32).max
    wide = np.flatnonzero(
        (np.abs(np.nan_to_num(table.astype(np.float64), posinf=0.0, neginf=0.0)) > largest).any(axis=1)
    )
    if wide.size and not tolerant:
        raise LabelError(f"`y` is beyond float32 at example {wide[0]}", where=where, fix="choose another unit")
    with np.errstate(over="ignore"):
        kept: NDArray[np.float32] = np.ascontiguousarray(table, np.float32)
    return kept


def flags(raw: Array | None, count: int, where: str) -> NDArray[np.bool_]:
    """`is_test` from a stored array of booleans or of 0 and 1; all False when there is none.

    Raises:
        ShapeError: not one value per example.
        DataError: a value other than 0 or 1.
    """
    if raw is None:
        return np.zeros(count, np.bool_)
    same_length("is_test", raw, count, where)
    if raw.dtype.kind not in "biuf" or not np.isin(raw, (0, 1)).all():
        raise DataError(f"`is_test` ({raw.dtype}) has values other than 0 and 1", where=where, fix="store booleans")
    return raw.astype(np.bool_)


def owners(raw: Array | None, count: int, where: str) -> Array | None:
    """`device` from a stored array of integers or strings.

    Raises:
        ShapeError: not one value per example.
        DataError: a dtype that cannot name an owner.
    """
    if raw is None:
        return None
    same_length("device", raw, count, where)
    if raw.dtype.kind == "S":
        return np.char.decode(raw, "utf-8", "replace")
    if raw.dtype.kind not in "iuU":
        raise DataError(f"`device` holds {raw.dtype} values", where=where, fix="name owners by integers or strings")
    return raw


def names(raw: Array | None, where: str) -> tuple[str, ...] | None:
    """`class_names` from a stored array of strings.

    Raises:
        DataError: not a flat array of distinct strings.
    """
    if raw is None:
        return None
    text = np.char.decode(raw, "utf-8", "replace") if raw.dtype.kind == "S" else raw
    if text.dtype.kind != "U" or text.ndim != 1 or len(set(text.tolist())) != len(text):
        raise DataError(
            f"`class_names` ({raw.dtype}, shape {raw.shape}) is not a list of distinct names",
            where=where,
            fix="store one string per class, in the order of the labels",
        )
    return tuple(text.tolist())


def same_length(name: str, raw: Array, count: int, where: str) -> None:
    """Raise ShapeError unless `raw` is [count]."""
    if raw.shape != (count,):
        raise ShapeError(
            f"`{name}` has shape {raw.shape} for {count} examples",
            where=where,
            fix=f"store one `{name}` value per example",
        )


# What the standard library and numpy raise for files that are cut off, damaged or of another kind.
_DAMAGE = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
)


def _is_page(where: str) -> bool:
    """Whether a file begins as HTML does."""
    try:
        with Path(where).open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return False
    return start.startswith((b"<!doctype", b"<html"))


@contextmanager
def reading(where: str, kind: str) -> Iterator[None]:
    """Turn whatever a damaged or missing file raises into one DataError that names the file.

    Args:
        where: path of the file.
        kind: what it should have been, such as "an npz file".
    """
    try:
        yield
    except EdgejouleError:
        raise
    except FileNotFoundError as cause:
        raise DataError("no such file", where=where, fix="check the path") from cause
    except (*_DAMAGE, OSError) as cause:
        # An OSError with a number comes from the system; one without is a decoder's complaint about content.
        if isinstance(cause, OSError) and cause.errno is not None:
            raise DataError(
                f"cannot be read ({cause.strerror})", where=where, fix="check the path and its permissions"
            ) from cause
        reason = " ".join(str(cause).split())[:160] or type(cause).__name__
        if _is_page(where):
            raise DataError(f"is a web page, and no {kind.removeprefix('an ').removeprefix('a ')}", where=where,
                            fix="download the file itself") from cause  # fmt: skip
        raise DataError(
            f"cannot be read as {kind} ({reason})", where=where, fix="copy or make the file again"
        ) from cause
