"""Regressions and anomalies through the whole path: conversion, devices and a coordinator as programs, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_models import kept
from warm_tensorflow import WarmTensorFlow

from coordinator.export.outputs import plain_head
from edge_runtime.round.evaluation import HeldOut
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.round.inputs.examples import LocalExamples
from protos.datafiles.dataset import load
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.exported import Exported
from protos.model.head import Head
from protos.model.head_algebra import logits_of
from protos.model.task import auc, scores_of

pytestmark = [pytest.mark.workshop, pytest.mark.processes]

_ROOT = str(Path(__file__).parents[3])
_MAKE = """
import keras
import numpy as np
from keras import layers as L

keras.utils.set_random_seed(5)
rng = np.random.default_rng(5)
held_out = np.arange(900) % 3 == 0

# Pressure in pascals and humidity as a share, from six values.
x = rng.normal(size=(900, 6)).astype(np.float32)
hidden = np.tanh(x @ rng.normal(size=(6, 4)))
y = hidden @ rng.normal(size=(4, 2)) * [900.0, 0.02] + [101325.0, 0.4]
np.savez("weather.npz", x=x, y=y.astype(np.float32), is_test=held_out)
given = keras.Input((6,))
model = keras.Model(given, L.Dense(2)(L.Dense(32, activation="relu")(given)))
model.compile(keras.optimizers.Adam(0.01), "mse")
target = (y - y.mean(0)) / y.std(0)
model.fit(x[~held_out][:200], target[~held_out][:200], epochs=20, verbose=0)
model.save("weather.keras")

# Three loud values and 13 quiet ones that follow two causes; an anomaly is a quiet value that does not follow.
cause = rng.normal(size=(900, 2))
noise = rng.normal(size=(900, 16)) * np.array([2.0] * 3 + [0.05] * 13)
frames = cause @ rng.normal(size=(2, 16)) + noise
odd = (np.arange(900) % 6 == 0).astype(np.int64)
frames[odd == 1, 7] += rng.choice([-0.6, 0.6], int(odd.sum()))
np.savez("machine.npz", x=frames.astype(np.float32), y=odd, is_test=held_out)
given = keras.Input((16,))
value = L.Dense(12, activation="relu")(given)
value = L.Dense(4)(value)
coder = keras.Model(given, L.Dense(16)(L.Dense(12, activation="relu")(value)))
coder.compile(keras.optimizers.Adam(0.01), "mse")
normal = frames[~held_out & (odd == 0)].astype(np.float32)
coder.fit(normal, normal, epochs=30, verbose=0)
coder.save("machine.keras")
"""
_CONVERSIONS = (
    ("weather", "weather", "--objective", "regression", "--class-names", "pressure,humidity", "--fresh-head"),
    ("machine", "machine", "--objective", "anomaly"),
    ("machine", "coder", "--objective", "anomaly", "--hidden", "8"),
)


def _called(folder: Path, *words: str) -> str:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": _ROOT}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def made(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weather/, machine/ and coder/, real bundles, and their data."""

    def make(folder: Path) -> None:
        tensorflow.script(_MAKE, folder)
        for name, target, *options in _CONVERSIONS:
            data = folder / f"{name}.npz"
            tensorflow.converted(folder / f"{name}.keras", "--eval", data, "-o", folder / target, *options)

    return kept("tasks", tmp_path_factory.mktemp("tasks"), make)


def _demo(made: Path, tmp_path: Path, bundle: str, data: str, *words: str) -> dict[str, Any]:
    command = ("demo", "--bundle", str(made / bundle), "--data", str(made / data), "--devices", "2", "--sensor", "none")
    _called(tmp_path, "-m", "coordinator.cli", *command, "--output", "out", "--partition", "iid", *words)
    outcome: dict[str, Any] = json.loads((tmp_path / "out" / "outcome.json").read_text())
    return outcome


