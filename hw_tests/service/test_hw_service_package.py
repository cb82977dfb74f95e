"""The Debian package on a board: installed, configured, upgraded, removed, purged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw_tests.boards.deployed import STATE, UNIT, Deployed
from hw_tests.boards.wheels import ROOT, needed_wheels
from hw_tests.measurements import Measure
from protos.errors import RefusedError

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]
PROGRAM = "/usr/lib/edgejoule/bin/edge-runtime"
CONFIG = "/etc/edgejoule/device.toml"
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(folder: Path, machine: str) -> Path:
    command = [sys.executable, ROOT / "packaging/build_deb.py", "--arch", _ARCHES[machine], "--quick"]
    done = subprocess.run(
        [*command, "--output", folder, "--find-links", needed_wheels(machine)],
        capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.deb"))


@pytest.fixture(scope="module")
def package(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    machine = deployed.board.run("uname", "-m").stdout.strip()
    if machine not in _ARCHES:
        pytest.skip(f"no package is made for {machine}")
    return build(tmp_path_factory.mktemp("deb"), machine)


@pytest.fixture
def on_board(service: Deployed, package: Path) -> Iterator[str]:
    """The package's path on a board that has neither it nor settings."""
    service.board.put(package, "/opt/edgejoule.deb")
    service.board.run("rm", "-f", CONFIG)
    yield "/opt/edgejoule.deb"
    service.board.run("dpkg", "--purge", "edgejoule", check=False)


def test_the_life_of_the_package(service: Deployed, on_board: str, package: Path, measure: Measure) -> None:
    board = service.board
    measure("package, hardly compressed", package.stat().st_size / 1e6, "MB")
    done = board.run("dpkg", "-i", on_board, timeout_s=900)
    assert "device.toml.example" in done.stderr, "it says how to go on"
    assert service.show("LoadState") == "not-found", "nothing starts before it was configured"
    assert board.run("dpkg-query", "-W", "-f", "${Conffiles}", "edgejoule").stdout.split()[0] == f"{CONFIG}.example"
    assert board.run("dpkg", "--verify", "edgejoule").stdout == ""
    service.configure()
    board.run("edge-runtime", "service", "install")
    pid = service.until_joined()
    assert service.vitals()["environment"] == "/usr/lib/edgejoule"
    assert service.vitals()["delegate"] == "xnnpack"
    refused = service.service("upgrade", check=False, program=PROGRAM)
    assert refused.returncode == RefusedError.exit_code
    assert "apt-get install" in refused.stderr
    # An upgrade makes the unit anew and starts the service again; one that was stopped stays so.
    board.run("dpkg", "-i", on_board, timeout_s=900)
    service.until_joined(pid)
    board.run("systemctl", "stop", UNIT)
    board.run("dpkg", "-i", on_board, timeout_s=900)
    assert service.show("ActiveState") == "inactive"
    board.run("systemctl", "start", UNIT)
    service.until_joined(pid)
    board.run("dpkg", "--remove", "edgejoule")
    assert service.show("LoadState") == "not-found"
    assert board.run("pgrep", "-f", "edge-runtime run", check=False).stdout == ""
    assert not service.exists("/usr/lib/edgejoule")
    assert service.exists(STATE)
    assert service.exists(CONFIG)
    board.run("dpkg", "--purge", "edgejoule")
    assert not service.exists(CONFIG)
    assert not service.exists(STATE)
    # A first package where settings are already, as on a prepared card: it runs at once.
    service.configure()
    board.run("dpkg", "-i", on_board, timeout_s=900)
    service.until_joined(pid)
    board.run("dpkg", "--purge", "edgejoule")
    for path in (STATE, "/var/lib/edgejoule", "/etc/edgejoule", "/usr/lib/edgejoule", "/usr/bin/edge-runtime"):
        assert not service.exists(path), path
    assert service.show("LoadState") == "not-found"


def test_a_service_of_another_environment_is_left_alone(service: Deployed, on_board: str) -> None:
    service.configure()
    service.service("install")
    pid = service.until_joined()
    done = service.board.run("dpkg", "-i", on_board, timeout_s=900)
    assert "runs from another environment" in done.stderr
    service.board.run("dpkg", "--purge", "edgejoule")
    assert service.pid() == pid
    assert service.exists(STATE)
    assert service.exists(CONFIG)


@pytest.mark.sim_only
def test_the_same_tree_makes_the_same_bytes(package: Path, tmp_path: Path) -> None:
    (machine,) = [name for name, arch in _ARCHES.items() if package.name.endswith(f"_{arch}.deb")]
    assert build(tmp_path, machine).read_bytes() == package.read_bytes()
