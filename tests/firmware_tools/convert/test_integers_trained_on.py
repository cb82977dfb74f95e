"""Integer weights trained on with the float model as their teacher, and activations of 16 bits between ends of 8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_outcome import Outcome
from kept_models import kept
from warm_tensorflow import WarmTensorFlow

from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle

pytestmark = pytest.mark.workshop

Command = Callable[..., Any]

_MAKE = """
import keras, numpy as np, tensorflow as tf
from keras import layers as L
keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 420).astype(np.int32)
x = rng.integers(0, 120, (420, 12, 12, 3)).astype(np.uint8)
for at, k in enumerate(y):
    x[at, 6 * (k // 2): 6 * (k // 2) + 6, 6 * (k % 2): 6 * (k % 2) + 6] += 110
np.savez("image.npz", x=x, y=y, is_test=np.arange(420) >= 300)
np.savez("small.npz", x=x[:60], y=y[:60])
np.savez("dark.npz", x=x[:300] // 200, y=y[:300])
np.savez("turned.npz", x=x[:300], y=(y[:300] + 1) % 4)
np.savez("many.npz", x=x[:300], y=y[:300] + 1)
np.savez("narrow.npz", x=x[:300, :10], y=y[:300])
start = keras.Input((12, 12, 3))
value = L.Rescaling(1 / 255)(start)
value = L.Conv2D(8, 3, strides=2, use_bias=False)(value)
value = L.ReLU(6.0)(L.BatchNormalization()(value))
value = L.Add()([value, L.DepthwiseConv2D(3, padding="same", activation="relu", name="middle")(value)])
value = L.AveragePooling2D(2)(L.Conv2D(12, 1, activation="hard_swish", name="last")(value))
value = L.Dense(16, activation="relu", name="vector")(L.Flatten()(value))
model = keras.Model(start, L.Dense(4, activation="softmax")(value))
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
model.fit(x[:300], y[:300], epochs=6, batch_size=20, verbose=0)
model.save("good.keras")
whole = keras.Model(start, value)
open("float.tflite", "wb").write(tf.lite.TFLiteConverter.from_keras_model(whole).convert())
# One channel is 3,000 times as wide, and the next layer takes that back: the others are rounded to nothing.
start = keras.Input((12, 12, 3))
value = L.Conv2D(8, 3, strides=2, activation="relu")(L.Rescaling(1 / 255)(start))
value = L.DepthwiseConv2D(3, padding="same", activation="relu", name="middle")(value)
value = L.Flatten()(L.Conv2D(8, 3, activation="relu", name="last")(value))
model = keras.Model(start, L.Dense(4, activation="softmax")(value))
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
model.fit(x[:300], y[:300], epochs=6, batch_size=20, verbose=0)
middle, last = model.get_layer("middle"), model.get_layer("last")
kernel, bias = (np.array(one) for one in middle.get_weights())
kernel[:, :, 0] *= 3e3
bias[0] *= 3e3
middle.set_weights([kernel, bias])
kernel, bias = (np.array(one) for one in last.get_weights())
kernel[:, :, 0] /= 3e3
last.set_weights([kernel, bias])
model.save("wide.keras")
start = keras.Input((12, 12, 3))
value = L.Conv2D(8, 3, strides=2)(L.Rescaling(1 / 255)(start))
value = L.Conv2DTranspose(4, 3)(value)
model = keras.Model(start, L.Dense(4)(L.GlobalAveragePooling2D()(value)))
model.save("transposed.keras")
"""


@pytest.fixture(scope="module")
def made(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with models and examples."""
    return kept("tuned", tmp_path_factory.mktemp("tuned"), lambda folder: tensorflow.script(_MAKE, folder))


@pytest.fixture(scope="module")
def convert(made: Path, quick: Command) -> Callable[..., Outcome]:
    """Converts a model on the examples."""

    def run(model: str, output: Path, *options: str | Path) -> Outcome:
        done: Outcome = quick("convert", made / model, "--eval", made / "image.npz", "-o", output, *options)
        return done

    return run


def test_weights_trained_on_come_nearer_to_the_float_model(made: Path, convert: Command, tmp_path: Path) -> None:
    done = convert("good.keras", tmp_path / "b", "--qat", made / "image.npz", "--qat-steps", "80", "--json")
    assert done.code == 0, done.stderr
    found = done.report["provenance"]
    tuned = found["quantisation"]["fine_tuning"]
    assert (tuned["examples"], tuned["judged_on"]) == (270, 30)
    assert tuned["kept"]
    assert {**found["qat"], "sha256": len(found["qat"]["sha256"])} == {
        "file": "image.npz", "sha256": 64, "examples": 300, "drawn": 300, "steps": 80, "rate": 1e-4,
    }  # fmt: skip
    assert tuned["loss"] < tuned["plain"]
    assert found["accuracy"]["int8"] >= found["accuracy"]["float"] - 0.01
    assert 0 <= tuned["accuracy"] <= 1
    assert "fine-tuning as integers: step 80 of 80, loss" in done.stderr
    shown = convert("good.keras", tmp_path / "c", "--qat", made / "image.npz", "--qat-steps", "2", "--qat-rate", "0.1")
    assert "fine-tuned on 270 examples: loss on 30 others" in shown.stdout
    assert "after, not kept" in shown.stdout
    plain = convert("good.keras", tmp_path / "d")
    assert plain.code == 0, plain.stderr
    # What does no good leaves the file as it was.
    assert (tmp_path / "c" / "backbone.tflite").read_bytes() == (tmp_path / "d" / "backbone.tflite").read_bytes()


def test_the_emulation_is_the_file_and_its_training_finds_lost_weights(made: Path, tensorflow: WarmTensorFlow) -> None:
    printed = tensorflow.script(
        """
import json, numpy as np
from firmware_tools.convert.quality.emulation import Emulation
from firmware_tools.convert.quality.fine_tuning import TuningData, fine_tuned
from firmware_tools.convert.quality.graph import Graph
from firmware_tools.convert.ranges import quantised_flat
from ai_edge_litert.interpreter import Interpreter

x = np.load("image.npz")["x"].astype(np.float32)
real = open("float.tflite", "rb").read()

def run(content, rows):
    one = Interpreter(model_content=content, num_threads=1); one.allocate_tensors()
    taken, given = one.get_input_details()[0], one.get_output_details()[0]
    out = []
    for value in rows:
        if taken["dtype"] == np.int8:
            value = np.clip(np.rint(value / taken["quantization"][0]) + taken["quantization"][1], -128, 127)
        one.set_tensor(taken["index"], value[None].astype(taken["dtype"])); one.invoke()
        got = one.get_tensor(given["index"])[0].astype(np.float32)
        out.append((got - given["quantization"][1]) * (given["quantization"][0] or 1.0))
    return np.array(out), given["quantization"][0]

integer = quantised_flat(real, lambda: ([one[None]] for one in x[:64]))
emulation = Emulation(integer, real, where="float.tflite")
wanted, scale = run(integer, x[:100])
steps = np.abs(np.asarray(emulation(x[:100])) - wanted) / scale
graph = Graph(real, where="float.tflite")
rng = np.random.default_rng(1)
for one in graph.graph.operators:
    for index in map(int, one.inputs[1:2]):
        values = graph.values(index)
        if values is not None and values.dtype == np.float32 and values.ndim > 1:
            graph.hold(index, values * (1 + 0.1 * rng.normal(size=values.shape)))
spoilt = graph.content()
worse = quantised_flat(spoilt, lambda: ([one[None]] for one in x[:64]))
data = TuningData(x[:300], lambda raw: raw, lambda raw: run(real, raw)[0], None, np.zeros(300, np.int32), 150, 3e-3, 0)
found = fine_tuned(spoilt, worse, data, lambda content, raw: run(content, raw)[0], print, where="float.tflite")
print("TOLD", json.dumps({"equal": float((steps < 0.5).mean()), "near": float((steps < 1.5).mean()),
                          "before": found.before, "after": found.after, "grown": len(found.content) - len(worse)}))
""",
        made,
    )
    told = json.loads(printed.rpartition("TOLD ")[2])
    # Kernels add and look up with roundings of their own: a step here and there, and no more.
    assert told["equal"] >= 0.75
    assert told["near"] >= 0.98
    assert told["after"] < 0.5 * told["before"]
    assert abs(told["grown"]) < 256


@pytest.mark.parametrize(
    ("model", "data", "code", "says"),
    [
        ("good.keras", "small.npz", 13, "--qat trains on 60 examples, and 100 are the least"),
        ("good.keras", "narrow.npz", 8, "an example has shape [10, 12, 3], the model takes [12, 12, 3]"),
        ("good.keras", "dark.npz", 13, "these examples are not like those"),
        ("good.keras", "turned.npz", 13, "no better than a guess"),
        ("good.keras", "many.npz", 9, "is outside 0..3"),
        ("transposed.keras", "image.npz", 6, "TRANSPOSE_CONV"),
    ],
)
def test_what_cannot_be_trained_on_is_told(
    made: Path, convert: Command, tmp_path: Path, model: str, data: str, code: int, says: str
) -> None:
    # A fresh head reads no labels, so that nothing is refused for these.
    fresh = ("--fresh-head",) if says.startswith(("these", "TRANSPOSE")) else ()
    done = convert(model, tmp_path / "b", "--qat", made / data, *fresh)
    assert says in done.complaint
    assert done.code == code
    assert ";" in done.complaint
    assert not (tmp_path / "b").exists()


def test_sixteen_bits_keep_what_eight_lose(made: Path, convert: Command, tmp_path: Path) -> None:
    never = ("--equalise", "never", "--min-agreement", "-1")
    plain = convert("wide.keras", tmp_path / "a", *never, "--json")
    lost = plain.report["provenance"]["accuracy"]
    assert lost["int8"] < lost["float"] - 0.05
    (told,) = [warning for warning in plain.report["warnings"] if "8-bit activations lose" in warning]
    assert "try --activations int16, or --qat DATA" in told
    done = convert("wide.keras", tmp_path / "b", *never, "--activations", "int16", "--json")
    assert done.code == 0, done.stderr
    found = done.report["provenance"]
    assert found["accuracy"]["int8"] >= found["accuracy"]["float"] - 0.01
    # The weights have 8 bits still.
    assert found["agreement"]["cosine_mean"] >= 0.99
    assert found["quantisation"]["sixteen_bits"]["loss"] < 0.1 * found["quantisation"]["sixteen_bits"]["plain"]
    bundle = open_bundle(tmp_path / "b")
    assert (bundle.manifest.backbone.input_dtype, bundle.manifest.backbone.output_dtype) == ("int8", "int8")
    embeddings = Backbone(bundle).embed(np.load(made / "image.npz")["x"][:4])
    assert embeddings.dtype == np.int8
    assert done.report["backbone"]["operators"]["QUANTIZE"] == 2
    assert done.report["backbone"]["float_operators"] == {}


def test_sixteen_bits_are_no_thing_for_an_edge_tpu_nor_for_integer_files(
    made: Path, convert: Command, quick: Command, tmp_path: Path
) -> None:
    done = convert("good.keras", tmp_path / "a", "--activations", "int16")
    assert done.code == 6
    assert "not yet supported for op: 'HARD_SWISH'" in done.complaint
    done = convert("wide.keras", tmp_path / "b", "--activations", "int16")
    assert done.code == 0, done.stderr
    refused = quick("compile", tmp_path / "b", "--into-bundle")
    assert refused.code == 6
    assert "activations of 16 bits; " in refused.complaint
    predicted = quick("compile", tmp_path / "b", "--predict")
    assert "is int16, not 8-bit" in predicted.stdout
    again = quick("convert", tmp_path / "b" / "backbone.tflite", "--eval", made / "image.npz", "--classes", "4",
                  "--activations", "int16", "-o", tmp_path / "c")  # fmt: skip
    assert again.code == 2
    assert "--activations int16: its integers stay as they are" in again.complaint
    both = convert("good.keras", tmp_path / "d", "--activations", "int16", "--qat", made / "image.npz")
    assert both.code == 2
    assert "leave it or --activations int16 out" in both.complaint
