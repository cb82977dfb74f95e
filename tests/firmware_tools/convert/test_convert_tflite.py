"""Classifiers that are there as a .tflite alone: cut in the flatbuffer, with their last layer as the starting head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm_tensorflow import WarmTensorFlow

from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.engine import open_interpreter
from protos.model.head import Head

pytestmark = pytest.mark.workshop
Command = Callable[..., Any]

_MAKE = """
import keras, numpy as np, tensorflow as tf
model = keras.models.load_model("plain.keras")
x = np.load("images.npz")["x"][:100].astype(np.float32)
def made(name, ends, whole=True):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if whole:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([one[None]] for one in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = ends
    open(name, "wb").write(converter.convert())
made("int8.tflite", tf.int8)
made("float_ends.tflite", tf.float32)
made("float.tflite", tf.float32, whole=False)
"""


@pytest.fixture(scope="module")
def files(tensorflow: WarmTensorFlow, models: Path) -> Path:
    """The folder of models, with plain.keras as .tflite of several kinds."""
    tensorflow.script(_MAKE, models)
    return models


def _classes_of(path: Path, x: Any) -> Any:
    """The winners that the file itself names."""
    interpreter = open_interpreter(path)
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = given["quantization"]
    found = []
    for one in x:
        value = one[None].astype(np.float32)
        if given["dtype"] == np.int8:
            value = np.clip(np.rint(value / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], value)
        interpreter.invoke()
        found.append(int(interpreter.get_tensor(got["index"]).argmax()))
    return np.array(found)


@pytest.mark.parametrize("name", ["int8", "float_ends"])
def test_a_classifier_is_cut_and_starts_with_its_own_last_layer(
    files: Path, quick: Command, tmp_path: Path, name: str
) -> None:
    done = quick(
        "convert", files / f"{name}.tflite", "--eval", files / "images.npz", "--preprocess", "none", "-o",
        tmp_path / "b", "--json",
    )  # fmt: skip
    assert done.report["provenance"]["head"] == "starts from the pre-trained last layer"
    assert done.report["backbone"]["float_operators"] == {}
    assert "SOFTMAX" not in done.report["backbone"]["operators"]
    assert done.report["classes"] == ["0", "1", "2", "3"]
    bundle = open_bundle(tmp_path / "b")
    backbone, head = Backbone(bundle), Head(bundle)
    x = np.load(files / "images.npz")["x"][300:]
    winners = head.infer(backbone.dequantise(backbone.embed(x))).argmax(axis=1)
    # The file rounds its scores to 8 bits before it chooses; the head does not.
    assert (winners == _classes_of(files / f"{name}.tflite", x)).mean() >= 0.97


def test_a_tensor_may_be_named_and_others_are_when_it_is_not_there(files: Path, quick: Command, tmp_path: Path) -> None:
    done = quick("convert", files / "int8.tflite", "--cut", "nowhere", "-o", tmp_path / "b")
    assert done.code == 6
    assert "has no layer 'nowhere' to cut at; " in done.complaint
    done = quick("convert", files / "float.tflite", "-o", tmp_path / "b")
    assert done.code == 6
    assert "is a float .tflite" in done.complaint
    assert "give its .keras, .h5 or SavedModel" in done.complaint


@pytest.mark.parametrize(("suffix", "says"), [(".onnx", "onnx2tf"), (".pt", "litert-torch"), (".pth", "onnx2tf")])
def test_other_formats_name_the_route(quick: Command, tmp_path: Path, suffix: str, says: str) -> None:
    (tmp_path / f"m{suffix}").write_bytes(b"whatever it holds")
    done = quick("convert", tmp_path / f"m{suffix}", "-o", tmp_path / "b")
    assert done.code == 6
    assert says in done.complaint


@pytest.mark.reference_data
def test_the_keyword_spotter_of_mlperf_tiny_keeps_its_published_accuracy(
    reference: Path, quick: Command, tmp_path: Path
) -> None:
    folder = reference / "models_mlperf_tiny"
    with np.load(folder / "kws01_1000.npz") as archive:
        # The samples are the model's own integers; "straight" takes them as 0..255.
        x, y = (archive["x"].astype(np.int16) + 128).astype(np.uint8), archive["y"]
    np.savez(tmp_path / "kws.npz", x=x[..., None] if x.ndim == 3 else x, y=y, is_test=np.ones(len(y), bool))
    done = quick("convert", folder / "kws_ref_model.tflite", "--eval", tmp_path / "kws.npz", "-o", tmp_path / "b")
    assert done.code == 0, done.stderr
    bundle = open_bundle(tmp_path / "b")
    backbone = Backbone(bundle)
    held = np.load(tmp_path / "kws.npz")
    found = Head(bundle).evaluate(backbone.dequantise(backbone.embed(held["x"])), held["y"].astype(np.int32))
    assert found.accuracy == pytest.approx(0.902, abs=0.003)
