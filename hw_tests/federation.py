"""One federated round as a lab would run it: a coordinator, a daemon on the bench's sensor, a bundle, some data."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import firmware_tools.convert
from coordinator.lab.fleet import start_coordinator
from coordinator.lab.processes import Children
from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceRound, RunStatus
from firmware_tools.bridge.machine.build import cache_folder
from protos.energy.trace import Phase
from protos.errors import WaitExpired
from protos.extras import advice

__all__ = ["DEVICE", "make_bundle", "missing", "run_one_round"]

DEVICE = "bench-1"
HANG_S = 240.0
"""Longer than a round takes on anything; only a hang gets there."""
ROUND_PHASES = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
EXAMPLES, CLASSES = 120, 3
_MODEL = """
import sys, keras
keras.utils.set_random_seed(1)
layers = keras.layers
keras.Sequential([
    layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"),
    layers.Flatten(), layers.Dense(16, activation="relu"), layers.Dense(3),
]).save(sys.argv[1])
"""


def missing() -> str | None:
    """What a bundle needs and this computer lacks; None when it lacks nothing."""
    if importlib.util.find_spec("tensorflow") is None:
        return f"needs TensorFlow to make a bundle: {advice('workshop')}"
    return None


def make_bundle() -> Path:
    """Folder with ``bundle/`` and ``data.npz``, made by the converter; kept in the cache until the converter changes.

    Raises:
        subprocess.CalledProcessError: the converter failed.
    """
    digest = hashlib.sha256(_MODEL.encode())
    for source in sorted(Path(firmware_tools.convert.__file__ or "").parent.glob("*.py")):
        digest.update(source.read_bytes())
    folder = cache_folder() / f"bench-bundle-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        _write_data(fresh / "data.npz")
        model = Path(temporary) / "bench.keras"
        for command in (
            ["-c", _MODEL, str(model)],
            ["-m", "firmware_tools.cli", "convert", str(model), "--calibrate", str(fresh / "data.npz"),
             "--batch-size", "8", "--min-agreement", "0.8", "-o", str(fresh / "bundle")],
        ):  # fmt: skip
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
        try:
            fresh.replace(folder)
        except OSError:  # somebody else was quicker: the same bytes
            shutil.rmtree(fresh)
    return folder


def run_one_round(sensor: str, folder: Path, *, epochs: int) -> tuple[RunStatus, DeviceRound]:
    """Start a coordinator and a daemon as programs of their own, and play one round.

    Args:
        sensor: text of the daemon's sensor.
        folder: state and logs go here.
        epochs: passes over the data, which is what makes the round long.

    Raises:
        EdgejouleError: a program ended, or the run did not finish.
    """
    made = make_bundle()
    plan = (
        f'[run]\nbundle = "{made / "bundle"}"\nname = "bench"\nrounds = 1\nseed = 7\n'
        f"[round]\ndevices = 1\ndeadline_s = {HANG_S:g}\n[train]\nepochs = {epochs}\nrate = 0.02\n"
        '[update]\ncodec = "float32"\n'
    )
    with Children(folder / "logs") as children:
        address = start_coordinator(children, folder)
        children.start(
            DEVICE, "edge_runtime.cli",
            ["run", "--coordinator", address, "--device-id", DEVICE, "--data", made / "data.npz", "--state",
             folder / "state", "--sensor", sensor, "--max-rounds", "1"], order=0,
        )  # fmt: skip
        with Operator(address) as operator:
            run = operator.start_run(plan, folder)
            status = _wait(operator, run, lambda each_run: each_run.is_over)
            if status.state == "finished":
                # Joules of the sending come with the device's next call.
                status = _wait(
                    operator, run, lambda each_run: any(e.phase is Phase.SEND for e in _device(each_run).energy)
                )
            return status, _device(status)


def _wait(operator: Operator, run: str, done: Callable[[RunStatus], bool]) -> RunStatus:
    until_s = time.monotonic() + HANG_S
    while True:
        (status,) = operator.status(run)
        if done(status):
            return status
        if time.monotonic() > until_s:
            raise WaitExpired(f"the run is {status.state} after {HANG_S:g} s", fix="see the logs")
        time.sleep(0.1)


def _device(status: RunStatus) -> DeviceRound:
    (device,) = next(this_round for this_round in status.rounds if this_round.round == 1).devices
    return device


def _write_data(path: Path) -> None:
    """Three classes of 8 x 8 pictures that differ in the row that is bright."""
    rng = np.random.default_rng(0)
    y = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    x = rng.integers(0, 60, (EXAMPLES, 8, 8, 1)).astype(np.uint8)
    for index, label in enumerate(y):
        x[index, 2 * label + 1] += 150
    np.savez(path, x=x, y=y, is_test=np.arange(EXAMPLES) % 10 == 0)
