"""A text model through the whole path: devices and a coordinator as programs, the doctor, predictions, the export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.export.exporter import export_model
from protos.errors import DataError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.exported import Exported
from protos.model.head_algebra import fold_standardisation, logits_of

_ROOT = Path(__file__).parents[3]
BUNDLE = _ROOT / "tests" / "golden" / "tokens" / "bundle"


def texts(path: Path, *, strange: int = 0) -> tuple[Any, Any]:
    """Texts of nine words, of which one, below 3, is the class; the first ``strange`` have a word that nobody knows."""
    rng = np.random.default_rng(11)
    y = rng.integers(0, 3, 160).astype(np.int32)
    x = rng.integers(3, 40, (160, 9))
    x[np.arange(160), rng.integers(0, 9, 160)] = y
    x[:strange, 4] = 40
    np.savez(path, x=x, y=y, is_test=np.arange(160) >= 100)
    return x, y


def test_an_exported_text_model_takes_token_ids(tmp_path: Path) -> None:
    bundle, (x, y) = open_bundle(BUNDLE), texts(tmp_path / "texts.npz")
    codes = Backbone(bundle).embed(x)
    path = tmp_path / "model.tflite"
    report = export_model(bundle, bundle.initial_head(), codes[:100], path, test_x=x[100:], test_y=y[100:])
    assert report.exported_accuracy is not None
    assert report.exported_accuracy > 0.9
    exported = Exported(path)
    assert exported.notes["vocabulary"] == 40
    plain = fold_standardisation(bundle.initial_head(), *bundle.feature_affine())
    wanted = logits_of(plain, Backbone(bundle).dequantise(codes[100:]))
    assert (exported.predict(x[100:]).values.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.95
    with pytest.raises(DataError, match="40 is no token id from 0 to 39"):
        exported.predict(np.full((1, 9), 40))


@pytest.mark.slow
@pytest.mark.processes
def test_a_fleet_learns_from_texts_and_sets_strange_ones_aside(tmp_path: Path) -> None:
    texts(tmp_path / "texts.npz", strange=2)

    def called(*words: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(_ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
        return done.stdout + done.stderr

    demo = ("demo", "--bundle", str(BUNDLE), "--data", "texts.npz", "--devices", "2", "--rounds", "2")
    said = called("coordinator.cli", *demo, "--sensor", "none", "--partition", "iid", "--output", "out")
    assert "set aside as bad: 2 with a token id outside 0..39 (example 0)" in said
    outcome = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert outcome["state"] == "finished"
    assert outcome["final_accuracy"] > 0.9
    held = np.load(tmp_path / "texts.npz")
    found = Exported(tmp_path / "out" / "model.tflite").predict(held["x"][100:]).values.argmax(axis=1)
    assert (found == held["y"][100:]).mean() > 0.9
