"""Quantisation-robust federated averaging: heads that lose little when their weights are rounded after training.

Gupta, Fournarakis, Reisser, Louizos, Nagel, "Quantization Robust Federated Learning for Efficient Inference on
Heterogeneous Devices", arXiv:2206.10844. Objectives of `firmware-tools convert --objective`, each compiled into the
head that devices train; the coordinator averages as in FedAvg. The head after the last round is rounded as
`coordinator evaluate` rounds it, and run on all held-out examples, by which nothing was chosen.

Heads have a hidden layer of 32 units. Widths and coefficients were fixed on CIFAR-10 with seeds 10 to 13; seeds that
judge begin at 0. Of `paired` a second choice was made after that, on seeds 10 to 15: `--first 20` judges it.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import Fleet, Task, embedding_joules
from benchmarks.one_pass.methods import averaged, one_pass, plan_of
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from benchmarks.quantised import tasks as quantfl_tasks
from coordinator.export.widths import at_widths
from coordinator.run.evaluation import Evaluator
from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle

BITS = (32, 8, 6, 4, 3, 2)
HIDDEN = 32
SCHEME = "dirichlet:0.5"
NAMES = ("cifar10", "fashion_mnist", "femnist", "digits")


@dataclass(frozen=True)
class Method:
    """A row of the comparison: an objective, and the inputs of its step."""

    objective: str
    inputs: Mapping[str, float] = field(default_factory=dict)
    closed: bool = False


METHODS: dict[str, Method] = {
    "fedavg": Method("cross_entropy"),
    "kure": Method("kure", {"kurtosis_weight": 0.003}),
    "kure_scaled": Method("kure_scaled", {"kurtosis_weight": 0.001}),
    "qat 4": Method("mqat", {"bits_low": 4, "bits_high": 4, "full_share": 0.0}),
    "mqat 2-4": Method("mqat", {"bits_low": 2, "bits_high": 4, "full_share": 0.0}),
    "apqn 2-6": Method("apqn", {"bits_low": 2, "bits_high": 6, "kurtosis_weight": 0.0003}),
    # Ours: both losses in a step, uniform start, kure's regulariser; and what the start alone does.
    "paired 2-3": Method("paired", {"bits_low": 2, "bits_high": 3, "rounded_weight": 0.3, "kurtosis_weight": 0.003}),
    "paired 2": Method("paired", {"bits_low": 2, "bits_high": 2, "rounded_weight": 0.7, "kurtosis_weight": 0.003}),
    "fedavg, uniform start": Method("paired", {"rounded_weight": 0.0, "kurtosis_weight": 0.0}),
    # No hidden layer and no step: what the closed form of docs/one-pass.md does under rounding.
    "closed_form": Method("cross_entropy", closed=True),
}


def rows(asked: Asked) -> list[Row]:
    """Every data set and method: accuracies by width and range, and points over FedAvg with the same seed."""
    if strange := set(asked.methods) - set(METHODS):
        raise UsageError(f"no method is called {min(strange)!r}", where="--method", fix=", ".join(METHODS))
    found: list[Row] = []
    for source in _sources(asked):
        found += _compared(source, asked)
    return found


@dataclass(frozen=True)
class _Source:
    """A model with its data before it has a head."""

    name: str
    model: Path
    data: Path
    calibration: Path
    scheme: str
    devices: int
    classes: int


def _sources(asked: Asked) -> Iterator[_Source]:
    folder = asked.folder
    try:
        root = reference_data.root()
        wanted = asked.only or (("cifar10",) if asked.quick else ("cifar10", "fashion_mnist", "femnist"))
    except DataError:
        root, wanted = folder, ("digits",)
        print("robust: no reference data, so scikit-learn's digits stand in", file=sys.stderr)
    if strange := set(wanted) - set(NAMES):
        raise UsageError(f"no data set is called {min(strange)!r}", where="--only", fix=", ".join(NAMES))
    if "cifar10" in wanted:
        data = folder / "cifar10.npz"
        reference_data.save(reference_data.cifar10(), data)
        yield _Source("cifar10", root / "models_mlperf_tiny" / "pretrainedResnet.h5", data, data, SCHEME, 10, 10)
    if "fashion_mnist" in wanted:
        yield _fashion(folder)
    if "femnist" in wanted:
        from benchmarks.inputs.pretrain import pretrain

        pretrain(folder / "femnist", epochs=12, seed=0)
        home = folder / "femnist"
        writers = home / "fleet_writers.npz"
        yield _Source(
            "femnist", home / "femnist_cnn.keras", writers, home / "pretrained_writers.npz", "natural", 45, 62
        )
    if "digits" in wanted:
        from firmware_tools.pretrain.digits import pretrain as digits

        made = digits(folder / "digits")
        yield _Source("digits", made.model, made.fleet_data, made.fleet_data, SCHEME, 10, 10)


def _fashion(folder: Path) -> _Source:
    """Clothes behind a network that was trained on letters."""
    model, data = folder / "letters.keras", folder / "fashion.npz"
    quantfl_tasks._from_letters(reference_data.femnist(), model, epochs=8)
    whole = reference_data.fashion_mnist()
    train, test = (np.flatnonzero(whole.is_test == part) for part in (False, True))
    dataset.save(whole.select(np.concatenate([train[:10_000], test])), data)
    return _Source("fashion_mnist", model, data, data, SCHEME, 10, 10)


def _tasks(source: _Source, objectives: list[tuple[str, int]], folder: Path) -> dict[tuple[str, int], Task]:
    """The same embeddings under a head for each objective and hidden layer."""
    made: dict[tuple[str, int], Task] = {}
    base: Task | None = None
    with Converter() as converter:
        for objective, hidden in objectives:
            bundle = folder / f"{source.name}-{objective}-{hidden}"
            words: list[Any] = ["convert", source.model, "-o", bundle, "--calibrate", source.calibration,
                                "--objective", objective, "--fresh-head", "--classes", source.classes]  # fmt: skip
            done = converter.call(*words, *(["--hidden", hidden] if hidden else []))
            if done.code:
                raise UsageError(f"{source.name}: {done.stderr.strip().splitlines()[-1:]}", where="robust")
            opened = open_bundle(bundle)
            if base is None:
                read = dataset.fitted(dataset.load(source.data), opened.manifest.backbone.input_shape)
                x = Backbone(opened, threads=2).embed(read.x)
                owner = np.unique(read.owner, return_inverse=True)[1] if source.scheme == "natural" else None
                test, y = read.is_test, read.y.astype(np.int32)
                base = Task(
                    source.name, opened, x[~test], y[~test], x[test], y[test],
                    None if owner is None else owner[~test], source.devices, source.scheme, float("nan"),
                )  # fmt: skip
            made[objective, hidden] = dataclasses.replace(base, bundle=opened)
    return made


def _compared(source: _Source, asked: Asked) -> list[Row]:
    rounds = asked.rounds or 20
    methods = {
        name: method for name, method in METHODS.items() if not asked.methods or name in (*asked.methods, "fedavg")
    }
    heads = list(dict.fromkeys((method.objective, 0 if method.closed else HIDDEN) for method in methods.values()))
    tasks = _tasks(source, heads, asked.folder)
    found: list[Row] = []
    plain: dict[str, list[float]] = {}
    for name, method in methods.items():
        task = tasks[method.objective, 0 if method.closed else HIDDEN]
        figures: dict[str, list[float]] = {}
        for seed in range(asked.first, asked.first + asked.seeds):
            done = kept(asked, f"robust-{source.name}-{rounds}-rounds-seed-{seed}-{name}",
                        partial(_run, task, method, seed, rounds))  # fmt: skip
            for quantity, value in done.items():
                figures.setdefault(quantity, []).append(value)
        plain = plain or figures
        print(
            f"{task.setting}: {name}: "
            + ", ".join(f"{bits}: {100 * float(np.mean(figures[_accuracy(bits)])):.2f}" for bits in BITS),
            file=sys.stderr,
        )
        found += [row(task.setting, name, quantity, values) for quantity, values in figures.items()]
        if figures is not plain:
            found += [
                row(
                    task.setting,
                    name,
                    quantity.replace("accuracy", "points over fedavg"),
                    [100 * (ours - theirs) for ours, theirs in zip(values, plain[quantity], strict=True)],
                )
                for quantity, values in figures.items()
                if quantity.startswith("accuracy")
            ]
    return found


def _run(task: Task, method: Method, seed: int, rounds: int) -> dict[str, float]:
    inputs = "".join(f"{name} = {value}\n" for name, value in method.inputs.items())
    text = '[train]\nmethod = "closed_form"\n' if method.closed else f"[train]\nepochs = 2\n[train.inputs]\n{inputs}"
    text += '[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n'
    with tempfile.TemporaryDirectory(prefix="edgejoule-robust-") as home:
        fleet = Fleet(task, plan_of(text, seed, 1 if method.closed else rounds), seed, Path(home))
        for _ in one_pass(fleet, 1) if method.closed else averaged(fleet, 1, rounds):
            pass
    referee = Evaluator(task.bundle, task.test, task.test_labels)
    found = {
        _accuracy(rounded_head.bits, rounded_head.ranges, rounded_head.granularity): rounded_head.accuracy
        for rounded_head in at_widths(referee, fleet.head, BITS)
    }
    spent = {f"{radio}_j": joules for radio, joules in fleet.joules.by_radio.items()}
    return (
        found
        | spent
        | {
            "bytes_up": float(fleet.bytes_up),
            "bytes_down": float(fleet.bytes_down),
            "joules of embedding once": embedding_joules(task, fleet),
        }
    )


def _accuracy(bits: int, ranges: str = "minmax", granularity: str = "tensor") -> str:
    return f"accuracy at {bits} bits" + ("" if bits == 32 else f", {ranges}, {granularity}")
