"""Class names of data against those of a model: labels follow names, or the reader is told."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protos.datafiles.dataset import load
from protos.datafiles.renames import read_renames
from protos.errors import LabelError

NAMES = ("café", "naïve", "über", "zèbre")


def folders(root: Path, names: tuple[str, ...]) -> Path:
    """One image per folder, all of one value: ten times the place of its name, and one."""
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("L", (4, 4), 10 * index + 1).save(root / name / "a.png")
    return root


def label_of_each(root: Path, classes: tuple[str, ...], renames: dict[str, str] | None = None) -> list[int]:
    data = load(root, classes=classes, renames=renames)
    return [int(label) for _, label in sorted(zip(data.x[:, 0, 0, 0].tolist(), data.y.tolist(), strict=True))]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("bundle_form", ["NFC", "NFD"])
def test_accents_in_either_form_are_the_same_name(tmp_path: Path, form: str, bundle_form: str) -> None:
    stored = tuple(unicodedata.normalize(form, name) for name in NAMES)
    wanted = tuple(unicodedata.normalize(bundle_form, name) for name in reversed(NAMES))
    assert label_of_each(folders(tmp_path, stored), wanted) == [3, 2, 1, 0]


def test_two_forms_of_one_name_in_two_splits_are_one_class(tmp_path: Path) -> None:
    folders(tmp_path / "train", tuple(unicodedata.normalize("NFC", name) for name in NAMES))
    folders(tmp_path / "test", tuple(unicodedata.normalize("NFD", name) for name in NAMES))
    data = load(tmp_path)
    assert data.class_names is not None
    assert len(data.class_names) == 4
    train, test = data.train(), data.test()
    of_value = dict(zip(train.x[:, 0, 0, 0].tolist(), train.y.tolist(), strict=True))
    assert of_value == dict(zip(test.x[:, 0, 0, 0].tolist(), test.y.tolist(), strict=True))
    assert sorted(of_value.values()) == [0, 1, 2, 3]


def test_capitals_do_not_count_where_one_choice_is_left(tmp_path: Path) -> None:
    assert label_of_each(folders(tmp_path / "a", ("Ant", "BEE")), ("bee", "ant")) == [1, 0]
    assert label_of_each(folders(tmp_path / "b", ("a", "A")), ("A", "a")) == [1, 0]
    with pytest.raises(LabelError, match="'Ant' is not among"):
        load(folders(tmp_path / "c", ("Ant",)), classes=("ant", "ANT"))
    with pytest.raises(LabelError, match="not among"):
        load(folders(tmp_path / "d", ("Ant", "ANT")), classes=("ant", "bee"))


def test_names_in_another_language_are_refused_with_both_lists_and_never_placed_by_the_alphabet(tmp_path: Path) -> None:
    root = folders(tmp_path, ("hund", "katze"))
    with pytest.raises(LabelError) as caught:
        load(root, classes=("cat", "dog"), renames={})
    text = str(caught.value)
    assert caught.value.exit_code == 9
    assert "cat, dog" in text
    assert "hund, katze" in text
    assert "--rename 'hund=cat'" in text
    assert "\n" not in text
    with pytest.raises(LabelError) as caught:
        load(root, classes=("cat", "dog"))
    assert "--rename" not in str(caught.value)


def test_renames_say_which_is_which_in_folders_and_files(tmp_path: Path) -> None:
    root = folders(tmp_path / "f", ("hund", "katze"))
    assert label_of_each(root, ("cat", "dog"), {"hund": "dog", "katze": "cat"}) == [1, 0]
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2)), y=[0, 1, 0], class_names=["hund", "katze"])
    data = load(tmp_path / "d.npz", classes=("cat", "dog"), renames={"hund": "dog", "katze": "cat"})
    assert data.y.tolist() == [1, 0, 1]
    assert data.class_names == ("cat", "dog")
    with pytest.raises(LabelError, match="'hund' is not among"):
        load(root, classes=("cat", "dog"), renames={"hunt": "dog", "katze": "cat"})


def test_a_rename_may_bring_two_classes_together_with_a_model_or_without(tmp_path: Path) -> None:
    root = folders(tmp_path, ("kitten", "cat", "dog"))
    assert label_of_each(root, ("cat", "dog"), {"kitten": "cat"}) == [0, 0, 1]
    data = load(root, renames={"kitten": "cat"})
    assert data.class_names == ("cat", "dog")
    assert sorted(data.y.tolist()) == [0, 0, 1]


def test_names_stay_captions_of_numbers_where_the_model_has_only_numbers(tmp_path: Path) -> None:
    assert label_of_each(folders(tmp_path, ("hund", "katze")), ("0", "1")) == [0, 1]


@pytest.mark.parametrize("text", ["", "a", "a=", "=b", "a=b,", "a=b,a=c"])
def test_renames_that_are_none_are_said(text: str) -> None:
    with pytest.raises(ValueError, match="not OLD=NEW"):
        read_renames(text)
