"""How good a head is on held-out data, by the same engine that the devices run.

The backbone is frozen, so held-out examples are embedded once and kept on disk; each later round costs the head
alone. What is kept is named after the bundle and the data, so that a run goes on after a restart even when the data
have gone, and another run on the same data finds it there.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.learning.closed_form import calibrated
from protos.atomic import write_whole
from protos.datafiles.dataset import Dataset
from protos.errors import StoreError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.model.engine import try_in_subprocess
from protos.model.head import Evaluation, Head
from protos.model.manifest import Manifest
from protos.model.task import CLASSIFICATION, MEASURES
from protos.update.trees import Tree


class Evaluator:
    """Evaluates heads of one bundle on one set of embedded examples.

    Args:
        bundle: whose head.
        embeddings: int8 or uint8 [N, D], as the backbone gives them.
        labels: int32 [N]; of a regression float32 [N, K].
    """

    def __init__(self, bundle: Bundle, embeddings: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        self.embeddings, self.labels = embeddings, labels
        spec = bundle.manifest.backbone
        self._x = (embeddings.astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
        self._head = Head(bundle)

    def evaluate(self, tree: Tree) -> Evaluation:
        """Mean loss and accuracy of a head, or the measures of its task."""
        self._head.write(tree)
        return self._head.evaluate(self._x, self.labels)

    def right(self, tree: Tree) -> npt.NDArray[np.bool_]:
        """Which of the held-out examples a head gets right, bool [N]."""
        self._head.write(tree)
        found: npt.NDArray[np.bool_] = self._head.infer(self._x).argmax(axis=1) == self.labels
        return found

    def calibration(self, tree: Tree) -> float:
        """What to multiply the scores of a linear head with so that their softmax fits the held-out labels."""
        self._head.write(tree)
        return calibrated(self._head.infer(self._x).astype(np.float64), self.labels)


def figures_of(found: Evaluation) -> tuple[float | None, float | None]:
    """What heads are ranked by, and the loss; None where the held-out data cannot tell."""
    score, loss = (value if math.isfinite(value) else None for value in (found.accuracy, found.loss))
    return score, loss


def judged_by(manifest: Manifest, found: Evaluation) -> str:
    """What the figures of a head are that is no classifier, as JSON to keep; "" for a classifier."""
    if manifest.task == CLASSIFICATION:
        return ""
    rmse = dict(zip(manifest.classes, found.rmse, strict=False))
    return json.dumps({"measure": MEASURES[manifest.task], "rmse": rmse})


def key_of(bundle: Bundle, data: Dataset) -> str:
    """A name for the embeddings of these data by this bundle."""
    digest = hashlib.sha256(bundle.bundle_id.encode())
    digest.update(f"{data.x.dtype}{data.x.shape}".encode())
    digest.update(np.ascontiguousarray(data.x).data)
    digest.update(np.ascontiguousarray(data.y).data)
    return digest.hexdigest()[:32]


def embed(bundle: Bundle, data: Dataset, folder: Path) -> tuple[str, Evaluator]:
    """Embed held-out examples, or find them embedded; returns the key and the evaluator.

    Raises:
        ModelError: the bundle's models do not run. They are tried in a child process first.
        StoreError: the embeddings cannot be kept.
    """
    key = key_of(bundle, data)
    found = recall(bundle, key, folder)
    if found is not None:
        return key, found
    try_in_subprocess(bundle.backbone_path, bundle.head_path)
    embeddings = Backbone(bundle, threads=2).embed(data.x)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(folder / f"{key}.npz") as file:
            np.savez(file, embeddings=embeddings, labels=data.y)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(folder), fix="free space") from error
    return key, Evaluator(bundle, embeddings, data.y)


def recall(bundle: Bundle, key: str, folder: Path) -> Evaluator | None:
    """The evaluator of embeddings made before, or None when they are not there or not readable."""
    try:
        with np.load(folder / f"{key}.npz", allow_pickle=False) as archive:
            embeddings, labels = archive["embeddings"], archive["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if embeddings.ndim != 2 or labels.shape[:1] != embeddings.shape[:1]:
        return None
    return Evaluator(bundle, embeddings, labels)
