"""One real bundle, made once by the converter, and data that fits it."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_models import kept
from peer_coordinator import PeerCoordinator
from running_daemon import RunningDaemon
from striped_data import write_data

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
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow to make a bundle: pip install 'edgejoule[workshop]'")
    return kept("device", tmp_path_factory.mktemp("device-bundle"), _make_bundle) / "bundle"


def _make_bundle(folder: Path) -> None:
    model, target = folder / "tiny.keras", folder / "bundle"
    data = write_data(folder / "calibration.npz", 60)
    for command in (
        ["-c", _MAKE_MODEL, str(model)],
        ["-m", "firmware_tools.cli", "convert", str(model), "--calibrate", str(data), "--batch-size", "8",
         "--min-agreement", "0.8", "-o", str(target)],
    ):  # fmt: skip
        made = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr[-2000:]


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

    def start(peer: PeerCoordinator, **changes: Any) -> RunningDaemon:
        all_of_them.append(RunningDaemon(settings(coordinator=peer.address, **changes)))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        one.stopping.request("end of test")
        one.join()
        one.stopping.close()
