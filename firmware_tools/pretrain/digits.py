"""A small CNN, pre-trained on some of scikit-learn's handwritten digits, for the demo and the tests.

The workshop has photographs of the digits 0 to 6 only. The fleet meets all ten, so the head that is shipped knows
nothing of 7, 8 and 9: what federated fine-tuning has to add is real, and can be seen.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; 1,797 images of 8x8 pixels with
17 grey levels, shipped inside scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.pretrain import quiet_keras
from protos.atomic import write_whole
from protos.datafiles.dataset import Dataset, save

KNOWN = 7  # classes that the workshop has seen
PRETRAIN_SHARE, HELD_OUT_SHARE = 0.35, 0.25


@dataclass(frozen=True)
class Pretrained:
    """What was made: the model, the data it was trained on (for calibration), and the fleet's data."""

    model: Path
    workshop_data: Path
    fleet_data: Path


def split(seed: int) -> tuple[Dataset, Dataset]:
    """The workshop's part (digits 0 to 6) and the fleet's part (all digits; a quarter of everything is held out).

    Images are uint8 [N, 8, 8, 1] with values 0 to 255 (17 levels, 15 apart).
    """
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x = np.minimum(images.reshape(-1, 8, 8, 1) * 16, 255).astype(np.uint8)
    y = y.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(y))
    first, second = int(PRETRAIN_SHARE * len(y)), int((PRETRAIN_SHARE + HELD_OUT_SHARE) * len(y))
    workshop = order[:first][y[order[:first]] < KNOWN]
    fleet = order[first:]
    is_test = np.arange(len(fleet)) < second - first
    names = tuple(str(digit) for digit in range(10))
    return (
        Dataset(x[workshop], y[workshop], np.zeros(len(workshop), np.bool_), None, names, "digits"),
        Dataset(x[fleet], y[fleet], is_test, None, names, "digits"),
    )


def pretrain(folder: Path, *, seed: int = 0, epochs: int = 30) -> Pretrained:
    """Train, and write ``digits.keras``, ``workshop.npz`` and ``fleet.npz`` into ``folder``."""
    keras = quiet_keras.loaded()
    workshop, fleet = split(seed)
    keras.utils.set_random_seed(seed)
    layers: list[Any] = [
        keras.layers.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Conv2D(48, 3, padding="same", activation="relu"),
        keras.layers.AveragePooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(workshop.x, workshop.y, batch_size=32, epochs=epochs, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    made = Pretrained(folder / "digits.keras", folder / "workshop.npz", folder / "fleet.npz")
    unfinished = folder / ".digits.part.keras"
    model.save(unfinished)
    with write_whole(made.model) as file:
        file.write(unfinished.read_bytes())
    unfinished.unlink()
    save(workshop, made.workshop_data)
    save(fleet, made.fleet_data)
    return made
