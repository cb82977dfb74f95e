"""One real bundle, made once by the converter, and data that fits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_models import kept
from peer_coordinator import PeerCoordinator
from running_daemon import RunningDaemon
from striped_data import write_data
from warm_tensorflow import WarmTensorFlow

from edge_runtime.config import Settings, resolve
from protos.model.bundle import Bundle, open_bundle

_MAKE_MODEL = """
import sys, keras
keras.utils.set_random_seed(1)
layers = keras.layers
keras.Sequential([
    layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"),
    layers.Flatten(), layers.Dense(16, activation="relu"), layers.Dense(3),
]).save(sys.argv[1])
"""


@pytest.fixture(scope="session")
def bundle_path(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        model = folder / "tiny.keras"
        data = write_data(folder / "calibration.npz", 60)
        tensorflow.script(_MAKE_MODEL, folder, model)
        tensorflow.converted(
            model, "--calibrate", data, "--batch-size", "8", "--min-agreement", "0.8", "-o", folder / "bundle"
        )

    return kept("device", tmp_path_factory.mktemp("device-bundle"), make) / "bundle"


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return open_bundle(bundle_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data.npz", test=9)


@pytest.fixture
def peer(bundle: Bundle) -> Iterator[PeerCoordinator]:
    coordinator = PeerCoordinator(bundle)
    yield coordinator
    coordinator.stop()


@pytest.fixture
def settings(tmp_path: Path, data: Path) -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        flags = {"device_id": "pi-1", "data": str(data), "state": str(tmp_path / "state"), "sensor": "estimate:pi4"}
        resolved = resolve({**flags, "exit_when_idle_s": "20", "log_level": "debug"}, {}, None).settings
        return dataclasses.replace(resolved, **changes)

    return make


@pytest.fixture
def started(settings: Callable[..., Settings]) -> Iterator[Callable[..., RunningDaemon]]:
    all_of_them: list[RunningDaemon] = []

    def start(peer: PeerCoordinator, *, rows: bool = False, **changes: Any) -> RunningDaemon:
        all_of_them.append(RunningDaemon(settings(coordinator=peer.address, **changes), rows=rows))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        one.stopping.request("end of test")
        one.join()
        one.stopping.close()
