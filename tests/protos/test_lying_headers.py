"""Files whose header says more than the file holds are refused by their size, before memory is asked for."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from protos.datafiles import dataset
from protos.datafiles.formats.npy import array_at, array_of, described, lacks
from protos.datafiles.formats.npz import examples_alone
from protos.errors import DataError, EdgejouleError

# What may be asked for to say no: the buffers of files, and a block.
LITTLE_BYTES = 6 << 20
HUGE = (2**31 - 1, 28, 28)


def npy_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.fixture
def little() -> Iterator[None]:
    """Within, hardly any memory is asked for at once; numpy tells tracemalloc of arrays before they are touched."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [HUGE, (2**40, 2**20), (-2, -8), (3, -1)])
def test_an_array_of_a_shape_that_is_not_there(shape: tuple[int, ...], tmp_path: Path, little: None) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy_header(shape) + bytes(16))
    for read in (array_at, described):
        with pytest.raises(DataError, match=r"shorter or longer than it says|says the shape"):
            read(path)
    assert lacks(path.read_bytes()) == (min(shape) > 0)


def test_a_whole_array_is_given_and_part_of_one_lacks_something() -> None:
    file = io.BytesIO()
    wanted = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    np.save(file, np.asfortranarray(wanted))
    data = file.getvalue()
    assert np.array_equal(array_of(data, "x.npy"), wanted)
    assert not lacks(data)
    assert all(lacks(data[:count]) for count in range(7, len(data), 9))
    with pytest.raises(DataError, match="Python objects"):
        array_of(npy_header((1,), "|O") + bytes(8), "x.npy")
    # What it is is not said by waiting for more of it.
    assert not lacks(npy_header((9,), "|O"))


def lying_npz(path: Path, compress: int) -> Path:
    """An archive in which `x` says a huge shape, and its directory a size that fits to it."""
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, shape, values in (("x", HUGE, b"\0" * 64), ("y", (HUGE[0],), b"\0" * 64)):
            archive.writestr(f"{name}.npy", npy_header(shape) + values)
    data = bytearray(path.read_bytes())
    for name, shape in (("x", HUGE), ("y", (HUGE[0],))):
        size = len(npy_header(shape)) + int(np.prod(shape, dtype=np.int64))
        entry = data.index(b"PK\1\2")
        while data[entry + 46 : entry + 47] != name.encode():
            entry = data.index(b"PK\1\2", entry + 4)
        # Sizes of a directory have 32 bits; what does not fit there stands as in larger archives.
        struct.pack_into("<I", data, entry + 24, min(size, 0xFFFFFFFE))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_members_of_an_archive(compress: int, tmp_path: Path, little: None) -> None:
    path = lying_npz(tmp_path / "d.npz", compress)
    readers: tuple[Callable[[Path], object], ...] = (dataset.load, examples_alone)
    for read in readers:
        with pytest.raises(EdgejouleError, match="than it says"):
            read(path)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("which", ["images", "labels"])
def test_idx_files(zipped: bool, which: str, tmp_path: Path, little: None) -> None:
    images = struct.pack(">HBBIII", 0, 8, 3, 2, 2, 2) + bytes(8)
    labels = struct.pack(">HBBI", 0, 8, 1, 2) + bytes(2)
    if which == "images":
        images = struct.pack(">HBBIII", 0, 0x0E, 3, 2, 2**31, 2**30) + bytes(8)
    else:
        labels = struct.pack(">HBBI", 0, 0x0E, 1, 2**32 - 1) + bytes(2)
    ending = ".gz" if zipped else ""
    for name, data in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (tmp_path / f"{name}{ending}").write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(DataError, match="too short for the"):
        dataset.load(tmp_path / f"train-images-idx3-ubyte{ending}")
