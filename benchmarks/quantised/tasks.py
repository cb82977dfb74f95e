"""What the comparison of `quantfl.py` is run on: data sets, and backbones from a pre-trained and a random start.

A small CNN is pre-trained on the letters of FEMNIST, which are neither digits nor clothes; the random start is the same
network before any training. Both become bundles with `firmware-tools convert`, so what devices would hold is what is
measured: an integer backbone, its embeddings as integers, and the compiled head. Without the reference data there is
one task, scikit-learn's digits; its network has seen the digits 0 to 6.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.federated import call
from benchmarks.inputs import reference_data
from protos.datafiles.dataset import Dataset, save
from protos.errors import DataError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_FIRST_LETTER = 10  # class of FEMNIST; digits come before
_CALIBRATION = 400  # examples of each data set
_MARGIN = 4  # pixels around a letter that are empty
_PIXEL = 1 / 255
STARTS = ("pretrained", "random")


@dataclass(frozen=True)
class Task:
    """A data set as a fleet sees it from one start.

    Attributes:
        train, test: integer embeddings [N, D], as the backbone of ``bundle`` makes them.
    """

    dataset: str
    start: str
    bundle: Bundle
    train: npt.NDArray[Any]
    train_labels: npt.NDArray[np.int32]
    test: npt.NDArray[Any]
    test_labels: npt.NDArray[np.int32]


def tasks(folder: Path, *, quick: bool, only: Sequence[str] = ()) -> Iterator[Task]:
    """Every data set, or those that are named, from every start; files go into ``folder``,
    and models that are there already are not trained again."""
    try:
        data = {"mnist": reference_data.mnist(), "fashion_mnist": reference_data.fashion_mnist()}
        letters: Dataset | None = reference_data.femnist()
    except DataError:
        data, letters = {"digits": _digits(folder)}, None
    if only:
        data = {name: dataset for name, dataset in data.items() if name in only}
    train, test = (4_000, 2_000) if quick else (60_000, 10_000)
    data = {name: _some(dataset, train, test) for name, dataset in data.items()}
    calibration = folder / "calibration.npz"
    save(_calibration(data), calibration)
    for start in STARTS:
        model = folder / f"{start}.keras"
        if letters is not None and not model.exists():
            _from_letters(letters, model, epochs=(2 if quick else 8) if start == "pretrained" else 0)
        elif letters is None and start == "random":
            _untrained(folder / "pretrained.keras", model)
        bundle = folder / f"{start}-bundle"
        call("firmware-tools", "convert", model, "-o", bundle, "--calibrate", calibration, "--classes", "10",
             "--fresh-head", "--force")  # fmt: skip
        opened = open_bundle(bundle)
        backbone = Backbone(opened)
        for name, dataset in data.items():
            ours, held_out = dataset.train(), dataset.test()
            yield Task(name, start, opened, backbone.embed(ours.x), ours.y, backbone.embed(held_out.x), held_out.y)


def _some(data: Dataset, train: int, test: int) -> Dataset:
    """The first of each part, at most so many."""
    rows = [np.flatnonzero(data.is_test == part)[:most] for part, most in ((False, train), (True, test))]
    return data.select(np.concatenate(rows))


def _calibration(data: dict[str, Dataset]) -> Dataset:
    parts = [dataset.select(np.flatnonzero(~dataset.is_test)[:_CALIBRATION]) for dataset in data.values()]
    x, y = np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    names = tuple(str(number) for number in range(10))
    return Dataset(x, y, np.zeros(len(y), np.bool_), None, names, "calibration")


def _network(keras: Any, classes: int) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu", name="first"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="features"),
            layers.Dense(classes, name="logits"),
        ]
    )


def _from_letters(letters: Dataset, path: Path, *, epochs: int) -> None:
    """The network after so many epochs on letters, taking raw pixels."""
    import keras

    keras.utils.set_random_seed(0)
    model = _network(keras, len(reference_data.FEMNIST) - _FIRST_LETTER)
    chosen = letters.select(np.flatnonzero(letters.y >= _FIRST_LETTER))
    if epochs:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
        # In the other two data sets ink is bright, and fills the picture.
        x = (255 - chosen.x[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN, None]).astype(np.float32) * np.float32(_PIXEL)
        x = np.asarray(keras.ops.image.resize(x, (28, 28)))
        model.fit(x, chosen.y - _FIRST_LETTER, batch_size=64, epochs=epochs, verbose=0)
    # The first layer has no padding: dividing its kernel is dividing the pixels.
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel * _PIXEL, bias])
    model.save(path)


def _digits(folder: Path) -> Dataset:
    from firmware_tools.pretrain.digits import pretrain
    from protos.datafiles.dataset import load

    made = pretrain(folder)
    made.model.rename(folder / "pretrained.keras")
    return load(made.fleet_data)


def _untrained(path: Path, target: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    fresh: Callable[[Any], Any] = keras.models.clone_model
    fresh(keras.models.load_model(path)).save(target)
