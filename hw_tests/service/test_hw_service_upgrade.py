"""A new version beside the old one: it stays when it works, and the old one comes back by itself when it does not."""

from __future__ import annotations

import json
import time

import pytest

from hw_tests.boards.defects import (
    CRASHES_AT_IMPORT,
    CRASHES_AT_START,
    EXITS_WHEN_READY,
    HANGS,
    HANGS_WHEN_READY,
)
from hw_tests.boards.deployed import ENVIRONMENT, STATE, VERSIONS, WHEELS, Deployed
from hw_tests.boards.wheels import Defects
from hw_tests.measurements import Measure
from protos.errors import RefusedError, UpgradeError

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]

UPGRADING = "upgrading.service"


@pytest.fixture(scope="session")
def good(deployed: Deployed) -> str:
    return deployed.wheel("9.1.0")


@pytest.fixture
def running(service: Deployed) -> Deployed:
    """An ordinary environment whose service has joined."""
    service.service("install")
    service.until_joined()
    return service


def upgrade(board: Deployed, wheel: str, *more: str, trial: int = 60, program: str | None = None):
    words = ("upgrade", "--wheel", wheel, "--find-links", WHEELS, "--trial", str(trial), *more)
    return board.service(*words, check=False, program=program)


def begin(board: Deployed, wheel: str) -> None:
    """Begin an upgrade that nobody waits for; the new version is on trial afterwards."""
    words = (board.program, "service", "upgrade", "--wheel", wheel, "--find-links", WHEELS)
    board.board.run("systemd-run", "--collect", f"--unit={UPGRADING}", *words)
    board.until(lambda: board.vitals().get("version") == "9.1.0", "the new version starts")
    assert board.status()["trial"]


def running_version(board: Deployed) -> str:
    return str(board.status()["version"])


def assert_old_is_back(board: Deployed, wheel: str, reason: str, before: int) -> None:
    """The old version runs and has joined, the reason is told, and the bad one is refused from now on."""
    board.until_joined(before)
    told = board.status()
    assert told["version"].endswith(f" in {ENVIRONMENT}")
    assert told["trial"] is None
    assert reason in told["last"]
    ((name, why),) = told["bad"].items()
    assert name.startswith("9.")
    assert reason in why
    board.until(lambda: not board.exists(f"{VERSIONS}/versions/{name}"), "the bad version is removed")
    board.until(lambda: not board.exists("/etc/systemd/system/edge-runtime-trial.service"), "the watch is removed")
    again = upgrade(board, wheel)
    assert again.returncode == RefusedError.exit_code
    assert "--force" in again.stderr


