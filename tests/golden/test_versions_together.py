"""A device of the landed version with a coordinator of today, the other way round, and a device that is upgraded.

The landed version is commit dcb89ca, taken out of the history of this repository; each process runs the code of one
version alone. The bundle is the golden one, so TensorFlow is not needed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from version_rig import PLAN, Programs

pytestmark = pytest.mark.processes
COMMIT = "dcb89cafbd35f6ba03e8441279d5f56160fbde72"
ROOT = Path(__file__).resolve().parents[2]
LANDED = Path(__file__).parent / "landed"
PACKAGES = ("protos", "edge_runtime", "coordinator")
Rig = Callable[[Path], Programs]


@pytest.fixture(scope="session")
def landed_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the landed version."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", COMMIT, *PACKAGES], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"needs commit {COMMIT[:7]} of this repository: {archive.stderr.decode(errors='replace').strip()}")
    folder = tmp_path_factory.mktemp("landed")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made: list[Programs] = []

    def make(code: Path) -> Programs:
        folder = tmp_path / f"programs-{len(made)}"
        folder.mkdir()
        made.append(Programs(code, folder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _start(programs: Programs, address: str, *, devices: int = 1, rounds: int = 1, codec: str = "sign") -> str:
    plan = programs.folder / "plan.toml"
    text = PLAN.format(
        bundle=LANDED / "bundle", data=LANDED / "data.npz", devices=devices, rounds=rounds, codec=codec
    )
    plan.write_text(text)
    started = programs.answer("coordinator.cli", "start", str(plan), "--coordinator", address, "--json")
    return str(started["run_id"])


def _status(programs: Programs, address: str, run_id: str) -> Any:
    return programs.answer("coordinator.cli", "status", run_id, "--coordinator", address, "--json")


@pytest.mark.parametrize("old", ["device", "coordinator"])
def test_a_round_of_two_versions_is_a_round(old: str, rig: Rig, landed_code: Path, tmp_path: Path) -> None:
    server = rig(landed_code if old == "coordinator" else ROOT)
    device = rig(landed_code if old == "device" else ROOT)
    address = server.serve()
    run_id = _start(server, address, rounds=2)
    told = device.device("pi-1", address, tmp_path / "state", LANDED / "data.npz", "--max-rounds", "2")
    print(told)
    status = _status(server, address, run_id)
    print(status)
    assert False
