"""Arrays in numpy's own format, as `.npy` files and as members of `.npz` ones: the header is believed only as far as
there are bytes for it, before anything is allocated.

Source: numpy.lib.format, versions 1.0 and 2.0. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from protos.datafiles.formats.columns import reading
from protos.errors import DataError

__all__ = ["MAGIC", "array_at", "array_of", "described", "header", "lacks"]

MAGIC = b"\x93NUMPY"
Header = tuple[tuple[int, ...], bool, "np.dtype[Any]"]


def header(stream: IO[bytes], size_bytes: int, what: str, where: str) -> Header:
    """Shape, whether it is in Fortran's order, and dtype. The stream is at the first value afterwards.

    Args:
        size_bytes: of header and values.
        what: the array's name for messages, such as "`x`"; empty for a file of its own.

    Raises:
        DataError: it holds Python objects, or says another size than it has. ValueError, EOFError: it is no array.
    """
    shape, fortran, dtype = _parsed(stream, what, where)
    if stream.tell() + math.prod(shape) * dtype.itemsize != size_bytes:
        raise DataError(_named(what, "is shorter or longer than it says"), where=where, fix="make the file again")
    return shape, fortran, dtype


def array_of(data: bytes, where: str) -> NDArray[Any]:
    """The array of a whole `.npy` file; it shares the bytes, and cannot be written to.

    Raises:
        DataError: see :func:`header`.
    """
    with reading(where, "an npy file"):
        stream = io.BytesIO(data)
        shape, fortran, dtype = header(stream, len(data), "", where)
        return np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape, order="F" if fortran else "C")


def array_at(path: Path) -> NDArray[Any]:
    """The same of a file."""
    with reading(str(path), "an npy file"):
        described(path)
        return array_of(path.read_bytes(), str(path))


def described(path: Path) -> Header:
    """Shape, order and dtype of a file, of which the header alone is read.

    Raises:
        DataError: see :func:`header`.
    """
    with reading(str(path), "an npy file"), path.open("rb") as file:
        return header(file, path.stat().st_size, "", str(path))


def lacks(data: bytes) -> bool:
    """Whether these are the first bytes of a `.npy` file that says that more follow; of one that is none, False."""
    try:
        stream = io.BytesIO(data)
        shape, _, dtype = _parsed(stream, "", "")
        return len(data) < stream.tell() + math.prod(shape) * dtype.itemsize
    except DataError:
        return False
    except (ValueError, EOFError, OverflowError, RecursionError, MemoryError):
        # Its header is not there yet, or is none: whoever reads the whole file says so.
        return True


def _parsed(stream: IO[bytes], what: str, where: str) -> Header:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(_named(what, f"is in npy format {version}"), where=where, fix="save it as a plain array")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        fix = "save it as an array of numbers, or of strings"
        raise DataError(_named(what, "is an array of Python objects"), where=where, fix=fix)
    if any(size < 0 for size in shape):
        raise DataError(_named(what, f"says the shape {shape}"), where=where, fix="make the file again")
    return shape, fortran, dtype


def _named(what: str, text: str) -> str:
    return f"{what} {text}" if what else text
