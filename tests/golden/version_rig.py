"""Programs of two versions side by side: each process runs with the code of one folder alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PLAN = """[run]
bundle = "{bundle}"
name = "versions"
rounds = {rounds}
seed = 7
[round]
devices = 1
deadline_s = 60
[train]
epochs = 1
[update]
codec = "{codec}"
[downlink]
codec = "entropy_coded_mmse"
bits = 4
[evaluate]
data = "{data}"
"""


class Programs:
    """The programs of one version.

    Args:
        code: a folder with its packages.
        folder: where their output goes.
        store: the state of the coordinator.
    """

    def __init__(self, code: Path, folder: Path, store: Path) -> None:
        self.code, self.folder, self.store = code, folder, store
        self._running: list[subprocess.Popen[bytes]] = []

    def begin(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        """A program that goes on by itself; stdout and stderr are files."""
        out, err = (self.folder / f"{log}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.folder, env=self._environment(), stdout=stdout, stderr=stderr
            )
        self._running.append(process)
        return process

    def answer(self, *words: str) -> Any:
        """What a program prints as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self._environment(), capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    def serving(self) -> tuple[str, ...]:
        """The words of a coordinator."""
        words = ("coordinator.cli", "serve", "--state", str(self.store), "--listen", "127.0.0.1:0")
        return (*words, "--ready-file", str(self.folder / "ready"))

    def serve(self) -> str:
        """Begin a coordinator; gives its address."""
        ready = self.folder / "ready"
        process = self.begin("serve", *self.serving())
        for _ in range(1500):
            if ready.exists():
                return ready.read_text().strip()
            assert process.poll() is None, self.said("serve")
            time.sleep(0.02)
        raise AssertionError("the coordinator did not come up")

    def device(self, name: str, address: str, state: Path, data: Path, *more: str) -> list[dict[str, Any]]:
        """A device for as many rounds as ``more`` says; gives what it says of each."""
        words = ("edge_runtime.cli", "run", "--json", "--coordinator", address, "--state", str(state), "--data")
        process = self.begin(name, *words, str(data), "--device-id", name, "--sensor", "estimate:pi4", *more)
        assert process.wait(120) == 0, self.said(name)
        return [json.loads(line) for line in (self.folder / f"{name}.out").read_text().splitlines()]

    def said(self, log: str) -> str:
        """The end of what a program wrote to stderr."""
        return (self.folder / f"{log}.err").read_text()[-4000:]

    def close(self) -> None:
        """End what was begun here."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.code)}
