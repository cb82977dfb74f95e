"""idx pairs and folders of images."""

from __future__ import annotations

import builtins
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protos.datafiles.dataset import load
from protos.errors import DataError, EmptyShardError, LabelError, ShapeError, UsageError

Array = np.ndarray[Any, Any]


def idx_bytes(array: Array, kind: int = 0x08, stored: str = ">u1") -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.astype(stored).tobytes()


def write_pair(folder: Path, prefix: str, x: Array, y: Array, *, zipped: bool) -> Path:
    for array, name in ((x, "images-idx3-ubyte"), (y, "labels-idx1-ubyte")):
        data = idx_bytes(array)
        path = folder / f"{prefix}-{name}{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(data) if zipped else data)
    return folder / f"{prefix}-images-idx3-ubyte{'.gz' if zipped else ''}"


X = np.arange(10 * 12, dtype=np.uint8).reshape(10, 4, 3)
Y = np.arange(10) % 4


@pytest.mark.parametrize("zipped", [False, True])
def test_a_single_pair_is_read_and_all_of_it_is_for_use(tmp_path: Path, zipped: bool) -> None:
    data = load(write_pair(tmp_path, "t10k", X, Y, zipped=zipped))
    assert data.x.dtype == np.uint8
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert not data.is_test.any()


def test_a_folder_of_pairs_holds_out_t10k(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", X, Y, zipped=True)
    write_pair(tmp_path, "t10k", X[:3] + 100, Y[:3], zipped=False)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.train().x, X)
    np.testing.assert_array_equal(data.test().x, X[:3] + 100)
    assert data.test().y.tolist() == Y[:3].tolist()


def test_shards_of_a_folder_of_pairs_are_disjoint_and_complete(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", X, np.arange(10), zipped=True)
    write_pair(tmp_path, "t10k", X + 100, np.arange(10, 20), zipped=True)
    whole = np.concatenate([X, X + 100])
    shards = [load(tmp_path, shard=f"{k}/3") for k in (1, 2, 3)]
    assert sorted(np.concatenate([shard.y for shard in shards]).tolist()) == list(range(20))
    for shard in shards:
        np.testing.assert_array_equal(shard.x, whole[shard.y])
        assert len(shard.test()) in (3, 4)
    with pytest.raises(UsageError, match="K/N"):
        load(tmp_path, shard="pi-1")


def test_the_other_types_of_the_format_are_read(tmp_path: Path) -> None:
    images = tmp_path / "f-images-idx3-ubyte"
    images.write_bytes(idx_bytes(X / 7, 0x0D, ">f4"))
    (tmp_path / "f-labels-idx1-ubyte").write_bytes(idx_bytes(Y, 0x0C, ">i4"))
    data = load(images)
    assert data.x.dtype == np.float32
    np.testing.assert_allclose(data.x, X / 7, rtol=1e-6)
    np.testing.assert_array_equal(data.y, Y)


def test_an_images_file_without_its_labels_is_refused(tmp_path: Path) -> None:
    images = write_pair(tmp_path, "train", X, Y, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no labels file train-labels-idx1-ubyte"):
        load(images)


def test_a_pair_of_different_lengths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="for 9 labels"):
        load(write_pair(tmp_path, "train", X, Y[:9], zipped=False))


def test_pairs_of_different_shapes_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", X, Y, zipped=False)
    write_pair(tmp_path, "t10k", X.reshape(10, 3, 4), Y, zipped=False)
    with pytest.raises(ShapeError, match="file before it"):
        load(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("which", ["images-idx3-ubyte", "labels-idx1-ubyte"])
def test_a_pair_cut_off_anywhere_is_refused(tmp_path: Path, zipped: bool, which: str) -> None:
    images = write_pair(tmp_path, "train", X, Y, zipped=zipped)
    path = tmp_path / f"train-{which}{'.gz' if zipped else ''}"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 3):
        path.write_bytes(whole[:length])
        with pytest.raises((DataError, ShapeError)) as caught:
            load(images)
        assert str(path) in str(caught.value)


def test_a_file_that_is_no_idx_file_is_refused(tmp_path: Path) -> None:
    images = write_pair(tmp_path, "train", X, Y, zipped=False)
    images.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DataError, match="no idx file"):
        load(images)


