"""Folders that look like classes and are none: links upwards, pools of pictures, folds, names that are no text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protos.datafiles.account import printable
from protos.datafiles.dataset import account_of, load
from protos.datafiles.formats.pixels import Opener
from protos.errors import DataError, EmptyShardError, LabelError

NAMES = ("ant", "bee", "cat")
RAMP = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)


def png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RAMP).save(path)


def classes(folder: Path, above: str = "") -> Path:
    for name in NAMES:
        for index in range(3):
            png(folder / above / name / f"{index}.png")
    return folder


def test_a_link_to_a_folder_above_gives_no_picture_another_label(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    (data / "ant" / "all").symlink_to("..")
    (data / "bee" / "here").symlink_to(".")
    (data / "cat" / "far").symlink_to(tmp_path)
    found = load(data)
    assert np.bincount(found.y).tolist() == [3, 3, 3]
    assert "3 link to a folder above it (ant/all)" in account_of(found)


def test_a_class_that_is_a_link_beside_the_others_is_read(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    (data / "cat").rename(tmp_path / "elsewhere")
    (data / "cat").symlink_to("../elsewhere")
    assert np.bincount(load(data).y).tolist() == [3, 3, 3]


def test_a_pipe_among_pictures_is_not_opened(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    os.mkfifo(data / "ant" / "9.png")
    (data / "bee" / "9.png").symlink_to("nowhere.png")
    told = account_of(load(data))
    assert "1 no plain file (ant/9.png)" in told
    assert "1 broken link (bee/9.png)" in told


@pytest.mark.parametrize("pool", ["images", "JPEGImages"])
def test_pictures_in_one_pool_are_not_one_class(tmp_path: Path, pool: str) -> None:
    for index in range(4):
        png(tmp_path / pool / f"{index}.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 .5 .5 1 1")
    with pytest.raises(EmptyShardError, match="nothing tells their class"):
        load(tmp_path)
    assert len(load(tmp_path, classes=(pool, "other"))) == 4, "unless the model has such a class"


def test_classes_below_folds_are_told(tmp_path: Path) -> None:
    for fold in ("fold0", "fold1"):
        classes(tmp_path, fold)
    with pytest.raises(LabelError, match=r"folders below them are \(ant, bee, cat\)"):
        load(tmp_path, classes=NAMES)
    assert len(load(tmp_path / "fold0", classes=NAMES)) == 9


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    odd = os.fsencode(data) + b"/\xff\xfe"
    os.mkdir(odd)
    png(Path(os.fsdecode(odd)) / "0.png")
    with pytest.raises(DataError, match="is no UTF-8") as refused:
        load(data)
    str(refused.value).encode("utf-8")


def test_file_names_are_told_so_that_they_can_be_printed(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    Path(os.fsdecode(os.fsencode(data / "ant") + b"/\xff\n.txt")).write_text("x")
    told = account_of(load(data))
    told.encode("utf-8")
    assert "\n" not in told
    assert printable("ä b") == "ä b"


def test_a_hidden_class_is_left_out_and_told(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    png(data / ".dog" / "0.png")
    png(data / ".ipynb_checkpoints" / "0.png")
    assert "left out: 1 hidden folder with images (.dog)" in account_of(load(data))


def test_a_png_with_a_damaged_middle_is_no_picture(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    for name in ("ant/0", "ant/1", "bee/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    path = tmp_path / "ant" / "0.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ant/0\.png: cannot be read as an image"):
        load(tmp_path, image_shape=(24, 24, 3))
    data = load(tmp_path, image_shape=(24, 24, 3), tolerant=True)
    assert len(data) == 2
    assert (data.x == values).all()
    assert Opener((24, 24, 3), tmp_path).look(path).startswith("bad: ")


def test_splits_below_the_classes_are_splits(tmp_path: Path) -> None:
    for name in ("ant/train/0", "ant/train/deep/1", "ant/test/0", "bee/train/0", "bee/testing/0", "cat/test/0"):
        png(tmp_path / f"{name}.png")
    data = load(tmp_path, image_shape=(4, 4, 3))
    assert data.class_names == ("ant", "bee", "cat")
    assert [np.bincount(data.y[data.is_test == held_out], minlength=3).tolist() for held_out in (False, True)] == [
        [2, 1, 1], [1, 1, 0],
    ]  # fmt: skip


def test_splits_of_a_year_are_no_classes(tmp_path: Path) -> None:
    png(tmp_path / "train2017" / "000000000009.png")
    with pytest.raises(EmptyShardError, match="all 1 images lie in one folder 'train2017'"):
        load(tmp_path)
    png(tmp_path / "val2017" / "000000000139.png")
    with pytest.raises(EmptyShardError, match="are splits, and hold images without class folders"):
        load(tmp_path)
