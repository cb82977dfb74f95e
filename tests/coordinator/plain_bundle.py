"""A bundle with a real manifest and real starting values, whose model files are never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from protos.model.bundle import record_of
from protos.model.manifest import (
    MANIFEST_FILE,
    BackboneSpec,
    HeadSpec,
    Manifest,
    Preprocessing,
    TensorSpec,
    TrainInput,
)

WIDTH, CLASSES = 6, 3


def make_plain_bundle(folder: Path, *, width: int = WIDTH, classes: int = CLASSES) -> Path:
    """A bundle whose manifest and starting values are real."""
    folder.mkdir(parents=True)
    (folder / "backbone.tflite").write_bytes(b"not run in these tests: backbone")
    (folder / "head.tflite").write_bytes(b"not run in these tests: head")
    kernel = np.random.default_rng(5).normal(size=(width, classes)).astype(np.float32)
    np.savez(
        folder / "initial.npz",
        out_kernel=kernel,
        out_bias=np.zeros(classes, np.float32),
        feature_mean=np.zeros(width, np.float32),
        feature_scale=np.ones(width, np.float32),
    )
    inputs = (
        TrainInput("rate", 0.05, 0.0, 10.0, "learning rate"),
        TrainInput("momentum", 0.0, 0.0, 0.999, "heavy-ball momentum"),
        TrainInput("proximal_mu", 0.0, 0.0, 1e6, "pull towards the received head"),
        TrainInput("correction", 0.0, 0.0, 1.0, "factor on what is added to each gradient"),
    )
    tensors = (TensorSpec("out_bias", (classes,)), TensorSpec("out_kernel", (width, classes)))
    manifest = Manifest(
        name="plain",
        classes=tuple(f"class {i}" for i in range(classes)),
        preprocessing=Preprocessing(1.0, 0.0),
        backbone=BackboneSpec("backbone.tflite", (2, 3), "int8", 1.0, 0, width, "int8", 1.0, 0, None),
        head=HeadSpec("head.tflite", "initial.npz", 8, None, "cross_entropy", "sgd", tensors, inputs),
        files={name: record_of(folder / name) for name in ("backbone.tflite", "head.tflite", "initial.npz")},
        provenance={},
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder
