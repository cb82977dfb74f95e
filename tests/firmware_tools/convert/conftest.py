"""Small Keras models of many forms, made once in a process of their own, and the command as users call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_outcome import Outcome, call
from kept_models import kept
from warm_tensorflow import WarmTensorFlow

_MAKE = """
import json, pathlib
import h5py, keras, numpy as np
from keras import layers as L

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 400).astype(np.int32)
x = rng.integers(0, 120, (400, 12, 12, 3)).astype(np.uint8)
for i, label in enumerate(y):  # the class is a bright corner
    row, column = 6 * (label // 2), 6 * (label % 2)
    x[i, row:row + 6, column:column + 6] += 110
np.savez("images.npz", x=x, y=y, is_test=np.arange(400) >= 300)
np.savez("images_all_test.npz", x=x, y=y)
values = rng.normal(size=(200, 10)).astype(np.float32)
np.savez("values.npz", x=values, y=(values[:, 0] > 0).astype(np.int32))
broken = values.copy(); broken[7, 3] = np.inf
np.savez("broken.npz", x=broken, y=np.zeros(200, np.int32))

def trunk(image):
    value = L.Rescaling(1 / 255)(image)
    value = L.Conv2D(8, 3, strides=2, use_bias=False, name="first")(value)
    value = L.BatchNormalization()(value)
    value = L.ReLU(6.0)(value)
    value = L.DepthwiseConv2D(3, padding="same")(value)
    value = L.BatchNormalization()(value)
    value = L.ReLU()(value)
    value = L.Conv2D(16, 1, activation="relu", name="last")(value)
    return L.AveragePooling2D(2)(value)

def trained(output, image):
    model = keras.Model(image, output)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:300], y[:300], epochs=8, batch_size=16, verbose=0)
    return model

image = keras.Input((12, 12, 3))
vector = L.Flatten(name="vector")(trunk(image))
plain = trained(L.Softmax()(L.Dense(4, name="scores")(L.Dropout(0.2)(vector))), image)
plain.save("plain.keras")
plain.export("saved", verbose=False)
float_right = float((plain.predict(x[300:], verbose=0).argmax(1) == y[300:]).mean())

plain.save("groups.h5")  # as Keras 2 wrote DepthwiseConv2D
with h5py.File("groups.h5", "r+") as file:
    config = json.loads(file.attrs["model_config"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"]["groups"] = 1
    file.attrs["model_config"] = json.dumps(config)

image = keras.Input((12, 12, 3))
vector = L.Flatten(name="vector")(trunk(image))
hidden = L.Dense(20, activation="relu", name="hidden")(vector)
two = trained(L.Dense(4, activation="softmax", name="scores")(hidden), image)
two.save("two.keras")
two_right = float((two.predict(x[300:], verbose=0).argmax(1) == y[300:]).mean())

inner_image = keras.Input((12, 12, 3))
inner = keras.Model(inner_image, L.GlobalAveragePooling2D(name="pool")(trunk(inner_image)), name="inner")
top = keras.Sequential([keras.Input((16,)), L.Dropout(0.1), L.Dense(4, activation="softmax")], name="top")
keras.Sequential([keras.Input((12, 12, 3)), inner, top]).save("nested.keras")

vector = keras.Input((10,))
value = L.Dense(12, activation="tanh")(vector)
keras.Model(vector, L.Dense(1, activation="sigmoid")(value)).save("vector.keras")
keras.Model(vector, L.Dense(1)(value)).save("regression.keras")
keras.Model(vector, L.Dense(1)(value)).export("regression", verbose=False)
keras.Model(vector, L.Activation("sigmoid")(L.Dropout(0.1)(L.Dense(1)(value)))).save("two_steps.keras")
keras.Model(vector, L.Dense(1, activation="sigmoid")(value)).export("sigmoid", verbose=False)
one, other = keras.Input((4,)), keras.Input((4,))
keras.Model([one, other], L.Dense(2)(L.Concatenate()([one, other]))).save("two_inputs.keras")
one = keras.Input((4,))
keras.Model(one, [L.Dense(2)(one), L.Dense(3)(one)]).save("two_outputs.keras")
image = keras.Input((12, 12, 3))
keras.Model(image, L.Softmax()(L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="only")(image)))).save("no_dense.keras")
image = keras.Input((12, 12, 3))
value = keras.ops.floor(L.Conv2D(8, 3)(image))
keras.Model(image, L.Dense(4)(L.GlobalAveragePooling2D()(value))).save("float_inside.keras")
image = keras.Input((12, 12, 3))
keras.Model(image, L.Dense(4)(L.Flatten()(L.Lambda(lambda value: value * 2)(image)))).save("code.keras")
pathlib.Path("facts.json").write_text(json.dumps({"plain": float_right, "two": two_right}))
"""


@pytest.fixture(scope="session")
def models(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one model of each form and the data that fit them, and the bundle of plain.keras."""

    def make(folder: Path) -> None:
        tensorflow.script(_MAKE, folder)
        done = call("convert", folder / "plain.keras", "--eval", folder / "images.npz", "-o", folder / "plain_bundle")
        assert done.code == 0, done.stderr

    return kept("forms", tmp_path_factory.mktemp("models"), make)


@pytest.fixture(scope="session")
def command() -> Callable[..., Outcome]:
    """Runs `firmware-tools` in a process of its own."""
    return call


@pytest.fixture(scope="session")
def quick(tensorflow: WarmTensorFlow) -> Callable[..., Outcome]:
    """Runs `firmware-tools` in a fork of a process that has loaded TensorFlow: the same words, codes and files."""

    def run(*arguments: str | Path) -> Outcome:
        done = tensorflow.call(*arguments)
        return Outcome(str(arguments[0]), done.code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def plain_bundle(models: Path) -> Path:
    """The bundle of plain.keras."""
    return models / "plain_bundle"
