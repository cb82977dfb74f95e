"""What `papers.py` is run on: every data set of the reference data that has a backbone, as its embeddings.

cifar10         ResNet8 of MLPerf Tiny, 64 wide, 10 classes, 5,000 training images
flowers         the Coral extractor, 1,024 wide, 5 classes, 2,934 photos (their stored embeddings)
femnist         a CNN pre-trained on 60 writers, 128 wide, 62 classes; the 45 others are a device each
mnist, fashion  a CNN pre-trained on letters, 128 wide, 10 classes, 10,000 training examples each

The central refit is a logistic regression on all training examples together; its penalty is chosen on a fifth of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.federated import call
from benchmarks.inputs import pretrain, reference_data
from benchmarks.one_pass.fleet import Task
from benchmarks.quantised import tasks as quantfl_tasks
from protos.datafiles import dataset
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle

NAMES = ("cifar10", "flowers", "femnist", "mnist", "fashion_mnist")
DEVICES = 10
SKEWED = "dirichlet:0.1"
_MOST = 10_000
_PENALTIES = (0.01, 0.1, 1.0)


def tasks(folder: Path, *, quick: bool, only: Sequence[str] = (), keep: bool = False) -> Iterator[Task]:
    """Every data set, or those that are named; files go into ``folder``. Quick: cifar10 and flowers alone.

    Args:
        keep: leave embeddings in the folder as well, and take those that are there.

    Raises:
        DataError: there are no reference data.
    """
    reference_data.root()
    wanted = tuple(only) or (NAMES[:2] if quick else NAMES)
    found = [name for name in NAMES if name in wanted and keep and (folder / f"{name}-task.npz").exists()]
    yield from (_found(folder / f"{name}-task.npz") for name in found)
    for task in _made(folder, [name for name in wanted if name not in found]):
        if keep:
            _kept(task, folder / f"{task.name}-task.npz")
        yield task


def _made(folder: Path, wanted: Sequence[str]) -> Iterator[Task]:
    for name, make in (("cifar10", cifar10), ("flowers", flowers), ("femnist", femnist)):
        if name in wanted:
            yield make(folder)
    if set(wanted) & {"mnist", "fashion_mnist"}:
        yield from digits_and_clothes(folder, wanted)


def _kept(task: Task, path: Path) -> None:
    held = {
        "bundle": np.array(str(task.bundle.path.relative_to(path.parent))),
        **{name: getattr(task, name) for name in ("train", "train_labels", "test", "test_labels")},
        **({} if task.owner is None else {"owner": task.owner}),
        **{name: np.array(getattr(task, name)) for name in ("name", "devices", "scheme", "central")},
    }
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **held)
    os.replace(unfinished, path)


def _found(path: Path) -> Task:
    held = np.load(path, allow_pickle=False)
    return Task(
        str(held["name"]), open_bundle(path.parent / str(held["bundle"])), held["train"], held["train_labels"],
        held["test"], held["test_labels"], held.get("owner"), int(held["devices"]),
        str(held["scheme"]), float(held["central"]),
    )  # fmt: skip


def made(name: str, bundle: Bundle, x: Any, y: Any, is_test: Any, scheme: str, devices: int, owner: Any = None) -> Task:
    """A task with its central refit, from embeddings of training and held-out examples."""
    labels = y.astype(np.int32)
    central = central_refit(bundle, x[~is_test], labels[~is_test], x[is_test][1::2], labels[is_test][1::2])
    owners = None if owner is None else owner[~is_test]
    return Task(
        name, bundle, x[~is_test], labels[~is_test], x[is_test], labels[is_test], owners, devices, scheme, central
    )


def central_refit(bundle: Bundle, train: Any, labels: Any, test: Any, test_labels: Any) -> float:
    """Accuracy of a logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    spec, (mean, scale) = bundle.manifest.backbone, bundle.feature_affine()

    def features(q: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = (
            (q.astype(np.float64) - spec.output_zero_point) * spec.output_scale - mean
        ) * scale
        return values

    x, rows = features(train), np.random.default_rng(0).permutation(len(labels))
    fifth = len(rows) // 5

    def fitted(penalty: float, chosen: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LogisticRegression(C=penalty, max_iter=300).fit(x[chosen], labels[chosen])

    best = max(
        _PENALTIES, key=lambda penalty: fitted(penalty, rows[fifth:]).score(x[rows[:fifth]], labels[rows[:fifth]])
    )
    return float(fitted(best, rows).score(features(test), test_labels))


def cifar10(folder: Path) -> Task:
    """ResNet8 on CIFAR-10."""
    data, bundle = folder / "cifar10.npz", folder / "resnet8"
    reference_data.save(reference_data.cifar10(), data)
    model = reference_data.root() / "models_mlperf_tiny" / "pretrainedResnet.h5"
    call("firmware-tools", "convert", model, "-o", bundle, "--calibrate", data, "--force")
    opened, read = open_bundle(bundle), dataset.load(data)
    embeddings = Backbone(opened, threads=2).embed(read.x)
    return made("cifar10", opened, embeddings, read.y, read.is_test, SKEWED, DEVICES)


def flowers(folder: Path) -> Task:
    """Photographs of flowers through the Coral extractor, as they are stored."""
    photos, bundle = folder / "photos", folder / "coral"
    reference_data.flowers(photos)
    name = "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    model = reference_data.root() / "models_coral" / name
    call("firmware-tools", "convert", model, "-o", bundle, "--calibrate", photos, "--force")
    stored = np.load(reference_data.root() / "flowers_embeddings" / "flowers_mobilenet_v1_emb.npz", allow_pickle=False)
    return made("flowers", open_bundle(bundle), stored["emb"], stored["y"], stored["split"] == "val", SKEWED, DEVICES)


def femnist(folder: Path) -> Task:
    """45 writers whom the backbone has not seen, one on each device."""
    home, bundle = folder / "femnist", folder / "femnist-bundle"
    subprocess.run(
        [sys.executable, pretrain.__file__, "-o", home],
        check=True,
        capture_output=True,
    )
    call("firmware-tools", "convert", home / "femnist_cnn.keras", "-o", bundle, "--calibrate",
         home / "pretrained_writers.npz", "--force")  # fmt: skip
    opened = open_bundle(bundle)
    read = dataset.fitted(dataset.load(home / "fleet_writers.npz"), opened.manifest.backbone.input_shape)
    owners = np.unique(read.owner, return_inverse=True)[1]
    embeddings = Backbone(opened, threads=2).embed(read.x)
    return made("femnist", opened, embeddings, read.y, read.is_test, "natural", len(np.unique(owners)), owners)


def digits_and_clothes(folder: Path, wanted: Sequence[str]) -> Iterator[Task]:
    """MNIST and Fashion-MNIST behind a network that was pre-trained on letters."""
    left = set(wanted) & {"mnist", "fashion_mnist"}
    for task in quantfl_tasks.tasks(folder, quick=False):
        if task.dataset not in left:
            continue
        left.discard(task.dataset)
        x = np.concatenate([task.train[:_MOST], task.test])
        y = np.concatenate([task.train_labels[:_MOST], task.test_labels])
        is_test = np.arange(len(y)) >= len(task.train_labels[:_MOST])
        yield made(task.dataset, task.bundle, x, y, is_test, SKEWED, DEVICES)
        if not left:
            # The start that comes next is a random one.
            return
