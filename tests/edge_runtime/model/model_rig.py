"""Heads that the tiny bundle can have at work, and what is known of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from striped_data import write_data

from edge_runtime.model.current import About, Model, take
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.model.head_algebra import logits_of
from protos.update import trees
from protos.update.trees import Tree


def always(bundle: Bundle, index: int) -> Tree:
    """A head that answers one class whatever it sees."""
    head = {name: np.zeros_like(value) for name, value in bundle.initial_head().items()}
    head["out_bias"][index] = 5.0
    return head


def trained(bundle: Bundle, folder: Path) -> Tree:
    """A head that knows the stripes: least squares on examples of its own."""
    path = write_data(folder / "known.npz", 120, seed=5)
    with np.load(path) as held:
        x, y = held["x"], held["y"]
    backbone = Backbone(bundle)
    mean, scale = bundle.feature_affine()
    features = (backbone.dequantise(backbone.embed(x)) - mean) * scale
    targets = np.eye(len(bundle.manifest.classes))[y] * 8 - 4
    wide = np.concatenate([features, np.ones((len(y), 1))], axis=1)
    solved = np.linalg.solve(wide.T @ wide + 0.1 * np.eye(wide.shape[1]), wide.T @ targets).astype(np.float32)
    return {"out_bias": solved[-1].copy(), "out_kernel": solved[:-1].copy()}


def at_work(state: Path, bundle: Bundle, head: Tree, run_id: str = "run-1", **changes: Any) -> Model:
    """This head in `current/`."""
    version = trees.version(head)
    values: dict[str, Any] = {
        "version": version,
        "published_version": version,
        "bundle_id": bundle.bundle_id,
        "run_id": run_id,
        "run": "stripes",
        "round": 1,
    }
    return take(state, bundle, head, About(**{**values, **changes}))


def scores_of(bundle: Bundle, head: Tree, x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What a head says of raw examples, worked out beside the product: softmax of its outputs."""
    backbone = Backbone(bundle)
    mean, scale = bundle.feature_affine()
    z = logits_of(head, (backbone.dequantise(backbone.embed(x)) - mean) * scale).astype(np.float64)
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
