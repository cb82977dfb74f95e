"""A device of the landed version with a coordinator of today, the other way round, and either one upgraded on the way.

The landed version is commit dcb89ca, taken out of the history of this repository; each process runs the code of one
version alone. The bundle is the golden one, so TensorFlow is not needed. What two programs of today do is the measure:
the same seed gives the same heads, bit by bit, whichever version made them.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unmet import unmet
from version_rig import PLAN, Programs

from coordinator.store.layouts import LAYOUT

pytestmark = pytest.mark.processes
COMMIT = "dcb89cafbd35f6ba03e8441279d5f56160fbde72"
ROOT = Path(__file__).resolve().parents[2]
LANDED = Path(__file__).parent / "landed"
PACKAGES = ("protos", "edge_runtime", "coordinator")
ROUNDS = 3
# One that remembers what it owes, one that is entropy coded, and one that is random.
CODECS = ("sign", "entropy_coded", "uniform_stochastic")
Rig = Callable[[Path], Programs]


@pytest.fixture(scope="session")
def landed_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the landed version."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", COMMIT, *PACKAGES], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        told = archive.stderr.decode(errors="replace").strip().splitlines() or ["git gave nothing"]
        unmet(f"needs commit {COMMIT[:7]} of this repository ({told[0]}): clone it whole, or git fetch --unshallow")
    folder = tmp_path_factory.mktemp("landed")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """`rig(code)`: the programs of one version; all share the state of one coordinator."""
    made: list[Programs] = []

    def make(code: Path) -> Programs:
        folder = tmp_path / f"programs-{len(made)}"
        folder.mkdir()
        made.append(Programs(code, folder, tmp_path / "coordinator"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _start(programs: Programs, address: str, codec: str) -> str:
    plan = programs.folder / "plan.toml"
    plan.write_text(PLAN.format(bundle=LANDED / "bundle", data=LANDED / "data.npz", rounds=ROUNDS, codec=codec))
    started = programs.answer("coordinator.cli", "start", str(plan), "--coordinator", address, "--json")
    return str(started["run_id"])


def _status(programs: Programs, address: str, run_id: str) -> Any:
    return programs.answer("coordinator.cli", "status", run_id, "--coordinator", address, "--json")


def _rounds(programs: Programs, address: str, state: Path, count: int) -> list[dict[str, Any]]:
    return programs.device("pi-1", address, state, LANDED / "data.npz", "--max-rounds", str(count))


def _same_whoever_wrote(told: list[dict[str, Any]], status: Any) -> dict[str, Any]:
    """What does not depend on time: of a run that ended well, and of which all is known on both sides."""
    assert status["state"] == "finished"
    rounds = status["rounds"]
    assert [this_round["round"] for this_round in rounds] == list(range(ROUNDS + 1))
    for said, kept in zip(told, rounds[1:], strict=True):
        (device,) = kept["devices"]
        assert (said["verdict"], device["outcome"]) == ("accepted", "accepted")
        for phase in ("embed", "train", "encode"):
            assert device["energy"][phase]["energy_j"] == said["joules"][phase], "the joules that the device told"
        assert device["energy"]["send"]["energy_j"] is not None, "those of sending, told with the next call"
    return {
        "heads": [this_round["head_version"] for this_round in rounds],
        "accuracy": [this_round["accuracy"] for this_round in rounds],
        "losses": [(row["loss_first"], row["loss_last"]) for row in told],
        "steps": [(row["steps_planned"], row["steps_done"]) for row in told],
        "embedded": [row["embedded"] for row in told],
    }


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """`today(codec)`: what device and coordinator of today do, made once for each codec."""
    made: dict[str, dict[str, Any]] = {}

    def of(codec: str) -> dict[str, Any]:
        if codec not in made:
            folder = tmp_path_factory.mktemp(codec)
            programs = Programs(ROOT, folder, folder / "coordinator")
            try:
                address = programs.serve()
                run_id = _start(programs, address, codec)
                told = _rounds(programs, address, folder / "state", ROUNDS)
                made[codec] = _same_whoever_wrote(told, _status(programs, address, run_id))
            finally:
                programs.close()
            assert len(set(made[codec]["heads"])) == ROUNDS + 1, "every round moves the head"
            assert made[codec]["embedded"] == [128, 0, 0]
        return made[codec]

    return of


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("old", ["device", "coordinator"])
def test_rounds_of_two_versions_are_the_rounds_of_one(
    old: str, codec: str, rig: Rig, landed_code: Path, tmp_path: Path, today: Callable[[str], dict[str, Any]]
) -> None:
    server = rig(landed_code if old == "coordinator" else ROOT)
    device = rig(landed_code if old == "device" else ROOT)
    address = server.serve()
    run_id = _start(server, address, codec)
    told = _rounds(device, address, tmp_path / "state", ROUNDS)
    for operator in (server, device):
        assert _same_whoever_wrote(told, _status(operator, address, run_id)) == today(codec)


@pytest.mark.parametrize("upgraded", ["device", "coordinator", "both"])
def test_who_is_upgraded_between_two_rounds_goes_on_where_it_was(
    upgraded: str, rig: Rig, landed_code: Path, tmp_path: Path, today: Callable[[str], dict[str, Any]]
) -> None:
    state, old = tmp_path / "state", rig(landed_code)
    address = old.serve()
    run_id = _start(old, address, "sign")
    told = _rounds(old, address, state, 1)
    new = rig(ROOT)
    server, device = (new if upgraded in (text, "both") else old for text in ("coordinator", "device"))
    if server is new:
        old.close()
        address = server.serve()
    told += _rounds(device, address, state, ROUNDS - 1)
    assert _same_whoever_wrote(told, _status(server, address, run_id)) == today("sign")


def test_who_goes_back_to_the_landed_coordinator_is_told_that_its_store_is_newer(
    rig: Rig, landed_code: Path, tmp_path: Path
) -> None:
    new = rig(ROOT)
    new.serve()
    new.close()
    old = rig(landed_code)
    process = old.begin("serve", *old.serving())
    assert process.wait(60) == 15, old.said("serve")
    (line,) = old.said("serve").splitlines()
    assert f"has layout [{LAYOUT}], this version reads 1" in line
    assert "use another state directory, or the version that wrote it" in line


def test_who_goes_back_to_the_landed_device_keeps_what_it_holds(
    rig: Rig, landed_code: Path, tmp_path: Path, today: Callable[[str], dict[str, Any]]
) -> None:
    state, new = tmp_path / "state", rig(ROOT)
    address = new.serve()
    run_id = _start(new, address, "sign")
    told = _rounds(new, address, state, 1)
    told += _rounds(rig(landed_code), address, state, ROUNDS - 1)
    assert _same_whoever_wrote(told, _status(new, address, run_id)) == today("sign")
