"""systemd as the rooms of the service ask it: words in, answers out."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.service.unit import NAME
from protos.errors import EdgejouleError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SHOWN = (
    "ActiveState", "StatusText", "MainPID", "NRestarts", "Result", "ExecMainStatus", "Job",
    "ActiveEnterTimestampMonotonic", "WatchdogTimestampMonotonic",
)  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """The service at one moment.

    Attributes:
        active: of systemd, such as "active", "activating", "failed".
        says: its status line.
        restarts: by systemd, since somebody started it.
        busy: a start or stop is under way or in the queue.
        ready_s, fed_s: CLOCK_MONOTONIC of READY=1 and of the last WATCHDOG=1; 0 when there was none.
    """

    active: str
    says: str
    pid: int
    restarts: int
    result: str
    exit_code: int
    busy: bool
    ready_s: float
    fed_s: float


class Systemd:
    """The manager of this machine."""

    def __init__(self, boot_id: Path = _BOOT_ID) -> None:
        self._boot_id = boot_id

    def call(self, *words: str) -> None:
        """``systemctl`` with those words.

        Raises:
            EdgejouleError: it failed.
        """
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise EdgejouleError(said[0], where=" ".join(("systemctl", *words)))

    def ask(self, *words: str) -> str:
        """What ``systemctl`` prints for those words, whatever it thinks of it."""
        return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False).stdout.strip()

    def sight(self) -> Sight:
        """The service now."""
        return seen(self.ask("show", NAME, f"--property={','.join(_SHOWN)}"))

    def going_down(self) -> bool:
        """Whether the machine shuts down."""
        return self.ask("is-system-running") == "stopping"

    def boot_id(self) -> str:
        return self._boot_id.read_text().strip()

    def boottime_s(self) -> float:
        """Seconds of this boot, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic_s(self) -> float:
        """Seconds on the clock that :class:`Sight` uses."""
        return time.monotonic()


def seen(shown: str) -> Sight:
    """The output of ``systemctl show``: KEY=VALUE lines. A key that is missing counts as 0 or empty."""
    given = dict(line.partition("=")[::2] for line in shown.splitlines())

    def number(key: str) -> int:
        return int(given[key]) if given.get(key, "").isdecimal() else 0

    return Sight(
        active=given.get("ActiveState", ""),
        says=given.get("StatusText", ""),
        pid=number("MainPID"),
        restarts=number("NRestarts"),
        result=given.get("Result", ""),
        exit_code=number("ExecMainStatus"),
        busy=number("Job") != 0,
        ready_s=number("ActiveEnterTimestampMonotonic") / 1e6,
        fed_s=number("WatchdogTimestampMonotonic") / 1e6,
    )
