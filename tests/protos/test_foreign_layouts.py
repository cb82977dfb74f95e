"""Folders, archives and tables as others lay them out: read as they are meant, told, or refused; by no wrong name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protos.datafiles import dataset
from protos.datafiles.front_end import front_end_of
from protos.errors import DataError, EmptyShardError, LabelError

SHAPE = (4, 4, 3)


def pictures(*folders: Path, count: int = 2) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for at in range(count):
            Image.fromarray(np.full(SHAPE, 40 * at, np.uint8)).save(folder / f"{at}.png")


def test_splits_that_unpacked_into_themselves_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pictures(*(tmp_path / split / split / name for name in ("ant", "bee")))
    data = dataset.load(tmp_path, image_shape=SHAPE)
    assert data.class_names == ("ant", "bee")
    assert (len(data), int(data.is_test.sum())) == (8, 4)


@pytest.mark.parametrize("name", ["test", "test1"])
def test_a_contests_test_pictures_without_labels_are_no_class(name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "train" / "ant", tmp_path / "train" / "bee", tmp_path / name)
    data = dataset.load(tmp_path, image_shape=SHAPE)
    assert data.class_names == ("ant", "bee")
    assert "left out: 2 image of a split without class folders" in dataset.account_of(data)


def test_evaluation_is_a_split(tmp_path: Path) -> None:
    pictures(*(tmp_path / split / name for split in ("training", "evaluation") for name in ("ant", "bee")))
    data = dataset.load(tmp_path, image_shape=SHAPE)
    assert (len(data), int(data.is_test.sum())) == (8, 4)


@pytest.mark.parametrize(
    ("folders", "error", "words"),
    [
        (("training", "testing"), EmptyShardError, "are splits, and hold images without class folders"),
        (("images", "masks"), EmptyShardError, "are pictures and what is drawn over them"),
        (("fold1/ant", "fold1/bee", "fold2/ant", "fold2/bee"), LabelError, "the classes lie below them"),
    ],
)
def test_names_that_are_no_classes_are_refused(
    folders: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    pictures(*(tmp_path / name for name in folders))
    with pytest.raises(error, match=words):
        dataset.load(tmp_path, image_shape=SHAPE)


@pytest.mark.parametrize("names", [("training", "testing"), ("images", "masks"), ("test", "control")])
def test_a_model_may_have_classes_called_so(names: tuple[str, str], tmp_path: Path) -> None:
    pictures(*(tmp_path / name for name in names))
    assert len(dataset.load(tmp_path, image_shape=SHAPE, classes=sorted(names))) == 4


def test_arrays_that_nobody_reads_are_told(tmp_path: Path) -> None:
    x = np.zeros((4, 3), np.float32)
    path = tmp_path / "split.npz"
    np.savez(path, x=x, y=np.arange(4) % 2, split=np.array(["train"] * 4), x_test=x, is_test=np.arange(4) > 2)
    assert "left out: 2 array of another name, which is not read (split)" in dataset.account_of(dataset.load(path))
    dataset.save(dataset.load(path), tmp_path / "own.npz")
    assert "left out" not in dataset.account_of(dataset.load(tmp_path / "own.npz"))


@pytest.mark.parametrize("front_end", ["rows width=2 label=y", "windows length=1 hop=1 columns=a,b label=y"])
def test_cells_that_moved_and_numbers_of_programs_are_no_numbers(front_end: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("y,a,b\nant,1,5,2\nbee,3,4,\nant,1_000,2\nbee,5,6\n")
    data = dataset.load(path, front_end=front_end_of(front_end))
    assert data.x.reshape(-1, 2).tolist() == [[3, 4], [5, 6]]
    assert "2 row without a number or a class (table.csv:2)" in dataset.account_of(data)


def test_a_column_of_row_numbers_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "pandas.csv"
    path.write_text(",y,a,b\n0,ant,1,2\n1,bee,3,4\n")
    data = dataset.load(path, front_end=front_end_of("rows width=2 label=y"))
    assert data.x.tolist() == [[1, 2], [3, 4]]
    assert "1 column of row numbers (pandas.csv, the first)" in dataset.account_of(data)


def test_a_table_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_bytes("y,a,b\nk\xe4fer,1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no text in UTF-8; save it as UTF-8"):
        dataset.load(path, front_end=front_end_of("rows width=2 label=y"))
