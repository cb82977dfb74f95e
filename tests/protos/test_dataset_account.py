"""Folders and idx files as people have them: everything is read, or told."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protos.datafiles.dataset import Dataset, account_of, fitted, load
from protos.errors import DataError, EmptyShardError, ShapeError

NAMES = ("ant", "bee", "cat")
RAMP = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)


def put(folder: Path, write: Callable[[Path], None], *, count: int = 4, names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            write(folder / name / str(index))
    return folder


def png(path: Path) -> None:
    Image.fromarray(RAMP).save(f"{path}.png")


def counts(data: Dataset) -> list[int]:
    return np.bincount(data.y, minlength=len(NAMES)).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("ending", "values", "told"),
    [
        ("png", np.rint(RAMP / 255 * 65535).astype(np.uint16), "of 16 or 32 bits, divided by 257"),
        ("tif", np.rint(RAMP / 255 * 65535).astype(np.int32), "of 16 or 32 bits, divided by 257"),
        ("tif", (RAMP / 255).astype(np.float32), "of floats, taken as 0 to 1"),
    ],
)
def test_deep_images_are_scaled_by_their_mode_and_it_is_told(
    tmp_path: Path, ending: str, values: np.ndarray[Any, Any], told: str
) -> None:
    put(tmp_path, lambda path: Image.fromarray(values).save(f"{path}.{ending}"))
    for shape in (None, (4, 4, 1), (4, 4, 3)):
        data = load(tmp_path, image_shape=shape)
        np.testing.assert_array_equal(data.x[0, ..., 0], RAMP)
        assert told in account_of(data)
        assert "changed: 12 " in account_of(data)


@pytest.mark.parametrize(
    "values",
    [RAMP.astype(np.float32), RAMP.astype(np.float32) / 100 - 1, RAMP.astype(np.uint16), RAMP.astype(np.int32) * 5000],
)
def test_deep_images_whose_scale_is_not_known_are_refused(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    put(tmp_path, lambda path: Image.fromarray(values).save(f"{path}.tif"))
    with pytest.raises(DataError, match=r"0\.tif: holds .*save"):
        load(tmp_path)


def test_endings_of_browsers_and_of_animations_are_images_too(tmp_path: Path) -> None:
    put(tmp_path, lambda path: Image.fromarray(RAMP).save(f"{path}.gif"), names=("ant",))
    put(tmp_path, lambda path: Image.fromarray(RAMP).save(f"{path}.jfif", format="JPEG"), names=("bee",))
    put(tmp_path, png, names=("cat",))
    assert counts(load(tmp_path, image_shape=(4, 4, 1))) == [4, 4, 4]


def test_images_below_a_folder_of_their_class_are_read(tmp_path: Path) -> None:
    put(tmp_path, png, count=2)
    for session in ("one", "two"):
        for name in NAMES:
            put(tmp_path / name, png, count=3, names=(session,))
    (tmp_path / "ant" / "round").symlink_to(tmp_path / "ant")
    assert counts(load(tmp_path)) == [8, 8, 8]


def test_a_lone_folder_above_the_classes_is_passed_through_but_a_class_of_the_model_is_not(tmp_path: Path) -> None:
    put(tmp_path / "images", png)
    assert load(tmp_path).class_names == NAMES
    put(tmp_path / "own" / "ant", png, names=("monday", "friday"))
    data = load(tmp_path / "own", classes=NAMES)
    assert data.y.tolist() == [0] * 8


@pytest.mark.parametrize(
    "splits",
    [("train", "valid", "test"), ("Train", "Test"), ("seg_train", "seg_test"), ("train", "dev"), ("training", "eval")],
)
def test_splits_are_known_by_a_word_of_their_name(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        put(tmp_path / split, png)
    (tmp_path / "notes").mkdir()
    data = load(tmp_path)
    assert data.class_names == NAMES
    assert len(data.train()) == 12
    assert len(data.test()) == 12 * (len(splits) - 1)
    assert "1 folder beside the splits (notes)" in account_of(data)


def test_a_camera_orientation_is_applied_and_told(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = Image.fromarray(RAMP).transpose(Image.Transpose.ROTATE_90)
    put(tmp_path, lambda path: turned.save(f"{path}.png", exif=tag))
    data = load(tmp_path)
    np.testing.assert_array_equal(data.x[0, ..., 0], RAMP)
    assert "changed: 12 turned upright by its EXIF tag (ant/0.png)" in account_of(data)


def test_what_systems_leave_behind_is_skipped_and_the_rest_is_told_by_kind(tmp_path: Path) -> None:
    put(tmp_path, png)
    before = account_of(load(tmp_path))
    assert before == "12 examples read, 0 of them held out"
    for junk in ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints"):
        (tmp_path / junk / "ant").mkdir(parents=True)
        png(tmp_path / junk / "ant" / "0")
    for junk in ("._0.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "ant" / junk).write_bytes(b"\0\5\x16\7")
    assert account_of(load(tmp_path)) == before
    (tmp_path / "bee" / "a.heic").write_bytes(b"x")
    (tmp_path / "bee" / "b.HEIC").write_bytes(b"x")
    (tmp_path / "bee" / "zz.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "eel").mkdir()
    png(tmp_path / "stray")
    told = account_of(load(tmp_path))
    for words in ("2 .heic (bee/a.heic)", "1 broken link (bee/zz.png)", "1 class folder without an image (eel)",
                  "1 image outside the class folders (stray.png)"):  # fmt: skip
        assert words in told
    assert "\n" not in told


def test_a_folder_without_a_usable_image_says_what_was_found(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / str(index))
    with pytest.raises(EmptyShardError, match=r"it holds 3 image outside the class folders \(0\.png\)"):
        load(tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read_is_one_line(open_folder: Path) -> None:
    put(open_folder, png)
    (open_folder / "bee").chmod(0)
    as_root = os.geteuid() == 0
    load(open_folder) if as_root else None  # whatever is imported late is imported now
    try:
        if as_root:
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"bee: cannot be read \(Permission denied\)"):
            load(open_folder)
    finally:
        if as_root:
            os.seteuid(0)
        (open_folder / "bee").chmod(0o755)


def idx_pair(folder: Path, images: str, count: int, *, zipped: bool = False, value: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    for name, shape in (
        (images, (count, 4, 4)),
        (images.replace("images", "labels").replace("idx3", "idx1"), (count,)),
    ):
        data = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes([value]) * int(np.prod(shape))
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("kind", ["emnist-letters", "emnist_digits", "qmnist"])
def test_a_test_file_is_known_by_a_word_within_its_name(tmp_path: Path, kind: str) -> None:
    idx_pair(tmp_path, f"{kind}-train-images-idx3-ubyte", 6)
    idx_pair(tmp_path, f"{kind}-test-images-idx3-ubyte", 3, zipped=True)
    data = load(tmp_path)
    assert (len(data.train()), len(data.test())) == (6, 3)


def test_two_spellings_of_one_idx_file_are_read_once_and_told(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("t10k", 3)):
        for separator in "-.":
            idx_pair(tmp_path, f"{part}-images{separator}idx3-ubyte", count)
    idx_pair(tmp_path, "train-images-idx3-ubyte", 6, zipped=True)
    (tmp_path / "README.md").write_text("about")
    data = load(tmp_path)
    assert (len(data.train()), len(data.test())) == (6, 3)
    assert "3 other spelling of a file that is read" in account_of(data)
    assert "1 .md (README.md)" in account_of(data)


@pytest.mark.parametrize(("bits", "ending"), [(10, "png"), (12, "png"), (12, "tif"), (14, "tif")])
def test_files_of_sensors_with_fewer_bits_are_as_bright_as_they_were(tmp_path: Path, bits: int, ending: str) -> None:
    white = (1 << bits) - 1
    bright = np.rint((255 - RAMP) / 255 * white).astype(np.uint16)
    put(tmp_path, lambda path: Image.fromarray(bright if path.name == "0" else bright // 16).save(f"{path}.{ending}"))
    data = load(tmp_path, image_shape=(4, 4, 1))
    np.testing.assert_array_equal(data.x[0, ..., 0], 255 - RAMP)
    assert f"changed: 12 of 16 or 32 bits, taken as {bits} bits (largest value {white})" in account_of(data)


def test_labels_of_qmnist_are_the_first_column_of_their_table(tmp_path: Path) -> None:
    def idx(array: np.ndarray[Any, Any], kind: int) -> bytes:
        header = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        return gzip.compress(header + array.astype(">i4" if kind == 12 else ">u1").tobytes())

    for part, count in (("train", 6), ("test", 4)):
        table = np.arange(count)[:, None] % 3 + 100 * np.arange(8)
        images = np.zeros((count, 4, 4), np.uint8)
        (tmp_path / f"qmnist-{part}-images-idx3-ubyte.gz").write_bytes(idx(images, 8))
        (tmp_path / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(idx(table, 12))
    data = load(tmp_path)
    assert (len(data), int(data.is_test.sum())) == (10, 4)
    assert data.y.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_examples_with_their_channels_first_are_refused_with_the_transposition() -> None:
    first = Dataset(np.zeros((2, 3, 4, 5), np.uint8), np.zeros(2, np.int32), np.zeros(2, np.bool_))
    with pytest.raises(ShapeError, match=r"channels come first: store numpy\.transpose\(x, \(0, 2, 3, 1\)\)"):
        fitted(first, (4, 5, 3))
    with pytest.raises(ShapeError, match="resize the data"):
        fitted(first, (5, 4, 3))
