"""What integers lose: layer by layer, and made less by equalised layers and corrected biases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_outcome import Outcome

from firmware_tools.convert.many import Converter

pytestmark = pytest.mark.workshop

_MAKE = """
import keras, numpy as np, tensorflow as tf
from keras import layers as L
keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 240).astype(np.int32)
x = rng.integers(0, 120, (240, 12, 12, 3)).astype(np.uint8)
for at, k in enumerate(y):
    x[at, 6 * (k // 2): 6 * (k // 2) + 6, 6 * (k % 2): 6 * (k % 2) + 6] += 110
np.savez("image.npz", x=x, y=y, is_test=np.arange(240) >= 180)
start = keras.Input((12, 12, 3))
value = L.Conv2D(8, 3, strides=2, activation="relu", name="first")(start)
value = L.DepthwiseConv2D(3, padding="same", activation="relu", name="middle")(value)
value = L.Flatten()(L.Conv2D(8, 3, activation="relu", name="last")(value))
model = keras.Model(start, L.Dense(3, activation="softmax")(value))
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
model.fit(x[:180] / np.float32(255), y[:180], epochs=10, batch_size=20, verbose=0)
model.save("good.keras")
# The same function: one channel is 3,000 times as wide, and the next layer takes that back.
middle, last = model.get_layer("middle"), model.get_layer("last")
kernel, bias = (np.array(one) for one in middle.get_weights())
kernel[:, :, 0] *= 3e3
bias[0] *= 3e3
middle.set_weights([kernel, bias])
kernel, bias = (np.array(one) for one in last.get_weights())
kernel[:, :, 0] /= 3e3
last.set_weights([kernel, bias])
model.save("wide.keras")
open("wide.tflite", "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model, the same with one wide channel, and examples."""
    folder = tmp_path_factory.mktemp("quality")
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", _MAKE], cwd=folder, env=env, capture_output=True, check=False)
    if b"No module named" in done.stderr:
        pytest.skip("needs TensorFlow: the workshop extra")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return folder


@pytest.fixture(scope="module")
def convert(made: Path) -> Iterator[Any]:
    """Converts a model on the examples, each call in a fork of one process."""
    with Converter() as converter:

        def run(model: str, output: Path, *options: str) -> Outcome:
            done = converter.call(
                "convert", made / model, "--eval", made / "image.npz", "--preprocess", "unit", "-o", output, *options
            )
            return Outcome("convert", done.code, done.stdout, done.stderr)

        yield run


def test_equalised_weights_compute_the_same(made: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from firmware_tools.convert.quality.equalise import equalised

    content = (made / "wide.tflite").read_bytes()
    changed, pairs = equalised(content, where="wide.tflite")
    assert pairs == 2
    x = np.random.default_rng(1).random((1, 12, 12, 3), np.float32)
    found = []
    for model_content in (content, changed):
        interpreter = Interpreter(model_content=model_content, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_layers_tell_what_they_lose_and_biases_are_kept_where_they_help(convert: Any, tmp_path: Path) -> None:
    done = convert("good.keras", tmp_path / "b", "--layers", "--bias-correction", "--json")
    lost = done.report["provenance"]["quantisation"]
    assert [layer["operator"] for layer in lost["layers"]][:3] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert all(20 < layer["sqnr_db"] < 80 for layer in lost["layers"])
    assert "first" in lost["layers"][0]["layer"]
    biases = lost["bias_correction"]
    assert biases["kept"] == (biases["loss"] < biases["plain"])
    assert lost["loss"] == min(biases["loss"], biases["plain"])
    shown = convert("good.keras", tmp_path / "c", "--layers")
    assert shown.code == 0, shown.stderr
    assert "dB  DEPTHWISE_CONV_2D" in shown.stdout
    assert "over quantisation noise" in shown.stdout
