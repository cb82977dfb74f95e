"""Balanced class weights: a rare class has the same say in local training, and is learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peer_coordinator import order
from striped_data import write_data

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.evaluation import evaluate
from edge_runtime.round.training import balanced_weights
from edge_runtime.round.work import work
from protos.model.bundle import Bundle

Make = Callable[..., Settings]


def test_each_class_has_the_same_say_and_the_mean_is_one() -> None:
    labels = np.array([0] * 90 + [2] * 9 + [5], np.int32)
    weights = balanced_weights(labels)
    assert weights.dtype == np.float32
    assert weights.mean() == pytest.approx(1.0)
    says = [weights[labels == text].sum() for text in (0, 2, 5)]
    assert says == pytest.approx([100 / 3] * 3)
    assert balanced_weights(np.zeros(4, np.int32)).tolist() == [1.0] * 4


def test_a_rare_class_is_learnt_faster_with_balanced_weights(settings: Make, bundle: Bundle, tmp_path: Path) -> None:
    path = write_data(tmp_path / "many.npz", 300)
    with np.load(path) as held:
        x, y, flags = held["x"], held["y"], held["is_test"]
    rows = np.flatnonzero((y != 2) | (np.arange(300) < 15))
    np.savez(path, x=x[rows], y=y[rows], is_test=flags[rows])
    loss = {}
    for mode in ("none", "balanced"):
        device = Device(settings(data=str(path), state=tmp_path / mode, class_weights=mode, sensor="none"))
        try:
            bench = device.take_up(bundle)
            work(order(bundle, steps=30, inputs={"rate": 0.002, "weight_decay": 0.0}), bench, lambda: False)
            rare = bench.summary.labels == 2
            loss[mode] = evaluate(bench.head.read(), bundle, bench.cache.view()[rare], bench.summary.labels[rare]).loss
        finally:
            device.close()
    # Before the first step every class is as likely: log 3.
    learnt = {mode: np.log(3.0) - value for mode, value in loss.items()}
    assert learnt["none"] > 0
    assert learnt["balanced"] > 1.5 * learnt["none"]
