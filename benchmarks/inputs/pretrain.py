"""Pre-trains a small CNN on 60 of the 105 FEMNIST writers, and sets the data of the 45 others aside for a fleet.

    .venv/bin/python benchmarks/inputs/pretrain.py -o /tmp/femnist --json /tmp/femnist/figures.json

Writes into the folder: `femnist_cnn.keras` (input: raw 0..255, [28, 28, 1]; output: 62 logits),
`pretrained_writers.npz` (60 writers: for calibration) and `fleet_writers.npz` (45 writers, `device` = writer).
Needs TensorFlow and the reference data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.inputs.reference_data import FEMNIST, femnist
from protos.datafiles.dataset import Dataset, save
from protos.errors import EdgejouleError

PRETRAINED_WRITERS = 60
_PIXEL = 1 / 255


def split_writers(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The examples of 60 writers, and those of all others."""
    assert data.owner is not None
    writers = np.random.default_rng([0xFE, seed]).permutation(np.unique(data.owner))
    chosen = np.isin(data.owner, writers[:PRETRAINED_WRITERS])
    return data.select(np.flatnonzero(chosen)), data.select(np.flatnonzero(~chosen))


def build(keras: Any) -> Any:
    """Two convolutions, 128 features, 62 classes; about 230,000 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu", name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu", name="features"),
            layers.Dropout(0.3),
            layers.Dense(len(FEMNIST), name="logits"),
        ]
    )


def take_raw_pixels(model: Any) -> None:
    """Fold the division by 255 into the first kernel. It has no padding, so the function is the same."""
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel * _PIXEL, bias])


def accuracy(model: Any, data: Dataset) -> float:
    """Share of right answers on raw pixels."""
    logits = model.predict(data.x[..., None].astype(np.float32), batch_size=256, verbose=0)
    return float((logits.argmax(axis=1) == data.y).mean())


def pretrain(folder: Path, *, epochs: int, seed: int) -> dict[str, Any]:
    """Train, write the three files, and return the figures."""
    import keras

    started = time.monotonic()
    keras.utils.set_random_seed(seed)
    ours, fleet = split_writers(femnist(), seed)
    model = build(keras)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    train = ours.train()
    model.fit(train.x[..., None] * np.float32(_PIXEL), train.y, batch_size=64, epochs=epochs, verbose=0)
    take_raw_pixels(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "femnist_cnn.keras")
    save(ours, folder / "pretrained_writers.npz")
    save(fleet, folder / "fleet_writers.npz")
    return {
        "model": str(folder / "femnist_cnn.keras"),
        "epochs": epochs,
        "seed": seed,
        "pretrained_examples": len(train),
        "fleet_examples": len(fleet.train()),
        "accuracy_pretrained_writers": accuracy(model, ours.test()),
        "accuracy_fleet_writers": accuracy(model, fleet.test()),
        "wall_s": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the model and the data")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    options = parser.parse_args()
    try:
        figures = pretrain(options.output, epochs=options.epochs, seed=options.seed)
    except EdgejouleError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return error.exit_code
    text = json.dumps(figures, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
