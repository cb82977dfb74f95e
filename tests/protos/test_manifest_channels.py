"""Preprocessing that differs by channel: its own schema, its arithmetic, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from protos.errors import ModelError
from protos.model.backbone import _table, quantise
from protos.model.head_algebra import head_shapes
from protos.model.manifest import (
    CHANNEL_SCHEMA,
    SCHEMA,
    BackboneSpec,
    ChannelAffine,
    FileRecord,
    HeadSpec,
    Manifest,
    Preprocessing,
    TensorSpec,
)

SPEC = BackboneSpec("b.tflite", (2,), "int8", 0.05, 0, 4, "int8", 0.1, 0)
# Pressure in Pa and acceleration in g, each to mean 0 and deviation 1.
UNITS = Preprocessing(1.0, 0.0, ChannelAffine((1 / 900.0, 50.0), (-101325 / 900.0, 0.0)))


def made(rule: Preprocessing, schema: str) -> Manifest:
    tensors = tuple(TensorSpec(name, shape) for name, shape in head_shapes(4, 2).items())
    return Manifest(
        name="m",
        classes=("a", "b"),
        preprocessing=rule,
        backbone=SPEC,
        head=HeadSpec("h.tflite", "i.npz", 32, None, "cross_entropy", "sgd", tensors, ()),
        files={name: FileRecord("0" * 64, 1) for name in ("b.tflite", "h.tflite", "i.npz")},
        provenance={},
        schema=schema,
    )


def test_a_bundle_with_channels_names_a_schema_that_older_software_refuses() -> None:
    document = json.loads(made(UNITS, CHANNEL_SCHEMA).to_json())
    assert document["schema"] == "edgejoule.bundle/3"
    assert Manifest.from_json(json.dumps(document)).preprocessing == UNITS
    with pytest.raises(ModelError, match="per channel it must be"):
        made(UNITS, SCHEMA)


def test_a_bundle_without_channels_is_written_as_before() -> None:
    document = json.loads(made(Preprocessing(1.0, 0.0), SCHEMA).to_json())
    assert document["preprocessing"] == {"add": 0.0, "multiply": 1.0}
    assert document["schema"] == SCHEMA
    with pytest.raises(ModelError, match="without edge_tpu it must be"):
        made(Preprocessing(1.0, 0.0), CHANNEL_SCHEMA)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"multiply": [1.0], "add": [0.0]}, "another number of channels"),
        ({"multiply": [1.0, 2.0], "add": [0.0]}, "differ in length"),
        ({"multiply": [], "add": []}, "1 to 16384 channels"),
        ({"multiply": [1.0, 2.0]}, "lacks 'add'"),
    ],
)
def test_channels_that_contradict_the_bundle_are_refused(change: dict[str, Any], says: str) -> None:
    document = json.loads(made(UNITS, CHANNEL_SCHEMA).to_json())
    document["preprocessing"]["per_channel"] = change
    with pytest.raises(ModelError, match=says):
        Manifest.from_json(json.dumps(document))


def test_unlike_units_keep_their_steps_in_one_integer_scale() -> None:
    # 900 Pa more is one deviation, 20 steps of 0.05; so is 0.02 g.
    raw = np.array([[101325.0, 0.0], [102225.0, 0.02], [100425.0, -0.04]], np.float32)
    assert quantise(raw, SPEC, UNITS).tolist() == [[0, 0], [20, 20], [-20, -40]]


def test_raw_bytes_are_looked_up_by_channel() -> None:
    rule = Preprocessing(1.0, 0.0, ChannelAffine((0.01, 0.02), (-1.0, 0.5)))
    table = _table(SPEC, rule)
    assert table is not None
    raw = np.array([[0, 255], [17, 3]], np.uint8)
    assert table[raw, np.arange(2)].tolist() == quantise(raw, SPEC, rule).tolist()
    wide = dataclasses.replace(SPEC, input_shape=(640,))
    assert _table(wide, Preprocessing(1.0, 0.0, ChannelAffine((1.0,) * 640, (0.0,) * 640))) is None
