"""edgejoule on a board: installed, configured, and asked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hw_tests.boards.board import Board, BoardError
from hw_tests.boards.station import Station
from hw_tests.boards.wheels import Defects, copy_tree, needed_wheels, tree_wheel

ENVIRONMENT = "/opt/edgejoule"
WHEELS = "/opt/edgejoule-wheels"
STATE = "/var/lib/private/edgejoule"
VERSIONS = "/usr/local/lib/edgejoule"
UNIT = "edge-runtime.service"
_DROP_INS = f"/etc/systemd/system/{UNIT}.d"
_CONFIG = "/etc/edgejoule/device.toml"
_DATA = "/srv/edgejoule/fleet.npz"
# A safety net: nothing here is a measure of speed.
PATIENCE_S = 120.0


class Deployed:
    """The base install of this tree on a board, in a virtual environment of its own.

    Args:
        scratch: gets the wheels that are made.

    Raises:
        NoBoard: wheels cannot be had.
    """

    program = f"{ENVIRONMENT}/bin/edge-runtime"

    def __init__(self, board: Board, station: Station, scratch: Path) -> None:
        self.board, self.station, self._scratch = board, station, scratch
        machine = board.run("uname", "-m").stdout.strip()
        board.put(needed_wheels(machine), WHEELS)
        # Every wheel of a session is of the same tree, whatever is edited meanwhile.
        self._tree = copy_tree(scratch / "tree")
        wheel = tree_wheel(scratch, self._tree)
        board.put(wheel, f"/opt/{wheel.name}")
        board.put(station.data, _DATA)
        board.run("rm", "-rf", ENVIRONMENT)
        board.run("python3", "-m", "venv", ENVIRONMENT)
        pip = (f"{ENVIRONMENT}/bin/pip", "install", "--quiet", "--no-index", "--find-links", WHEELS)
        board.run(*pip, f"/opt/{wheel.name}", timeout_s=900.0)

    def configure(self, **changes: str | int | float) -> None:
        """Write the settings; keys of ``changes`` win."""
        values: dict[str, str | int | float] = {
            "coordinator": self.station.address, "device_id": "board-1", "data": _DATA, "sensor": "estimate:pi4",
            "watchdog_s": 30, "memory_max_mb": 256, "require_delegate": "xnnpack", **changes,
        }  # fmt: skip
        file = self._scratch / "device.toml"
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        self.board.put(file, _CONFIG)

    def wheel(self, version: str, defects: Defects | None = None) -> str:
        """A wheel of this tree on the board, with that version and those defects; its path there."""
        made = self.wheel_here(version, defects)
        target = f"/opt/{made.name}"
        self.board.put(made, target)
        return target

    def wheel_here(self, version: str, defects: Defects | None = None) -> Path:
        """Such a wheel on this machine, for who brings it to the board."""
        return tree_wheel(self._scratch, self._tree, version=version, defects=defects)

    def service(
        self, *words: str, check: bool = True, timeout_s: float = 600.0, program: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``edge-runtime service`` with those words."""
        return self.board.run(program or self.program, "service", *words, check=check, timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        """``service status --json``."""
        return dict(json.loads(self.service("status", "--json", check=False).stdout))

    def drop_in(self, line: str) -> None:
        """Change a directive of the service as its owner would, by a drop-in; gone with :meth:`purge`."""
        file = self._scratch / "test.conf"
        file.write_text(f"[Service]\n{line}\n")
        self.board.put(file, f"{_DROP_INS}/test.conf")
        self.board.run("systemctl", "daemon-reload")

    def show(self, key: str, unit: str = UNIT) -> str:
        """A property of a unit."""
        return self.board.run("systemctl", "show", unit, f"--property={key}", "--value").stdout.strip()

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def until(self, holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
        """Wait until something holds; seconds that it took.

        Raises:
            BoardError: it does not come to hold.
        """
        start_s = time.monotonic()
        while not holds():
            if time.monotonic() - start_s > patience_s:
                lines = self.board.run("journalctl", "-b", "-n", "40", "--no-pager", check=False).stdout
                raise BoardError(f"{what}: not within {patience_s:g} s; the service: {self.status()}\n{lines}")
            time.sleep(0.2)
        return time.monotonic() - start_s

    def until_joined(self, pid_before: int = 0) -> int:
        """Wait until a daemon other than that one was answered by the coordinator; its process id."""
        pid = 0

        def joined() -> bool:
            nonlocal pid
            told = self.vitals()
            pid = int(told.get("pid") or 0)
            return pid not in (0, pid_before) and told["answered_s"] is not None and pid == self.pid()

        self.until(joined, "the daemon joins")
        return pid

    def vitals(self) -> Mapping[str, Any]:
        """What the daemon shows of itself; empty when it shows nothing."""
        done = self.board.run("cat", "/run/edgejoule/vitals.json", check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Entries of the service's journal, oldest first."""
        words = ("journalctl", "-u", UNIT, "-o", "json", "--no-pager", *matches)
        return [json.loads(line) for line in self.board.run(*words).stdout.splitlines()]

    def exists(self, path: str) -> bool:
        return self.board.run("test", "-e", path, check=False).returncode == 0

    def purge(self) -> None:
        """No service, no state, no versions. Only what this class put there may be removed by it."""
        self.service("uninstall", "--purge")
        self.board.run("systemctl", "stop", "edge-runtime-trial.service", check=False)
        self.board.run("rm", "-rf", VERSIONS, _DROP_INS)
        self.board.run("systemctl", "daemon-reload")

    def finished(self, name: str) -> bool:
        """Whether the run of that name is over.

        Raises:
            BoardError: it ended otherwise than by finishing.
        """
        (run,) = [row for row in self.station.runs() if row["name"] == name]
        if run["state"] not in ("running", "waiting", "finished", "starting"):
            raise BoardError(f"run {name} is {run['state']}: {run}")
        return bool(run["state"] == "finished")
