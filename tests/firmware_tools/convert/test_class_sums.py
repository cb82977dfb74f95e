"""`convert --class-sums`: sums of all examples in the bundle, and what it says where they would mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles.dataset import load
from protos.model.backbone import Backbone
from protos.model.bundle import BY_CLASS, GRAM, open_bundle
from protos.model.manifest import SUMS_SCHEMA

pytestmark = pytest.mark.workshop


def test_a_bundle_brings_sums_of_all_training_examples_and_is_as_good_as_without(
    models: Path, plain_bundle: Path, quick: Callable[..., Any], tmp_path: Path
) -> None:
    data = models / "images.npz"
    words = (models / "plain.keras", "--calibrate", data, "--calibration-examples", "50", "--class-sums", "--json")
    done = quick("convert", *words, "-o", tmp_path / "bundle")
    assert done.code == 0, done.stderr
    report, train = json.loads(done.stdout), load(data).train()
    assert "class_sums.npz" in report["files"]
    assert report["head"]["class_sums"] == len(train)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.schema == SUMS_SCHEMA
    sums = bundle.class_sums()
    assert sums is not None
    np.testing.assert_array_equal(sums[BY_CLASS][:, -1], np.bincount(train.y, minlength=len(bundle.manifest.classes)))
    backbone, (mean, scale) = Backbone(bundle), bundle.feature_affine()
    x = (backbone.dequantise(backbone.embed(train.x)) - mean) * scale
    np.testing.assert_allclose(sums[GRAM][:-1, -1], x.sum(axis=0), atol=1e-2)
    np.testing.assert_allclose(np.diag(sums[GRAM])[:-1], (x**2).sum(axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hidden", "8", "--fresh-head"), "does nothing beside --hidden 8"),
        (("--objective", "regression"), "does nothing beside --objective regression"),
        (("--trainable", "bias"), "does nothing beside --trainable bias"),
        ((), "must come from real examples, and none are given"),
        (("--calibrate", "one"), "no example of 3 of 4 classes: 1, 2, 3"),
    ],
)
def test_class_sums_that_would_mean_nothing_are_refused(
    models: Path, quick: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    data = load(models / "images.npz")
    np.savez(tmp_path / "one.npz", x=data.x[data.y == 0], y=data.y[data.y == 0])
    found = [str(tmp_path / "one.npz") if word == "one" else word for word in words]
    if not words:
        # Held-out examples alone are no examples to sum up.
        np.savez(tmp_path / "held.npz", x=data.x, y=data.y, is_test=np.ones(len(data.y), bool))
        found = ["--eval", str(tmp_path / "held.npz")]
    done = quick("convert", models / "plain.keras", *found, "--class-sums", "-o", tmp_path / "bundle")
    assert done.code != 0
    assert said in done.stderr
    assert not (tmp_path / "bundle").exists()
