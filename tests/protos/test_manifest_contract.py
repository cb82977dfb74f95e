"""The manifest: what is read back, what is refused, and what the identity of a bundle depends on."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import ModelError
from protos.model.manifest import (
    BackboneSpec,
    FileRecord,
    HeadSpec,
    Manifest,
    Preprocessing,
    TensorSpec,
    TrainInput,
)


def example() -> Manifest:
    record = FileRecord("0" * 64, 10)
    return Manifest(
        name="digits",
        classes=("zero", "one", "two"),
        preprocessing=Preprocessing(1 / 255, 0.0),
        backbone=BackboneSpec("backbone.tflite", (8, 8, 1), "int8", 0.004, -128, 16, "int8", 0.02, -128, 1000),
        head=HeadSpec(
            file="head.tflite",
            initial_file="initial.npz",
            batch_size=32,
            hidden_units=None,
            objective="cross_entropy",
            optimiser="sgd",
            tensors=(TensorSpec("out_bias", (3,)), TensorSpec("out_kernel", (16, 3))),
            inputs=(TrainInput("rate", 0.1, 0.0, 10.0, "learning rate"),),
        ),
        files={"backbone.tflite": record, "head.tflite": record, "initial.npz": record},
        provenance={"source": {"file": "digits.keras"}, "accuracy": None},
    )


def fields() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(example().to_json())
    return value


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    assert Manifest.from_json(example().to_json()) == example()


def test_the_identity_does_not_depend_on_layout_or_order_of_keys() -> None:
    shuffled = json.dumps(dict(reversed(fields().items())), indent=7)
    assert Manifest.from_json(shuffled).bundle_id == example().bundle_id
    assert example().bundle_id.startswith("sha256:")
    assert len(example().bundle_id) == len("sha256:") + 64


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "other"),
        (("classes",), ["zero", "one", "three"]),
        (("preprocessing", "multiply"), 1.0),
        (("backbone", "output_zero_point"), 3),
        (("head", "inputs", 0, "default"), 0.2),
        (("files", "head.tflite", "sha256"), "1" * 64),
        (("provenance", "source", "file"), "x.keras"),
    ],
)
def test_the_identity_changes_with_every_field(path: tuple[Any, ...], value: Any) -> None:
    assert Manifest.from_json(json.dumps(_with(path, value))).bundle_id != example().bundle_id


def _with(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(fields())
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), "edgejoule.bundle/9", "this version reads"),
        (("nmae",), "x", "did you mean 'name'"),
        (("head", "momentum"), 1, "unknown key 'momentum' in manifest.head"),
        (("name",), "../escape", "name"),
        (("name",), 7, "must be str, not int"),
        (("classes",), ["only"], "at least 2"),
        (("classes",), ["a", "a", "b"], "occurs twice"),
        (("classes",), ["a", "b"], "but width, classes and hidden units give"),
        (("preprocessing", "multiply"), 0.0, "not 0"),
        (("backbone", "input_shape"), [8, 0, 1], "positive sizes"),
        (("backbone", "input_shape"), [1 << 20, 1 << 20], "64 Mi"),
        (("backbone", "input_shape"), "8,8", "must be a list"),
        (("backbone", "input_dtype"), "float32", "must be int8 or uint8"),
        (("backbone", "input_scale"), -1.0, "positive"),
        (("backbone", "input_zero_point"), 200, "outside int8"),
        (("backbone", "file"), "../../etc/passwd", "plain file name"),
        (("backbone", "file"), "manifest.json", "plain file name"),
        (("head", "batch_size"), True, "must be int, not bool"),
        (("head", "hidden_units"), 4, "hidden units give"),
        (("head", "inputs", 0, "default"), 11.0, "minimum <= default <= maximum"),
        (("head", "tensors", 1, "shape"), [16, 4], "head.tensors"),
        (("files", "extra.bin"), {"sha256": "0" * 64, "size_bytes": 1}, "exactly"),
        (("files", "head.tflite", "sha256"), "xyz", "64 hexadecimal"),
        (("files", "head.tflite", "size_bytes"), 0, "positive"),
    ],
)
def test_a_contradiction_is_refused_with_its_reason(path: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        Manifest.from_json(json.dumps(_with(path, value)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(fields()))
def test_no_key_may_be_missing(key: str) -> None:
    short = fields()
    del short[key]
    with pytest.raises(ModelError, match=key):
        Manifest.from_json(json.dumps(short))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "NaN", '{"schema": NaN}', "[" * 100_000, " " * 2_000_000, b"\xff\xfe"]
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(ModelError):
        Manifest.from_json(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def _paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [before] if before else []
    if isinstance(value, dict):
        children = list(value.items())
    else:
        children = list(enumerate(value)) if isinstance(value, list) else []
    return found + [path for key, one in children for path in _paths(one, (*before, key))]


@given(path=st.sampled_from(_paths(fields())), value=_JSON)
def test_any_value_in_any_place_is_either_accepted_or_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    text = json.dumps(_with(path, value))
    try:
        manifest = Manifest.from_json(text)
    except ModelError:
        return
    assert Manifest.from_json(manifest.to_json()).bundle_id == manifest.bundle_id