def test_quantities_of_unlike_units_are_learnt_by_a_fleet_and_exported(made: Path, tmp_path: Path) -> None:
    found = _demo(made, tmp_path, "weather", "weather.npz", "--rounds", "4", "--epochs", "8", "--rate", "0.1")
    assert (found["measure"], found["state"]) == ("R2", "finished")
    assert found["initial_score"] < 0.05
    assert found["final_score"] > 0.75
    assert found["initial_accuracy"] is found["final_accuracy"] is None
    last = found["rounds"][-1]
    held_out = load(made / "weather.npz", quantities=2).test()
    assert set(last["rmse"]) == {"pressure", "humidity"}
    spread = held_out.y.astype(np.float64).std(axis=0)
    assert last["rmse"]["pressure"] < 0.55 * spread[0]
    assert last["rmse"]["humidity"] < 0.55 * spread[1]
    assert last["loss"] == pytest.approx(np.mean(np.square(list(last["rmse"].values()))), rel=1e-6)
    # Who runs the exported file gets pascals and shares, as good as the coordinator says.
    said = Exported(tmp_path / "out" / "model.tflite").predict(held_out.x)
    assert (said.task, said.names) == ("regression", ("pressure", "humidity"))
    outputs = said.values
    share = 1.0 - np.square(outputs - held_out.y).mean(axis=0) / np.square(spread)
    assert share.mean() == pytest.approx(found["exported_score"], abs=1e-6)
    assert found["exported_score"] > found["best_score"] - 0.01


@pytest.mark.parametrize("project", [0, pytest.param(12, marks=pytest.mark.slow)])
def test_quantities_are_learnt_from_exact_sums_as_from_all_examples_in_one_place(
    made: Path, tmp_path: Path, project: int
) -> None:
    words = ("--rounds", "1", "--set", "train.method=closed_form", "--set", "closed_form.shrinkage=0.001")
    found = _demo(made, tmp_path, "weather", "weather.npz", *words, "--set", f"closed_form.project={project}")
    assert (found["measure"], found["state"]) == ("R2", "finished")
    held_out, train = load(made / "weather.npz", quantities=2).test(), load(made / "weather.npz", quantities=2).train()
    assert found["final_score"] > (0.7 if project else 0.8)
    said = Exported(tmp_path / "out" / "model.tflite").predict(held_out.x).values
    spread = held_out.y.astype(np.float64).std(axis=0)
    share = 1.0 - np.square(said - held_out.y).mean(axis=0) / np.square(spread)
    assert share.mean() == pytest.approx(found["exported_score"], abs=1e-6)
    if project:
        return
    bundle = open_bundle(made / "weather")
    backbone = Backbone(bundle)
    z, judged = (backbone.dequantise(backbone.embed(one.x)).astype(np.float64) for one in (train, held_out))
    covariance = np.cov(z.T, bias=True)
    shrunk = covariance + 0.001 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    y = train.y.astype(np.float64)
    kernel = np.linalg.solve(shrunk, (z - z.mean(axis=0)).T @ (y - y.mean(axis=0)) / len(z))
    expected = (judged - z.mean(axis=0)) @ kernel + y.mean(axis=0)
    errors = np.sqrt(np.square(expected - held_out.y).mean(axis=0))
    rmse = found["rounds"][-1]["rmse"]
    np.testing.assert_allclose([rmse["pressure"], rmse["humidity"]], errors, rtol=1e-4)
    # The exported file gives 8 bits.
    assert np.abs(said - expected).mean() / spread.mean() < 0.03


