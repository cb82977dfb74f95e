"""The other end: a real coordinator on this machine's loopback, with a small model and data for one device."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.lab.fleet import start_coordinator
from coordinator.lab.processes import Children
from hw_tests.boards.board import NoBoard
from hw_tests.boards.root_folder import cache
from hw_tests.boards.wheels import ROOT
from protos.extras import advice


class Station:
    """A coordinator, and what it takes to let one device work for it.

    Args:
        folder: empty.
        children: the coordinator becomes one of them.
    """

    def __init__(self, folder: Path, children: Children) -> None:
        self._folder, self._children = folder, children
        example = _example()
        self.bundle, self.data = example / "bundle", example / "model" / "fleet.npz"
        self.address = start_coordinator(children, folder)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Within, the coordinator answers nobody: it is stopped in its tracks."""
        (child,) = [each_child for each_child in self._children.running if each_child.name == "coordinator"]
        child.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            child.process.send_signal(signal.SIGCONT)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def start_run(self, rounds: int, *, steps: int, name: str) -> None:
        """Start a run for one device."""
        plan = self._folder / f"{name}.toml"
        plan.write_text(
            f'[run]\nbundle = "{self.bundle}"\nname = "{name}"\nrounds = {rounds}\n\n'
            f"[round]\ndevices = 1\ndeadline_s = 120\n\n[train]\nsteps = {steps}\n"
        )
        self._coordinator("start", str(plan))

    def run(self, name: str) -> dict[str, Any]:
        """What ``coordinator status RUN`` says: every round of it."""
        found: dict[str, Any] = json.loads(self._coordinator("status", name, "--json"))
        return found

    def runs(self) -> list[dict[str, Any]]:
        """What ``coordinator status`` says: a row for each run."""
        found = json.loads(self._coordinator("status", "--json"))
        return list(found["runs"]) if isinstance(found, dict) else list(found)

    def devices(self) -> list[dict[str, Any]]:
        """What ``coordinator devices`` says."""
        found = json.loads(self._coordinator("devices", "--json"))
        return list(found["devices"]) if isinstance(found, dict) else list(found)

    def _coordinator(self, *words: str) -> str:
        command = [sys.executable, "-m", "coordinator.cli", *words, "--coordinator", self.address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120.0)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _example() -> Path:
    """Model, data and bundle of the digits example, made once."""
    sources = [
        path for room in ("pretrain", "convert") for path in sorted((ROOT / "firmware_tools" / room).glob("*.py"))
    ]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = cache() / f"digits-{key}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            if importlib.util.find_spec("tensorflow") is None:
                raise NoBoard(f"making a model needs TensorFlow: {advice('workshop')}")
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            model = part / "model"
            for words in (
                ["pretrain", "digits", "-o", model],
                ["convert", model / "digits.keras", "-o", part / "bundle", "--calibrate", model / "workshop.npz",
                 "--eval", model / "fleet.npz", "--name", "digits"],
            ):  # fmt: skip
                command = [sys.executable, "-m", "firmware_tools.cli", *map(str, words)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600.0)
                assert done.returncode == 0, done.stderr[-2000:]
            part.rename(folder)
    return folder
