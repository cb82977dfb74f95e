"""From bundle and travelling head to a checked file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.export.exporter import export_model, layers_of
from coordinator.export.parity import Parity, run_model
from protos.errors import CheckFailed, NonFiniteError, ShapeError, StoreError, UsageError
from protos.model.backbone import Backbone, quantise
from protos.model.bundle import Bundle
from protos.model.head_algebra import Tree, fold_standardisation

Array = np.ndarray[Any, Any]
Labelled = Callable[[int, int], tuple[Array, Array]]


def trained(bundle: Bundle, labelled: Labelled) -> Tree:
    """A head in standardised space, by least squares on one-hot labels."""
    x, y = labelled(400, 5)
    backbone = Backbone(bundle)
    mean, scale = bundle.feature_affine()
    z = (backbone.dequantise(backbone.embed(x)) - mean) * scale
    solution = np.linalg.lstsq(np.c_[z, np.ones(len(z))], np.eye(3)[y] * 8 - 4, rcond=None)[0].astype(np.float32)
    return {"out_kernel": solution[:-1], "out_bias": solution[-1]}


def test_the_exported_file_is_as_right_as_the_float_head(bundle: Bundle, labelled: Labelled, tmp_path: Path) -> None:
    tree = trained(bundle, labelled)
    x, y = labelled(500, 6)
    calibration = Backbone(bundle).embed(labelled(200, 7)[0])
    out = tmp_path / "model.tflite"
    report = export_model(bundle, tree, calibration, out, test_x=x, test_y=y)
    assert report.float_accuracy is not None
    assert report.exported_accuracy is not None
    assert report.agreement is not None
    assert report.float_accuracy > 0.9
    assert report.float_accuracy - report.exported_accuracy <= 0.01
    assert report.agreement >= 0.98
    assert out.stat().st_size == report.size_bytes
    assert not any(entry.float_tensors for entry in report.operators)
    spec = bundle.manifest.backbone
    logits, _ = run_model(out.read_bytes(), quantise(x, spec, bundle.manifest.preprocessing))
    assert (logits.argmax(axis=1) == y).mean() == report.exported_accuracy


def test_without_test_data_nothing_is_claimed(bundle: Bundle, labelled: Labelled, tmp_path: Path) -> None:
    calibration = Backbone(bundle).embed(labelled(50, 7)[0])
    report = export_model(bundle, bundle.initial_head(), calibration, tmp_path / "m.tflite", softmax=True)
    assert (report.float_accuracy, report.exported_accuracy, report.agreement) == (None, None, None)
    assert {entry.name for entry in report.operators} >= {"FULLY_CONNECTED", "SOFTMAX"}


def test_a_model_that_lost_accuracy_is_not_written(bundle: Bundle, labelled: Labelled, tmp_path: Path) -> None:
    tree = trained(bundle, labelled)
    x, y = labelled(300, 6)
    out = tmp_path / "model.tflite"
    out.write_bytes(b"the export before")
    # A constant on every logit changes no winner in float; 256 integers for 0..10,000 cannot tell classes apart.
    tree["out_bias"] = tree["out_bias"] + np.float32(10_000)
    calibration = Backbone(bundle).embed(labelled(200, 7)[0])
    with pytest.raises(CheckFailed, match=r"more than 1\.00% apart; calibrate with more examples"):
        export_model(bundle, tree, calibration, out, test_x=x, test_y=y)
    assert out.read_bytes() == b"the export before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "model.tflite"]
    report = export_model(bundle, tree, calibration, out, test_x=x, test_y=y, limit=1.0)
    assert report.exported_accuracy is not None
    assert report.float_accuracy is not None
    assert report.exported_accuracy < report.float_accuracy - 0.01


def found(count: int, lost: int, gained: int) -> Parity:
    return Parity(count, 0.9, 1.0, count - gained, count - lost, lost, gained)


@pytest.mark.parametrize(
    ("figures", "refused"),
    [
        (found(451, 8, 2), False),  # 1.3 points, 0.5 standard errors beyond one point
        (found(10_000, 180, 40), True),  # 1.4 points, with a standard error of 0.15
        (found(451, 30, 0), True),
        (found(100, 0, 40), False),
        (found(1, 1, 0), False),
        (found(20, 20, 0), True),
    ],
)
def test_a_drop_counts_in_standard_errors(
    figures: Parity, refused: bool, bundle: Bundle, labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, (x, y) = trained(bundle, labelled), labelled(20, 6)
    monkeypatch.setattr("coordinator.export.exporter.parity", lambda *_: figures)
    arguments = (bundle, tree, Backbone(bundle).embed(x), tmp_path / "model.tflite")
    if refused:
        with pytest.raises(CheckFailed, match="standard error"):
            export_model(*arguments, test_x=x, test_y=y)
    else:
        report = export_model(*arguments, test_x=x, test_y=y)
        # What was let pass over the limit is told.
        assert bool(report.note) == (figures.drop > 0.01)
        assert not report.note or "within two standard errors" in report.note
    assert (tmp_path / "model.tflite").exists() is not refused


def test_what_does_not_fit_is_refused_before_anything_is_written(
    bundle: Bundle, labelled: Labelled, tmp_path: Path
) -> None:
    tree, out = trained(bundle, labelled), tmp_path / "model.tflite"
    x, y = labelled(20, 6)
    calibration = Backbone(bundle).embed(x)
    with pytest.raises(UsageError, match="go together"):
        export_model(bundle, tree, calibration, out, test_x=x)
    with pytest.raises(ShapeError, match="out_bias"):
        export_model(bundle, {"out_kernel": tree["out_kernel"]}, calibration, out)
    with pytest.raises(NonFiniteError):
        export_model(bundle, {**tree, "out_bias": tree["out_bias"] * np.nan}, calibration, out)
    with pytest.raises(ShapeError):
        export_model(bundle, tree, calibration, out, test_x=x, test_y=y[:-1])
    with pytest.raises(StoreError, match="cannot be written"):
        export_model(bundle, tree, calibration, tmp_path / "nowhere" / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_head_with_a_hidden_layer_becomes_two_layers() -> None:
    tree = {
        "hidden_bias": np.ones(4, np.float32),
        "hidden_kernel": np.ones((16, 4), np.float32),
        "out_bias": np.zeros(3, np.float32),
        "out_kernel": np.ones((4, 3), np.float32),
    }
    first, last = layers_of(fold_standardisation(tree, np.zeros(16), np.full(16, 2.0)))
    assert (first.kernel.shape, first.relu, last.kernel.shape, last.relu) == ((16, 4), True, (4, 3), False)
    assert (first.kernel == 2).all()
