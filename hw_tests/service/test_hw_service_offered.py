"""Versions that a coordinator offers, on a machine with systemd: the daemon fetches one, root's unit takes it up, the
trial keeps it; and one that does not work is gone again by itself, with the coordinator told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hw_tests.boards.defects import CRASHES_AT_START
from hw_tests.boards.deployed import PATIENCE_S, Deployed
from hw_tests.boards.wheels import ROOT
from hw_tests.measurements import Measure
from tests.free_ports import free_ports

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]


class Fleet:
    """A coordinator with certificates on this machine, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.state, self._ready = folder / "state", folder / "ready"
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder / "config")}
        port, _ = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self.run("init", "--state", self.state, "--name", "127.0.0.1", "--port", port)
        self.run("login", self.state / "trust/admin.json", "--name", "bench")
        words = ("serve", "--state", self.state, "--listen", self.address, "--tls", "--ready-file", self._ready)
        self._process = subprocess.Popen(
            self._words(words), env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        start_s = time.monotonic()
        while not self._ready.exists():
            assert self._process.poll() is None, self._process.communicate()[0]
            assert time.monotonic() - start_s < PATIENCE_S
            time.sleep(0.05)

    def run(self, *words: object, code: int = 0, timeout_s: float = 900.0) -> str:
        done = subprocess.run(
            self._words(words), env=self._environ, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def token(self, device: str) -> str:
        words = ("enroll", "--state", self.state, device, "--group", "bench", "--address", self.address, "--json")
        return str(json.loads(self.run(*words))["tokens"][0]["token"])

    def upgrade(self, wheel: Path, *, code: int = 0) -> dict[str, Any]:
        """Sign a wheel, bring it to the group, and wait for what becomes of it."""
        self.run("sign", wheel, "--state", self.state, "--line", "edgejoule", "--days", 9)
        words = ("upgrade", "--wheel", wheel, "--to", "bench", "--canary", 1, "--trial", "5m", "--wait", "--json")
        said = self.run(*words, "--coordinator", self.address, "--context", "bench", code=code)
        return dict(json.loads(said))

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)

    @staticmethod
    def _words(words: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "coordinator.cli", *map(str, words)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def test_an_offered_version_stays_and_one_that_does_not_work_is_gone_by_itself(
    service: Deployed, fleet: Fleet, measure: Measure
) -> None:
    port = int(fleet.address.rpartition(":")[2])
    for one in (port, port + 1):
        service.board.expose(one)
    enrolled = service.board.run(service.program, "enroll", fleet.token("board-1"))
    assert "board-1" in enrolled.stdout
    service.service("install")
    service.service("upgrades", "on")
    try:
        before = service.until_joined()
        start_s = time.monotonic()
        shown = fleet.upgrade(service.wheel_here("9.1.0"))
        measure("upgrade by the coordinator, all of it", time.monotonic() - start_s, "s", uncertainty=1.0)
        assert shown["state"] == "finished", shown
        assert [(device["device_id"], device["state"]) for device in shown["devices"]] == [("board-1", "kept")]
        kept = service.until_joined(before)
        assert service.vitals()["version"] == "9.1.0"
        told = service.status()
        assert told["version"].startswith("9.1.0-")
        assert (told["trial"], told["bad"]) == (None, {})

        start_s = time.monotonic()
        shown = fleet.upgrade(service.wheel_here("9.2.0", CRASHES_AT_START), code=3)
        measure("a bad version by the coordinator, until it is gone", time.monotonic() - start_s, "s", uncertainty=1.0)
        assert shown["state"] == "stopped", shown
        (failed,) = shown["devices"]
        assert failed["state"] == "failed", failed
        service.until_joined(kept)
        told = service.status()
        assert told["version"].startswith("9.1.0-"), "the version before is back"
        assert [name.startswith("9.2.0-") for name in told["bad"]] == [True]
        assert service.vitals()["version"] == "9.1.0"
    finally:
        service.service("upgrades", "off", check=False)
