"""One small real bundle for this folder: a Keras CNN for 8x8 digits, converted by the command that users run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_models import kept
from warm_tensorflow import WarmTensorFlow

_MAKE = """
import numpy as np, keras
from keras import layers
from sklearn.datasets import load_digits
digits = load_digits()
x, y = (digits.images * 15).astype(np.uint8)[..., None], digits.target.astype(np.int32)
np.savez("digits.npz", x=x, y=y, is_test=np.arange(len(y)) % 4 == 0)
keras.utils.set_random_seed(0)
image = keras.Input((8, 8, 1))
value = layers.Rescaling(1 / 255)(image)
value = layers.Conv2D(8, 3, activation="relu")(value)
value = layers.Conv2D(16, 3, activation="relu")(value)
value = layers.Flatten()(value)
value = layers.Dense(16, activation="relu", name="features")(value)
model = keras.Model(image, layers.Dense(10, activation="softmax", name="scores")(value))
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x[:700], y[:700], epochs=6, verbose=0)
model.save("digits.keras")
"""


@pytest.fixture(scope="session")
def workshop(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with digits.keras, digits.npz and the bundle made of them, `bundle/`."""
    pytest.importorskip("sklearn", reason="needs the workshop extra")

    def make(folder: Path) -> None:
        tensorflow.script(_MAKE, folder)
        for name, extra in (("bundle", []), ("adam_hidden", ["--hidden", "12", "--optimizer", "adam"])):
            tensorflow.converted(folder / "digits.keras", "--eval", folder / "digits.npz", "-o", folder / name, *extra)

    return kept("protos", tmp_path_factory.mktemp("digits"), make)


@pytest.fixture
def damaged(workshop: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a private copy of a bundle that a test may damage."""

    def copy(name: str = "bundle") -> Path:
        shutil.copytree(workshop / name, tmp_path / name)
        return tmp_path / name

    return copy