def test_steps_after_the_closed_form_of_quantities_are_refused(made: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": _ROOT}
    words = ["demo", "--bundle", str(made / "weather"), "--data", str(made / "weather.npz"), "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *words, "--sensor", "none", "--set", "train.method=closed_form+sgd"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12, done.stderr
    assert "least squared error already" in done.stderr


def test_what_is_normal_is_learnt_from_exact_sums_and_beats_the_autoencoder(made: Path, tmp_path: Path) -> None:
    found = _demo(made, tmp_path, "machine", "machine.npz", "--rounds", "1", "--set", "train.method=closed_form")
    assert (found["measure"], found["state"]) == ("AUC", "finished")
    assert found["final_score"] > max(0.95, found["initial_score"] + 0.1), found["rounds"]
    held_out = load(made / "machine.npz").test()
    bundle = open_bundle(made / "machine")
    backbone = Backbone(bundle)
    embedded = backbone.dequantise(backbone.embed(held_out.x))
    # The head before training is the score that such a model is published with.
    published = np.square(embedded).mean(axis=1).astype(np.float64)
    normal = held_out.y == 0
    assert found["initial_score"] == pytest.approx(auc(published[normal], published[~normal]), abs=1e-4)
    scores = Exported(tmp_path / "out" / "model.tflite").predict(held_out.x).values[:, 0]
    assert auc(scores[normal], scores[~normal]) == pytest.approx(found["exported_score"], abs=1e-6)


def test_steps_are_refused_where_the_head_has_a_closed_form_alone(made: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": _ROOT}
    words = ["demo", "--bundle", str(made / "machine"), "--data", str(made / "machine.npz"), "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *words, "--sensor", "none"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 12, done.stderr
    assert 'set method = "closed_form"' in done.stderr


def test_a_head_that_reconstructs_learns_by_steps_and_exports_as_what_is_left(made: Path) -> None:
    bundle = open_bundle(made / "coder")
    data = load(made / "machine.npz")
    train = data.train().select(np.flatnonzero(data.train().y == 0))
    backbone, head = Backbone(bundle), Head(bundle)
    x = backbone.dequantise(backbone.embed(train.x))
    losses = [
        head.train_step(x[at : at + 32], train.y[at : at + 32], rate=0.1) for _ in range(20) for at in range(0, 480, 32)
    ]
    assert np.mean(losses[-15:]) < 0.7 * np.mean(losses[:15])
    held_out = data.test()
    embedded = backbone.dequantise(backbone.embed(held_out.x))
    judged = head.evaluate(embedded, held_out.y)
    assert judged.accuracy > 0.5
    assert judged.loss == pytest.approx(scores_of(head.infer(embedded))[held_out.y == 0].mean())
    plain = plain_head(bundle, head.read())
    np.testing.assert_allclose(logits_of(plain, embedded), head.infer(embedded), atol=2e-4)


def test_anomalies_among_the_training_examples_are_left_out_and_counted(made: Path, tmp_path: Path) -> None:
    bundle = open_bundle(made / "machine")
    with np.load(made / "machine.npz") as held:
        np.savez(tmp_path / "all.npz", x=held["x"], y=held["y"])
    for _ in range(2):  # the second time from what the first one kept
        summary = LocalExamples(str(tmp_path / "all.npz"), None, tmp_path).summary(bundle)
        assert summary.train_count == 750
        assert "left out: 150 anomaly, not trained on (example 0)" in summary.account


def test_a_board_counts_no_right_answers_of_a_head_that_chooses_no_class(made: Path, tmp_path: Path) -> None:
    bundle = open_bundle(made / "machine")
    data = load(made / "machine.npz").test()
    cache = EmbeddingCache(tmp_path, bundle, "0" * 64, len(data), "engine")
    cache.fill(Backbone(bundle).embed, data.held, allowed=lambda most: most, now_s=lambda: 0.0)
    assert cache.complete
    assert HeldOut(data.y, cache).evaluate(bundle.initial_head(), bundle) is None


def test_a_device_without_a_bundle_counts_quantities(made: Path, tmp_path: Path) -> None:
    examples = LocalExamples(str(made / "weather.npz"), None, tmp_path)
    assert (examples.summary(None).train_count, examples.summary(None).test_count) == (600, 300)
    with np.load(made / "weather.npz") as held:
        np.savez(tmp_path / "one.npz", x=held["x"], y=held["y"][:, 0] + 0.5)
    assert LocalExamples(str(tmp_path / "one.npz"), None, tmp_path).summary(None).train_count == 900
