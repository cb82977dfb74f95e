"""Class names of calibration and evaluation examples: one numbering for both."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from firmware_tools.convert.examples import choose, chosen_rows, digest, load_examples
from protos.datafiles.dataset import load
from protos.errors import LabelError, UsageError


def examples(path: Path, names: list[str]) -> str:
    np.savez(path, x=np.zeros((len(names), 5), np.float32), y=np.arange(len(names)), class_names=names)
    return str(path)


def test_evaluation_examples_are_numbered_by_the_names_of_the_calibration_examples(tmp_path: Path) -> None:
    calibrate = examples(tmp_path / "c.npz", ["ant", "bee", "cat"])
    read = load_examples(calibrate, examples(tmp_path / "e.npz", ["CAT", "ant"]), (5,), None)
    assert read.evaluation is not None
    assert read.evaluation.y.tolist() == [2, 0]


def test_evaluation_examples_of_other_names_are_refused_until_a_rename_says_which_is_which(tmp_path: Path) -> None:
    calibrate = examples(tmp_path / "c.npz", ["cat", "dog"])
    evaluate = examples(tmp_path / "e.npz", ["hund", "katze"])
    with pytest.raises(LabelError, match="--rename"):
        load_examples(calibrate, evaluate, (5,), None, renames={})
    read = load_examples(calibrate, evaluate, (5,), None, renames={"hund": "dog", "katze": "cat"})
    assert read.evaluation is not None
    assert read.evaluation.y.tolist() == [1, 0]


def test_a_rename_that_changes_nothing_is_said(tmp_path: Path) -> None:
    calibrate = examples(tmp_path / "c.npz", ["katze", "hund"])
    read = load_examples(calibrate, None, (5,), None, renames={"katze": "cat"})
    assert read.calibration is not None
    assert read.calibration.class_names == ("cat", "hund")
    with pytest.raises(UsageError, match=r"--rename kater=cat changes nothing: the classes are katze, hund"):
        load_examples(calibrate, None, (5,), None, renames={"kater": "cat"})


def test_examples_in_a_file_are_compared_without_all_of_them_in_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((10_000, 784))
    x[3], x[7] = x[2], x[6]
    np.savez(tmp_path / "large.npz", x=x, y=np.arange(10_000) // 3 % 2, is_test=np.arange(10_000) % 7 == 0)
    kept = x.nbytes // 2  # as float32
    del x
    tracemalloc.start()
    try:
        read = load_examples(None, str(tmp_path / "large.npz"), (784,), None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    contradicted, twice = read.remarked[-2:]
    assert "1 of 10000 examples are those of another class" in contradicted
    assert "1 of 1429 held-out examples are among the training ones" in twice
    assert peak < kept * 2 / 3, peak


def test_classes_that_differ_by_case_alone_are_remarked_unless_the_names_are_given(tmp_path: Path) -> None:
    path = examples(tmp_path / "c.npz", ["Ant", "ant", "bee"])
    told = "classes Ant and ant differ by case alone: if they are one, put them in one folder"
    assert any(told in line for line in load_examples(path, None, (5,), None).remarked)
    assert not any(told in line for line in load_examples(path, None, (5,), ("Ant", "ant", "bee")).remarked)


def test_examples_of_a_large_file_are_named_by_their_content_without_a_copy_of_all(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((500, 20_000), dtype=np.float32)
    np.savez(tmp_path / "large.npz", x=x, y=np.zeros(500, np.int32), is_test=np.arange(500) % 2 == 0)
    train = load(tmp_path / "large.npz").train()
    tracemalloc.start()
    try:
        found, some = digest(train), choose(train, 10, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x[1::2].nbytes / 2
    whole = hashlib.sha256(f"float32{(250, 20_000)}".encode())
    for part in (x[1::2], np.zeros(250, np.int32)):
        whole.update(np.ascontiguousarray(part).data)
    assert found == whole.hexdigest()
    np.testing.assert_array_equal(some, x[1::2][chosen_rows(250, 10, 0)])
