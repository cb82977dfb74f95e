"""A coordinator with certificates, as a process on a real port, and boards that enrol at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Lab:
    """A coordinator's state, its address, and its commands."""

    state: Path
    address: str
    environ: dict[str, str]
    process: subprocess.Popen[str]

    def run(self, *arguments: str, program: str = "coordinator.cli") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", program, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False, timeout=120
        )

    def edge(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(*arguments, program="edge_runtime.cli")

    @property
    def enroll_port(self) -> int:
        return int(self.address.rpartition(":")[2]) + 1

    def token(self, device: str, *more: str) -> str:
        made = self.run("enroll", "--state", str(self.state), device, "--address", self.address, "--json", *more)
        assert made.returncode == 0, made.stderr
        return str(json.loads(made.stdout)["tokens"][0]["token"])

    def operate(self, *arguments: str, context: str = "lab") -> subprocess.CompletedProcess[str]:
        return self.run(*arguments, "--coordinator", self.address, "--context", context)


@pytest.fixture
def start_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """`start_lab(name)`: certificates, and a server that asks for them; stopped at the end."""
    started: list[Lab] = []

    def start(name: str = "lab", listen: str = "127.0.0.1", program: tuple[str, ...] = (), *more: str) -> Lab:
        state, ready = tmp_path / name, tmp_path / f"{name}.ready"
        environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / f"{name}-config"), "PYTHONPATH": str(ROOT)}
        environ.pop("EDGEJOULE_COORDINATOR", None)
        port, _ = free_ports(2)
        lab = Lab(state, f"{listen}:{port}", environ, None)  # type: ignore[arg-type]
        made = lab.run("init", "--state", str(state), "--name", listen, "--port", str(port))
        assert made.returncode == 0, made.stderr
        assert lab.run("login", str(state / "trust" / "admin.json"), "--name", "lab").returncode == 0
        command = [*(program or (sys.executable, "-m", "coordinator.cli")), "serve", "--state", str(state),
                   "--listen", lab.address, "--tls", "--ready-file", str(ready), *more]  # fmt: skip
        lab.process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(lab)
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert lab.process.poll() is None, lab.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return lab

    yield start
    for lab in started:
        lab.process.terminate()
        lab.process.communicate(timeout=30)


@pytest.fixture
def lab(start_lab: Callable[..., Lab]) -> Lab:
    return start_lab()


@pytest.fixture
def board(lab: Lab, tmp_path: Path) -> Any:
    """`board(name)`: an enrolled board's state folder."""

    def enrolled(name: str) -> Path:
        state = tmp_path / f"{name}-state"
        done = lab.edge("enroll", lab.token(name), "--state", str(state))
        assert done.returncode == 0, done.stderr
        return state

    return enrolled
