"""npz data: what is read, what is refused and with which words."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles.dataset import Dataset, load, save
from protos.errors import (
    DataError,
    EdgejouleError,
    EmptyShardError,
    LabelError,
    NonFiniteError,
    ShapeError,
    UsageError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def pixels(count: int = 12) -> np.ndarray[Any, Any]:
    return np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4)


def one_line(error: EdgejouleError, *needles: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    for needle in needles:
        assert needle in text


@pytest.mark.parametrize("compressed", [False, True])
def test_every_field_comes_back(path: Path, compressed: bool) -> None:
    x, y = pixels(), np.arange(12) % 3
    (np.savez_compressed if compressed else np.savez)(
        path, x=x, y=y, is_test=y == 2, device=np.array(["a", "b"] * 6), class_names=np.array(["r", "s", "t"])
    )
    data = load(path)
    assert data.x.dtype == np.uint8
    np.testing.assert_array_equal(data.x, x)
    assert data.y.dtype == np.int32
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_array_equal(data.is_test, y == 2)
    assert data.owner is not None
    assert data.owner.tolist() == ["a", "b"] * 6
    assert data.class_names == ("r", "s", "t")
    assert (len(data.train()), len(data.test())) == (8, 4)
    assert data.source == str(path)


def test_what_was_saved_is_what_is_loaded(path: Path) -> None:
    data = Dataset(pixels(), np.arange(12, dtype=np.int32), np.arange(12) > 8, np.arange(12) % 2, tuple("abcdefghijkl"))
    save(data, path)
    back = load(path)
    np.testing.assert_array_equal(back.x, data.x)
    np.testing.assert_array_equal(back.y, data.y)
    np.testing.assert_array_equal(back.is_test, data.is_test)
    assert back.owner is not None
    np.testing.assert_array_equal(back.owner, data.owner)
    assert back.class_names == data.class_names
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("u1", "u1"), ("?", "u1"), ("f8", "f4"), ("f4", "f4"), ("f2", "f4"), ("i1", "f4"), (">i4", "f4"), (">f8", "f4")],
)
def test_bytes_stay_bytes_and_every_other_number_becomes_float32(path: Path, dtype: str, kept: str) -> None:
    x = np.arange(6).reshape(3, 2).astype(dtype)
    np.savez(path, x=x, y=[0, 1, 0])
    data = load(path)
    assert data.x.dtype == np.dtype(kept)
    np.testing.assert_array_equal(data.x, x.astype(kept))


def test_fortran_order_is_read_like_any_other(path: Path) -> None:
    x = np.asfortranarray(pixels())
    np.savez(path, x=x, y=np.zeros(12), device=np.arange(12) // 4)
    np.testing.assert_array_equal(load(path).x, x)
    np.testing.assert_array_equal(load(path, shard=1).x, x[4:8])
    assert load(path).x.flags.c_contiguous


def test_an_owner_is_chosen_by_value_whatever_its_type(path: Path) -> None:
    np.savez(path, x=pixels(), y=np.arange(12), device=np.array([7, 8, 9] * 4))
    assert load(path, shard=8).y.tolist() == load(path, shard="8").y.tolist() == [1, 4, 7, 10]
    np.testing.assert_array_equal(load(path, shard=8).x, pixels()[1::3])


def test_an_unknown_owner_is_answered_with_the_owners_there_are(path: Path) -> None:
    np.savez(path, x=pixels(), y=np.arange(12), device=np.array(["pi-1", "pi-2"] * 6))
    with pytest.raises(EmptyShardError) as caught:
        load(path, shard="pi-3")
    one_line(caught.value, str(path), "'pi-3'", "pi-1, pi-2")


def test_numbered_shards_are_disjoint_complete_shuffled_and_share_out_the_held_out_examples(path: Path) -> None:
    is_test = np.arange(60) % 4 == 0
    np.savez(path, x=pixels(60), y=np.arange(60), is_test=is_test)
    shards = [load(path, shard=f"{k}/7") for k in range(1, 8)]
    assert sorted(np.concatenate([shard.y for shard in shards]).tolist()) == list(range(60))
    assert {len(shard.test()) for shard in shards} == {2, 3}
    assert shards[0].y.tolist() != list(range(len(shards[0])))
    for shard in shards:
        np.testing.assert_array_equal(shard.x, pixels(60)[shard.y])
        np.testing.assert_array_equal(shard.is_test, is_test[shard.y])
    assert load(path, shard="3/7").y.tolist() == shards[2].y.tolist()


@pytest.mark.parametrize("shard", ["0/4", "5/4", "a", 3, "1/0", "-1/4", "1/4/4"])
def test_a_shard_that_cannot_be_is_refused(path: Path, shard: int | str) -> None:
    np.savez(path, x=pixels(), y=np.arange(12))
    with pytest.raises(UsageError, match="K/N"):
        load(path, shard=shard)


def test_more_shards_than_examples_leave_an_empty_one_that_is_refused(path: Path) -> None:
    np.savez(path, x=pixels(2), y=np.arange(2))
    with pytest.raises(EmptyShardError, match="fewer shards"):
        load(path, shard="1/9")


def test_one_owner_of_a_large_file_costs_the_memory_of_that_owner(path: Path) -> None:
    count, width = 600, 64 * 1024
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (
            ("x", np.zeros((count, width), np.uint8)),
            ("y", np.zeros(count, np.int32)),
            ("device", np.arange(count) // 20),
        ):
            held = io.BytesIO()
            np.save(held, array)
            archive.writestr(f"{name}.npy", held.getvalue())
    tracemalloc.start()
    try:
        data = load(path, shard=3)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == 20
    assert peak_bytes < 20 * width + 16 * 2**20  # the whole file has 39 MB


def test_labels_follow_the_class_names_of_the_model(path: Path) -> None:
    np.savez(path, x=pixels(4), y=[0, 1, 1, 0], class_names=np.array(["rose", "daisy"]))
    data = load(path, classes=("daisy", "rose", "tulip"))
    assert data.y.tolist() == [1, 0, 0, 1]
    assert data.class_names == ("daisy", "rose", "tulip")


def test_class_names_that_are_only_captions_leave_the_numbers_alone(path: Path) -> None:
    np.savez(path, x=pixels(4), y=[0, 1, 1, 0], class_names=np.array(["rose", "daisy"]))
    assert load(path, classes=("0", "1")).y.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("classes", [("rose", "lily"), ("0", "1", "2")])
def test_class_names_that_are_not_the_models_are_refused(path: Path, classes: tuple[str, ...]) -> None:
    np.savez(path, x=pixels(4), y=[0, 1, 1, 0], class_names=np.array(["rose", "daisy"]))
    with pytest.raises(LabelError) as caught:
        load(path, classes=classes)
    one_line(caught.value, str(path), "not among")


def test_a_label_without_a_class_name_is_refused(path: Path) -> None:
    np.savez(path, x=pixels(4), y=[0, 1, 2, 0], class_names=np.array(["rose", "daisy"]))
    with pytest.raises(LabelError, match="`y` is 2 at example 2"):
        load(path, classes=("daisy", "rose"))


BAD_ARRAYS: list[tuple[dict[str, Any], type[EdgejouleError], str]] = [
    ({"y": [0, 1]}, DataError, "has no `x`"),
    ({"x": pixels(2)}, DataError, "has no `y`"),
    ({"x": pixels(3), "y": [0, 1]}, ShapeError, "for 2 labels"),
    ({"x": np.zeros(2), "y": [0, 1]}, ShapeError, "shape \\(2,\\)"),
    ({"x": pixels(2), "y": 1}, ShapeError, "single value"),
    ({"x": pixels(2), "y": np.zeros((2, 10))}, ShapeError, "one class index"),
    ({"x": pixels(2), "y": [0, 0.5]}, LabelError, r"0\.5 at example 1.*for quantities, convert with --obj"),
    ({"x": pixels(2), "y": [np.nan, 0]}, NonFiniteError, "nan at example 0"),
    ({"x": pixels(2), "y": ["cat", "dog"]}, LabelError, "class indices as integers"),
    ({"x": pixels(2), "y": np.array([0, 2**40])}, LabelError, "beyond int32"),
    ({"x": pixels(2), "y": [0, 1], "is_test": [True]}, ShapeError, "`is_test`"),
    ({"x": pixels(2), "y": [0, 1], "is_test": [0, 2]}, DataError, "other than 0 and 1"),
    ({"x": pixels(2), "y": [0, 1], "device": [0, 1, 2]}, ShapeError, "`device`"),
    ({"x": pixels(2), "y": [0, 1], "device": [0.5, 1]}, DataError, "integers or strings"),
    ({"x": pixels(2), "y": [0, 1], "class_names": ["a", "a"]}, DataError, "distinct names"),
    ({"x": pixels(2), "y": [0, 1], "class_names": [1, 2]}, DataError, "distinct names"),
    ({"x": np.array([["a"], ["b"]]), "y": [0, 1]}, DataError, "uint8 or float32"),
    ({"x": np.zeros((2, 2), np.complex64), "y": [0, 1]}, DataError, "uint8 or float32"),
    ({"x": np.array([[object()], [None]]), "y": [0, 1]}, DataError, "Python objects"),
    ({"x": pixels(2), "y": np.array([0, None])}, DataError, "Python objects"),
]


@pytest.mark.parametrize(("arrays", "kind", "words"), BAD_ARRAYS)
def test_bad_arrays_are_refused_with_file_reason_and_remedy(
    path: Path, arrays: dict[str, Any], kind: type[EdgejouleError], words: str
) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **arrays)  # what someone else wrote without care
    with pytest.raises(kind, match=words) as caught:
        load(path)
    one_line(caught.value, str(path), "; ")


def test_whole_numbers_in_floats_and_a_column_of_labels_are_accepted(path: Path) -> None:
    np.savez(path, x=pixels(3), y=np.array([[0.0], [2.0], [1.0]]))
    assert load(path).y.tolist() == [0, 2, 1]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_off_anywhere_is_refused(path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(path, x=pixels(40), y=np.arange(40), is_test=np.zeros(40))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as caught:
            load(path)
        one_line(caught.value, str(path))


def test_a_flipped_byte_of_the_pixels_is_found_by_the_checksum_even_outside_the_shard(path: Path) -> None:
    np.savez(path, x=np.full((40, 64), 171, np.uint8), y=np.arange(40), device=np.arange(40) // 20)
    whole = bytearray(path.read_bytes())
    whole[whole.rindex(b"\xab" * 32) + 4] ^= 1
    path.write_bytes(whole)
    for shard in (None, 0, 1):
        with pytest.raises(DataError, match="CRC"):
            load(path, shard=shard)


def test_a_header_that_promises_more_than_there_is_allocates_nothing(path: Path) -> None:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 2**10)})
    labels = io.BytesIO()
    np.save(labels, np.zeros(4))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", held.getvalue())
        archive.writestr("y.npy", labels.getvalue())
    with pytest.raises(DataError, match="shorter or longer"):
        load(path)


def test_a_missing_or_unknown_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        load(tmp_path / "gone.npz")
    one_line(caught.value, "gone.npz")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match="unknown kind"):
        load(tmp_path / "data.csv")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(DataError, match="an npz file"):
        load(tmp_path / "text.npz")


def test_an_array_of_another_name_is_told(path: Path) -> None:
    x, y = np.zeros((3, 2), np.uint8), np.arange(3)
    np.savez(path, x=x, y=y, split=np.array(["train", "test", "test"]), weight=np.ones(3))
    (told,) = load(path).left_out
    assert (told.count, told.example) == (2, "split")
    assert "not read" in told.kind
    np.savez(path, x=x, y=y, is_test=y > 1, device=y, class_names=np.array(["a", "b", "c"]))
    assert load(path).left_out == ()