def test_a_good_version_stays_and_can_be_gone_back_from(running: Deployed, good: str, measure: Measure) -> None:
    before = running.pid()
    dry = upgrade(running, good, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would install 9.1.0-" in dry.stderr
    assert running.pid() == before
    start_s = time.monotonic()
    done = upgrade(running, good, "--json")
    assert done.returncode == 0, done.stderr
    measure("upgrade, all of it", time.monotonic() - start_s, "s", uncertainty=0.2)
    name = json.loads(done.stdout)["version"]
    told = running.status()
    assert (told["version"], told["trial"], told["bad"]) == (name, None, {})
    assert told["before"].endswith(f" in {ENVIRONMENT}")
    assert running.vitals()["environment"] == f"{VERSIONS}/versions/{name}"
    assert running.vitals()["version"] == "9.1.0"
    assert running.show("NRestarts") == "0"
    assert running.exists(f"{STATE}/outbox")
    # Once more from there: the one before stays, and the program of the new version does it.
    program = f"{VERSIONS}/versions/{name}/bin/edge-runtime"
    assert "runs already" in upgrade(running, good, program=program).stderr
    pid = running.pid()
    running.service("rollback", program=program)
    running.until_joined(pid)
    assert running_version(running).endswith(f" in {ENVIRONMENT}")
    assert running.status()["before"] == name
    running.board.reboot()
    running.until_joined(pid)
    assert running_version(running).endswith(f" in {ENVIRONMENT}")


def test_a_version_that_cannot_be_imported_is_refused_while_the_old_one_runs_on(running: Deployed) -> None:
    before = running.pid()
    done = upgrade(running, running.wheel("9.2.0", CRASHES_AT_IMPORT))
    assert done.returncode == UpgradeError.exit_code
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
    assert running.pid() == before
    ((name, why),) = running.status()["bad"].items()
    assert name.startswith("9.2.0-")
    assert "no_such_module" in why


@pytest.mark.parametrize(
    ("defect", "reason", "trial"),
    [
        pytest.param(CRASHES_AT_START, "it ended", 60, id="crashes-at-start"),
        pytest.param(EXITS_WHEN_READY, "it ended (success, exit code 0)", 60, id="exits-when-ready"),
        pytest.param(HANGS, "it was not ready within 10 s", 10, id="hangs"),
        pytest.param(HANGS_WHEN_READY, "was not answered by the coordinator within 10 s", 10, id="hangs-when-ready"),
    ],
)
def test_a_version_that_does_not_work_is_gone_back_from_by_itself(
    running: Deployed, defect: Defects, reason: str, trial: int, measure: Measure
) -> None:
    before = running.pid()
    wheel = running.wheel("9.3.0", defect)
    start_s = time.monotonic()
    done = upgrade(running, wheel, trial=trial)
    assert done.returncode == UpgradeError.exit_code, done.stderr
    assert reason in done.stderr
    assert_old_is_back(running, wheel, reason, before)
    measure("until the old one had joined again", time.monotonic() - start_s, "s", uncertainty=0.5)


def test_a_kill_while_it_installs_leaves_the_old_version_as_it_was(running: Deployed, good: str) -> None:
    pid = running.pid()
    folder = f"{VERSIONS}/versions"
    words = (running.program, "service", "upgrade", "--wheel", good, "--find-links", WHEELS)
    # First when there is an interpreter, then when libraries are on their way.
    for number, sign in enumerate(("pyvenv.cfg", "lib/python3*/site-packages/numpy")):
        running.board.run("systemd-run", "--collect", f"--unit=killed-{number}.service", *words)
        running.until(
            lambda sign=sign: running.board.run("sh", "-c", f"ls -d {folder}/*/{sign}", check=False).stdout, sign
        )
        running.board.run("systemctl", "kill", "--signal=KILL", f"killed-{number}.service", check=False)
        assert running.board.run("sh", "-c", f"ls {folder}/*/complete", check=False).returncode != 0
        told = running.status()
        assert (told["pid"], told["active"], told["trial"]) == (pid, "active", None)


def test_the_power_goes_in_a_trial_and_the_old_version_is_back_after_the_boot(running: Deployed, good: str) -> None:
    begin(running, good)
    running.board.reboot(hard=True)
    running.until_joined()
    told = running.status()
    assert told["version"].endswith(f" in {ENVIRONMENT}")
    assert (told["trial"], told["bad"]) == (None, {})
    assert "the machine started again" in told["last"]
    assert not running.exists("/etc/systemd/system/edge-runtime-trial.service")
    assert upgrade(running, good, "--dry-run").returncode == 0


def test_the_watch_is_killed_and_so_is_the_command_and_the_trial_still_ends(running: Deployed, good: str) -> None:
    begin(running, good)
    running.board.run("systemctl", "kill", "--signal=KILL", UPGRADING, "edge-runtime-trial")
    for verb in ("install", "upgrade"):
        refused = running.service(verb, check=False)
        assert refused.returncode == RefusedError.exit_code
        assert "is on trial" in refused.stderr
    running.until(lambda: running.status()["trial"] is None, "the trial ends")
    assert running_version(running).startswith("9.1.0-")
    assert running.show("NRestarts", "edge-runtime-trial.service") in ("1", "0")