def photo(path: Path, size: tuple[int, int], colour: tuple[int, int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


def test_a_folder_by_class_is_numbered_by_sorted_name_and_split_by_the_folders_above(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for name, red in (("tulip", 200), ("daisy", 50)):
            for index in range(count):
                photo(tmp_path / split / name / f"{index}.png", (8, 8), (red, index, 0))
    data = load(tmp_path)
    assert data.x.shape == (10, 8, 8, 3)
    assert data.class_names == ("daisy", "tulip")
    assert (len(data.train()), len(data.test())) == (6, 4)
    np.testing.assert_array_equal(data.x[:, 0, 0, 0], np.where(data.y == 0, 50, 200))


def test_classes_lie_directly_in_the_folder_too_and_one_may_be_called_test(tmp_path: Path) -> None:
    photo(tmp_path / "good" / "a.png", (4, 4), (1, 2, 3))
    photo(tmp_path / "test" / "b.png", (4, 4), (4, 5, 6))
    (tmp_path / "good" / "notes.txt").write_text("no image")
    data = load(tmp_path)
    assert data.class_names == ("good", "test")
    assert data.y.tolist() == [0, 1]
    assert not data.is_test.any()


def test_a_device_without_every_class_still_numbers_them_like_the_model(tmp_path: Path) -> None:
    photo(tmp_path / "tulip" / "a.png", (4, 4), (1, 2, 3))
    data = load(tmp_path, classes=("daisy", "rose", "tulip"))
    assert data.y.tolist() == [2]
    with pytest.raises(LabelError, match="'tulip' is not among the 2 classes"):
        load(tmp_path, classes=("daisy", "rose"))


def test_images_are_cut_around_the_centre_and_resized_like_the_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    picture = rng.integers(0, 256, (30, 50, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(tmp_path / "a" / "wide.png")
    data = load(tmp_path, image_shape=(15, 15, 3))
    square = Image.fromarray(picture[:, 10:40])
    np.testing.assert_array_equal(data.x[0], np.asarray(square.resize((15, 15), Image.Resampling.BILINEAR)))
    assert load(tmp_path, image_shape=(10, 20, 3)).x.shape == (1, 10, 20, 3)
    assert load(tmp_path, image_shape=(15, 15, 1)).x.shape == (1, 15, 15, 1)
    assert load(tmp_path, image_shape=(60, 60, 3)).x.shape == (1, 60, 60, 3)


def test_images_of_two_sizes_need_a_shape(tmp_path: Path) -> None:
    photo(tmp_path / "a" / "1.png", (4, 4), (1, 2, 3))
    photo(tmp_path / "a" / "2.png", (5, 4), (1, 2, 3))
    with pytest.raises(ShapeError, match=r"2\.png"):
        load(tmp_path)
    assert load(tmp_path, image_shape=(4, 4, 3)).x.shape == (2, 4, 4, 3)
    with pytest.raises(ShapeError, match=r"\[49, 10\]"):
        load(tmp_path, image_shape=(49, 10))


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    photo(tmp_path / "a" / "1.png", (4, 4), (9, 9, 9), "L")
    assert load(tmp_path).x.shape == (1, 4, 4, 1)


def test_a_damaged_image_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyShardError, match="one sub-folder per class"):
        load(tmp_path)
    photo(tmp_path / "a" / "1.png", (64, 64), (1, 2, 3))
    good = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "2.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"2\.png: cannot be read as an image"):
        load(tmp_path)


def test_only_the_images_of_the_shard_are_opened(tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / "a" / f"{index}.png", (4, 4), (index, 0, 0))
    mine = set(load(tmp_path, shard="1/2").x[:, 0, 0, 0].tolist())
    for index in set(range(6)) - mine:
        (tmp_path / "a" / f"{index}.png").write_bytes(b"damaged")
    assert set(load(tmp_path, shard="1/2").x[:, 0, 0, 0].tolist()) == mine
    with pytest.raises(DataError):
        load(tmp_path, shard="2/2")


def test_without_pillow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a" / "1.png", (4, 4), (1, 2, 3))
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"edgejoule\[images\]"):
        load(tmp_path)
