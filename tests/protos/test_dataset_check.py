"""A data set against a model: what passes, and which example does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles.dataset import Dataset, check, fitted, load
from protos.errors import (
    DataError,
    EdgejouleError,
    EmptyShardError,
    LabelError,
    NonFiniteError,
    ShapeError,
)


def pixels(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4)


def dataset(x: np.ndarray[Any, Any], y: list[int]) -> Dataset:
    return Dataset(x, np.array(y, np.int32), np.zeros(len(y), bool), source="here.npz")


def test_a_good_data_set_passes_the_check_and_a_missing_one_is_added() -> None:
    data = dataset(pixels(3), [0, 1, 2])
    check(data, (4, 4, 1), 3)
    assert fitted(data, (4, 4, 1)).x.shape == (3, 4, 4, 1)
    assert np.shares_memory(fitted(data, (4, 4, 1)).x, data.x)
    assert fitted(dataset(pixels(3)[..., None], [0, 1, 2]), (4, 4)).x.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("data", "shape", "kind", "words"),
    [
        (dataset(pixels(3), [0, 1, 2]), (4, 4, 3), ShapeError, r"shape \[4, 4\], the model takes \[4, 4, 3\]"),
        (dataset(pixels(3), [0, 1, 2]), (16,), ShapeError, "the model takes"),
        (dataset(pixels(3), [0, 3, 3]), (4, 4), LabelError, r"label 3 at example 1 is outside 0..2, and 1 more"),
        (dataset(pixels(3), [0, 1, -1]), (4, 4), LabelError, "label -1 at example 2"),
        (dataset(pixels(0), []), (4, 4), EmptyShardError, "no example"),
        (dataset(pixels(3), [0, 1]), (4, 4), ShapeError, "3 examples, 2 labels"),
        (dataset(pixels(3).astype(np.float64), [0, 1, 1]), (4, 4), DataError, "float64"),
    ],
)
def test_the_check_says_which_example_is_wrong(
    data: Dataset, shape: tuple[int, ...], kind: type[EdgejouleError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        check(data, shape, 3)
    assert "here.npz" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_example_that_is_not_finite_is_named(value: float) -> None:
    x = np.zeros((5000, 4, 64), np.float32)
    x[4321, 2, 1] = value
    with pytest.raises(NonFiniteError, match="example 4321 "):
        check(dataset(x, [0] * 5000), (4, 64), 3)


def test_a_float64_beyond_float32_is_found_as_an_infinity(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([[1.0], [1e300]]), y=[0, 1])
    with pytest.raises(NonFiniteError, match="example 1 "):
        check(load(path), (1,), 2)


def test_consecutive_examples_are_a_view_and_others_keep_their_order() -> None:
    data = dataset(pixels(6), [0, 1, 2, 0, 1, 2])
    assert np.shares_memory(data.select(np.arange(2, 5)).x, data.x)
    assert data.select(np.array([5, 0, 0])).y.tolist() == [2, 0, 0]
    assert len(data.select(np.array([], np.int64))) == 0
    assert data.select(np.array([-1])).y.tolist() == [2]
    assert data.train() is data
    assert len(data.test()) == 0
