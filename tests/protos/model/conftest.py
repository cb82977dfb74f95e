"""One small real bundle for this folder: a Keras CNN for 8x8 digits, converted by the command that users run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_models import kept

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
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with digits.keras, digits.npz and the bundle made of them, `bundle/`."""
    pytest.importorskip("sklearn", reason="needs the workshop extra")
    return kept("protos", tmp_path_factory.mktemp("digits"), _make_workshop)


def _make_workshop(folder: Path) -> None:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    made = subprocess.run([sys.executable, "-c", _MAKE], cwd=folder, env=env, capture_output=True, check=False)
    if b"No module named" in made.stderr:
        pytest.skip("needs TensorFlow: the workshop extra")
    assert made.returncode == 0, made.stderr.decode()[-2000:]
    for name, extra in (("bundle", []), ("adam_hidden", ["--hidden", "12", "--optimizer", "adam"])):
        command = [sys.executable, "-m", "firmware_tools.cli", "convert", str(folder / "digits.keras"),
                   "--eval", str(folder / "digits.npz"), "-o", str(folder / name), *extra]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.fixture
def damaged(workshop: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a private copy of a bundle that a test may damage."""

    def copy(name: str = "bundle") -> Path:
        shutil.copytree(workshop / name, tmp_path / name)
        return tmp_path / name

    return copy
