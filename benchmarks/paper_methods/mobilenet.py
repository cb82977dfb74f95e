"""A MobileNetV1 of a quarter of the width, blocks of depthwise and pointwise layers, at half of its multiply-adds.

`papers.py --paper fl_pqsu --only mobilenet`; with `--only mobilenet,kernels` at widths that take less time.
The model is `keras.applications.MobileNet` with alpha 0.25 and a dense last layer, trained here on 20,000 images of
Fashion-MNIST in a frame of 32 x 32 pixels; no reference data come with weights and images of one kind for it. Each seed
is a training and a pruning of its own: `firmware-tools prune` by least squares, fine-tuned on the same images with the
whole model as teacher. Accuracies are on the 10,000 images of the test set, by which nothing was chosen; passes and
rate were set before any seed was run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import BOARDS
from benchmarks.paper_methods.pruned_to import MOBILENET, TARGETS, options
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from coordinator.budgets.cold_start import prices_of
from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import UsageError

TRAINED_ON, PASSES, FINE_TUNING = 20_000, 8, 6
_FRAME = 2  # pixels on each side: 28 becomes 32, which five halvings bring down to one
_QUANTITIES = ("parameters", "macs", "int8_bytes", "latency_share", "accuracy", "accuracy_before_fine_tuning")


def rows(asked: Asked) -> list[Row]:
    """The whole model and the pruned one, and what is between them."""
    home = asked.keep or asked.folder
    home.mkdir(parents=True, exist_ok=True)
    data = _data(home / f"mobilenet-{'quick' if asked.quick else 'full'}.npz", quick=asked.quick)
    figures: dict[tuple[str, str], list[float]] = {}
    target = "kernels" if "kernels" in asked.only else "macs"
    mark = "-kernels" if target == "kernels" else ""
    with Converter() as converter:
        for seed in range(asked.first, asked.first + asked.seeds):
            made = partial(_one, converter, data, seed, target, quick=asked.quick)
            report = kept(replace(asked, keep=home), f"{data.stem}-pruned{mark}-seed-{seed}", made)
            print(f"mobilenet, seed {seed}: {report}", file=sys.stderr, flush=True)
            for key, value in _figures(report).items():
                figures.setdefault(key, []).append(value)
    setting = f"MobileNetV1 0.25, Fashion-MNIST, {TARGETS[target]}"
    return [row(setting, method, quantity, values) for (method, quantity), values in figures.items()]


def _figures(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    parts = {"whole": report["before"], "pruned": report["after"]}
    for name, one in parts.items():
        for key in _QUANTITIES:
            if one.get(key) is not None:
                found[name, key] = float(one[key])
        for board in BOARDS[:1]:
            joules = prices_of(board, macs=int(one["macs"]), coordinates=1, batch_size=32).embedding_j
            found[name, f"counted mJ an inference, {board}"] = 1e3 * joules
    found["pruned", "points over whole"] = 100 * (parts["pruned"]["accuracy"] - parts["whole"]["accuracy"])
    return found


def _data(path: Path, *, quick: bool) -> Path:
    if path.exists():
        return path
    whole = reference_data.fashion_mnist()
    train, test = (np.flatnonzero(whole.is_test == part) for part in (False, True))
    some = whole.select(np.concatenate([train[: 4_000 if quick else TRAINED_ON], test[: 2_000 if quick else 10_000]]))
    x = np.pad(some.x.reshape(len(some.x), 28, 28), ((0, 0), (_FRAME, _FRAME), (_FRAME, _FRAME)))
    dataset.save(replace(some, held=x[..., None]), path)
    return path


def _one(converter: Converter, data: Path, seed: int, target: str, *, quick: bool) -> dict[str, Any]:
    model = data.with_name(f"{data.stem}-seed-{seed}.keras")
    if not model.exists():
        _trained(data, seed, epochs=2 if quick else PASSES).save(model)
    out = model.with_suffix(f".{'pruned' if target == 'macs' else target}.keras")
    done = converter.call(
        "prune", model, "--data", data, "--criterion", "least_squares", *options(target, MOBILENET),
        "--epochs", 1 if quick else FINE_TUNING, "--mirror", "--seed", seed, "-o", out, "--json", "--force",
    )  # fmt: skip
    if done.code:
        raise UsageError(f"prune: {done.stderr.strip().splitlines()[-1:]}", where="mobilenet")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _trained(data: Path, seed: int, *, epochs: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    read = dataset.load(data).train()
    inputs = keras.Input(read.x.shape[1:])
    body = keras.applications.MobileNet(input_tensor=inputs, alpha=0.25, include_top=False, weights=None, pooling="avg")
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(body.output))
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(read.x) // 64))
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(read.x.astype(np.float32), read.y, batch_size=64, epochs=epochs, verbose=0)
    return model
