"""The service installed on a board that systemd runs: up, heard, limited in what it may do, and gone again."""

from __future__ import annotations

import json
import re

import pytest

from hw_tests.boards.deployed import STATE, UNIT, Deployed
from hw_tests.measurements import Measure

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]
MOST_EXPOSURE = 2.0


def test_install_starts_it_and_it_joins_on_xnnpack_and_works(service: Deployed, measure: Measure) -> None:
    service.service("install")
    pid = service.until_joined()
    assert service.show("ActiveState") == "active"
    started, ready = (int(service.show(f"{key}TimestampMonotonic")) for key in ("ExecMainStart", "ActiveEnter"))
    measure("ready", (ready - started) / 1e6, "s", uncertainty=0.001)
    # The engine inside the unit, with all its hardening, is the one that the board has outside.
    assert service.vitals()["delegate"] == "xnnpack"
    service.station.start_run(2, steps=20, name="install")
    service.until(lambda: service.finished("install"), "the run ends")
    assert service.pid() == pid
    assert service.show("NRestarts") == "0"
    rounds = [row["EDGEJOULE_ROUND"] for row in service.journal("EDGEJOULE_PHASE=train")]
    assert rounds == ["1", "2"]
    for phase in ("embed", "train", "encode", "send"):
        entry = service.journal(f"EDGEJOULE_PHASE={phase}")[0]
        assert entry["EDGEJOULE_RUN"]
        assert float(entry["EDGEJOULE_JOULES"]) > 0
        assert entry["_SYSTEMD_UNIT"] == UNIT
    measure("memory in a round", int(service.show("MemoryCurrent")) / 1e6, "MB", limit=(None, 256))
    measure("training in the unit", float(service.journal("EDGEJOULE_PHASE=train")[-1]["EDGEJOULE_JOULES"]), "J")


def test_it_is_nobody_with_its_state_and_nothing_else(service: Deployed, measure: Measure) -> None:
    service.service("install")
    pid = service.until_joined()
    board = service.board
    status = board.run("cat", f"/proc/{pid}/status").stdout
    uid = int(re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE)[0])
    assert 61184 <= uid <= 65519  # systemd's range for users that exist only while a service runs
    assert re.findall(r"^CapEff:\s+(\w+)", status, re.MULTILINE) == ["0000000000000000"]
    assert re.findall(r"^Seccomp:\s+(\d)", status, re.MULTILINE) == ["2"]
    assert board.run("stat", "-c", "%u %a", STATE).stdout.split() == [str(uid), "700"]
    # Looked at from inside of its mounts: a write anywhere else is refused by the kernel, to root as well.
    inside = ("nsenter", "-t", str(pid), "-m", "--")
    for path in ("/etc/x", "/usr/local/x", "/srv/edgejoule/x", "/opt/edgejoule/x"):
        refused = board.run(*inside, "touch", path, check=False)
        assert refused.returncode != 0, path
        assert "Read-only file system" in refused.stderr
    assert board.run(*inside, "ls", "-A", "/root").stdout == ""
    board.run(*inside, "touch", f"{STATE}/x")
    scored = board.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
    found = re.search(r"exposure level for .*: (\d+\.\d+)", scored)
    assert found
    measure("exposure of the unit", float(found[1]), "of 10", limit=(None, MOST_EXPOSURE))
    board.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", f"/etc/systemd/system/{UNIT}")


def test_it_starts_with_the_board(service: Deployed, measure: Measure) -> None:
    service.service("install")
    before = service.until_joined()
    service.board.reboot()
    service.until_joined(before)
    assert service.show("NRestarts") == "0"
    if not service.board.simulated:
        # The clock of a box is this machine's, and says nothing of its boot.
        measure("ready after power-up", int(service.show("ActiveEnterTimestampMonotonic")) / 1e6, "s")
    assert service.status()["active"] == "active"


def test_status_says_what_runs_and_logs_shows_its_lines(service: Deployed) -> None:
    assert service.service("status", check=False).returncode == 3
    service.service("install")
    service.until_joined()
    told = service.status()
    assert (told["active"], told["sub"], told["enabled"], told["restarts"]) == ("active", "running", True, 0)
    assert told["pid"] == service.pid()
    assert told["says"].startswith("joined ")
    assert told["version"].endswith(" in /opt/edgejoule")
    lines = [json.loads(line) for line in service.service("logs", "--json").stdout.splitlines()]
    assert any(line["MESSAGE"].startswith("ready: ") for line in lines)
    service.board.run("systemctl", "stop", UNIT)
    assert service.service("status", check=False).returncode == 3
    assert any(str(row["MESSAGE"]).startswith("left: SIGTERM") for row in service.journal())


def test_uninstall_keeps_the_state_and_purge_does_not(service: Deployed) -> None:
    service.service("install")
    service.until_joined()
    assert service.exists(f"{STATE}/outbox")
    service.service("uninstall")
    assert not service.exists(f"/etc/systemd/system/{UNIT}")
    assert service.show("LoadState") == "not-found"
    assert service.board.run("pgrep", "-f", "edge-runtime run", check=False).stdout == ""
    assert service.exists(f"{STATE}/outbox")
    service.service("install")
    service.until_joined()
    service.service("uninstall", "--purge")
    assert not service.exists(STATE)
    assert not service.exists("/var/lib/edgejoule")


def test_a_limit_of_memory_is_kept_by_the_kernel_and_before_that_by_the_daemon(service: Deployed) -> None:
    service.configure(memory_max_mb=64)
    service.service("install", check=False)
    assert service.show("MemoryMax") == str(64 << 20)
    # 64 MB do not hold the daemon: its own guard ends it with a reason, or the kernel kills it; systemd tries again.
    service.until(lambda: int(service.show("NRestarts")) >= 1, "it is started again")
    said = " ".join(str(row["MESSAGE"]) for row in service.journal())
    assert "memory: " in said or "oom" in said.lower(), said[-2000:]
