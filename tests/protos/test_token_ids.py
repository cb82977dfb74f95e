"""Bundles that take token ids: their schema, what an id is, and tables of which each row is an example."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles import dataset
from protos.datafiles.dataset import Dataset
from protos.datafiles.front_end import front_end_of
from protos.errors import DataError, EmptyShardError, ModelError, UsageError
from protos.model.backbone import Backbone, quantise
from protos.model.bundle import open_bundle
from protos.model.head_algebra import head_shapes
from protos.model.manifest import (
    SCHEMA,
    TOKEN_SCHEMA,
    BackboneSpec,
    FileRecord,
    HeadSpec,
    Manifest,
    Preprocessing,
    TensorSpec,
)
from protos.model.resemblance import compared, record_of_inputs

SPEC = BackboneSpec("b.tflite", (6,), "int32", 1.0, 0, 4, "int8", 0.1, 0, None, 500)
PLAIN = Preprocessing(1.0, 0.0)
TOKENS = Path(__file__).parents[1] / "golden" / "tokens"


def made(**changes: Any) -> Manifest:
    tensors = tuple(TensorSpec(name, shape) for name, shape in head_shapes(4, 2).items())
    values: dict[str, Any] = {
        "name": "m",
        "classes": ("a", "b"),
        "preprocessing": PLAIN,
        "backbone": SPEC,
        "head": HeadSpec("h.tflite", "i.npz", 32, None, "cross_entropy", "sgd", tensors, ()),
        "files": {name: FileRecord("0" * 64, 1) for name in ("b.tflite", "h.tflite", "i.npz")},
        "provenance": {},
        "schema": TOKEN_SCHEMA,
    }
    return Manifest(**(values | changes))


def ids(x: Any, path: str = "ids.npz") -> Dataset:
    x = np.asarray(x, np.float32)
    return Dataset(x, np.zeros(len(x), np.int32), np.zeros(len(x), np.bool_), source=path)


def test_a_bundle_of_token_ids_names_a_schema_that_older_software_refuses() -> None:
    document = json.loads(made().to_json())
    assert document["schema"] == "edgejoule.bundle/7"
    assert document["backbone"]["vocabulary"] == 500
    assert Manifest.from_json(json.dumps(document)) == made()
    with pytest.raises(ModelError, match="of token ids it must be"):
        made(schema=SCHEMA)


def test_a_bundle_of_real_numbers_is_written_as_before() -> None:
    plain = dataclasses.replace(SPEC, input_dtype="int8", vocabulary=None)
    document = json.loads(made(backbone=plain, schema=SCHEMA).to_json())
    assert "vocabulary" not in document["backbone"]
    with pytest.raises(ModelError, match="it must be"):
        made(backbone=plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_scale": 0.5}, "scale 1 and zero point 0"),
        ({"input_dtype": "int8"}, "scale 1 and zero point 0"),
        ({"vocabulary": 0}, "vocabulary must be in"),
        ({"vocabulary": (1 << 24) + 1}, "vocabulary must be in"),
        ({"vocabulary": None}, "must be int8 or uint8"),
    ],
)
def test_ends_that_contradict_each_other_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        dataclasses.replace(SPEC, **change)


def test_ids_are_neither_preprocessed_nor_compiled_for_an_edge_tpu() -> None:
    with pytest.raises(ModelError, match="not preprocessed"):
        made(preprocessing=Preprocessing(1 / 255, 0.0))
    with pytest.raises(ModelError, match="takes no token ids"):
        made().with_twin("t.tflite", FileRecord("0" * 64, 1), None)


@pytest.mark.parametrize("value", [500.0, -1.0, 3.5, np.nan, np.inf])
def test_what_is_no_id_of_the_vocabulary_is_never_looked_up(value: float) -> None:
    assert quantise(np.array([0.0, 499.0]), SPEC, PLAIN).tolist() == [0, 499]
    with pytest.raises(DataError, match="is no token id from 0 to 499"):
        quantise(np.array([0.0, value]), SPEC, PLAIN)


def test_examples_with_other_ids_are_set_aside_and_counted() -> None:
    data = ids([[1, 2], [3, 500], [4, 5], [-1, 0], [1.5, 2]])
    found = dataset.screened(data, 1, 500)
    assert found.x.tolist() == [[1, 2], [4, 5]]
    assert "set aside as bad: 3 with a token id outside 0..499 (example 1)" in dataset.account_of(found)
    with pytest.raises(DataError, match=r"3 of 5 examples hold a token id outside 0\.\.499, first example 1"):
        dataset.check(data, (2,), 1, 500)
    nothing = dataset.in_vocabulary(ids([[700, 700]]), 500)
    with pytest.raises(EmptyShardError, match="no good example: 1 with a token id"):
        dataset.check(nothing, (2,), 1, 500)


def test_texts_of_padding_alone_are_told_from_those_of_the_calibration() -> None:
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 500, (200, 6)).astype(np.float32)
    record = record_of_inputs(texts, SPEC, PLAIN)
    assert compared(record, SPEC, PLAIN, rng.integers(0, 500, (100, 6)).astype(np.float32), where="t") is None
    with pytest.raises(DataError, match=r"token ids are 0 to 0 .* number the words"):
        compared(record, SPEC, PLAIN, np.zeros((100, 6), np.float32), where="t")
    few = compared(record, SPEC, PLAIN, rng.integers(450, 500, (100, 6)).astype(np.float32), where="t")
    assert few is not None
    assert "unlike those of the bundle" in few


def test_a_bundle_that_was_written_then_gives_the_same_embeddings() -> None:
    then = json.loads((TOKENS / "bundle.json").read_text())
    bundle = open_bundle(TOKENS / "bundle")
    assert bundle.bundle_id == then["identity"]
    found = Backbone(bundle).embed(np.array(then["ids"], np.int64))
    # Engines may differ in the last bit of int8 results.
    assert np.abs(found.astype(int) - np.array(then["embeddings"])).max() <= 1
    with pytest.raises(DataError, match="example 0: 40 is no token id from 0 to 39"):
        Backbone(bundle).embed(np.full((1, 9), 40))


def test_each_row_of_a_table_is_an_example(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("topic;w1;w2;w3\nart;1;2;3\nnews;4;5;6\nart;7;;9\n")
    data = dataset.load(path, front_end=front_end_of("rows width=3 label=topic"))
    assert data.x.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.class_names == ("art", "news")
    assert data.y.tolist() == [0, 1]
    assert "1 row without a number or a class (texts.csv:4)" in dataset.account_of(data)
    with pytest.raises(DataError, match=r"has 3 columns beside 'topic' .*, not 4"):
        dataset.load(path, front_end=front_end_of("rows width=4 label=topic"))
    with pytest.raises(DataError, match=r"has no column 'label' \(it has topic, w1, w2, w3\)"):
        dataset.load(path, front_end=front_end_of("rows width=3"))
    with pytest.raises(UsageError, match="rows has no 'hop'"):
        front_end_of("rows width=3 hop=1")
