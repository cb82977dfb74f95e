"""Rows that stay in their file: read in slices, the same as if all had been read, and never silently wrong."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles.dataset import Dataset, blocks, check, fitted, load, save
from protos.errors import DataError, NonFiniteError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def pixels(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, (count, 4, 4), np.uint8)


def write(path: Path, count: int = 30, **more: Any) -> np.ndarray[Any, Any]:
    x = pixels(count)
    np.savez(path, x=x, y=np.arange(count) % 3, **more)
    return x


def test_an_uncompressed_file_is_mapped_for_reading_and_a_compressed_one_is_read(path: Path) -> None:
    x = write(path)
    mapped = load(path).x
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, x)
    np.savez_compressed(path, x=x, y=np.arange(30) % 3)
    assert not isinstance(load(path).x, np.memmap)


def test_what_was_saved_can_be_mapped(path: Path) -> None:
    save(Dataset(pixels(5), np.zeros(5, np.int32), np.zeros(5, bool)), path)
    assert isinstance(load(path).x, np.memmap)


def test_neighbours_are_views_of_the_map_and_others_are_read_once(path: Path) -> None:
    x = write(path, is_test=np.arange(30) >= 20)
    data = load(path)
    assert np.shares_memory(data.train().x, data.x)
    assert np.shares_memory(data.test().x, data.x)
    assert np.shares_memory(fitted(data.train(), (4, 4, 1)).x, data.x)
    scattered = data.select(np.array([7, 3, 3, 28]))
    np.testing.assert_array_equal(scattered.x, x[[7, 3, 3, 28]])
    assert scattered.x is scattered.x


@pytest.mark.parametrize("dtype", ["u1", "?", "f4", "f8", ">f4", "i2"])
def test_slices_are_what_reading_all_of_it_gives(path: Path, dtype: str) -> None:
    x = pixels(50).astype(dtype)
    np.savez(path, x=x, y=np.zeros(50), is_test=np.arange(50) % 7 == 3)
    data = fitted(load(path).train(), (1, 4, 4))
    kept = x[np.arange(50) % 7 != 3].astype(np.uint8 if dtype in ("u1", "?") else np.float32).reshape(-1, 1, 4, 4)
    assert (data.held.shape, data.held.dtype) == (kept.shape, kept.dtype)
    for start, stop in ((0, 8), (8, 16), (40, 99), (5, 5), (-3, None)):
        np.testing.assert_array_equal(data.held[start:stop], kept[start:stop])
    np.testing.assert_array_equal(np.concatenate(list(blocks(data.held))), kept)
    np.testing.assert_array_equal(data.x, kept)


def test_a_selection_of_a_selection_keeps_its_order(path: Path) -> None:
    x = write(path, device=np.arange(30) % 2)
    odd = load(path, shard=1)
    np.testing.assert_array_equal(odd.select(np.array([4, 0, -1])).held[:], x[1::2][[4, 0, -1]])


def test_a_zip_file_behind_other_bytes_is_found(path: Path) -> None:
    x = write(path)
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    np.testing.assert_array_equal(load(path).held[3:9], x[3:9])
    np.testing.assert_array_equal(load(path).x, x)


def test_checking_scattered_rows_of_a_large_file_takes_little_memory(path: Path) -> None:
    count = 50_000
    x = np.zeros((count, 16, 16), np.float32)
    x[41_004, 3, 3] = np.nan
    np.savez(path, x=x, y=np.zeros(count, np.int32), is_test=np.arange(count) % 5 == 0)
    del x
    tracemalloc.start()
    try:
        data = load(path).train()
        with pytest.raises(NonFiniteError, match=f"example {41_004 - 41_004 // 5 - 1} "):
            check(data, (16, 16), 1)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * 2**20  # the file has 51 MB


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_file_that_changes_under_its_reader_is_an_error_and_not_other_data(path: Path, damage: str) -> None:
    write(path)
    data = load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:300] if damage == "cut" else whole[:-1] + b"\1" * 7)
    with pytest.raises(DataError) as caught:
        data.held[:8]
    assert str(path) in str(caught.value)


def test_a_file_that_is_replaced_is_read_as_it_was(path: Path) -> None:
    x = write(path)
    data = load(path)
    save(Dataset(pixels(3) * 0, np.zeros(3, np.int32), np.zeros(3, bool)), path)
    np.testing.assert_array_equal(data.held[20:], x[20:])


def test_the_file_is_closed_with_the_last_who_holds_its_rows(path: Path) -> None:
    write(path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    data = load(path).train()
    part, array = data.select(np.array([1, 5])), data.x
    assert len(os.listdir("/proc/self/fd")) > before
    del data, part
    gc.collect()
    assert array[0].sum() > 0
    del array
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
