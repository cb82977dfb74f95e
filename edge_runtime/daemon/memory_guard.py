"""The daemon's own limit of memory: it ends its round cleanly, and is started again, before the kernel has to act.

``MemoryMax=`` alone is not enough. Raspberry Pi OS boots with the memory controller off, and systemd then ignores the
limit without a word. Where it does work, it kills in the middle of a step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.daemon.stopping import Stopping
from edge_runtime.systemd.logging_setup import log
from protos.errors import CheckFailed

SHARE = 0.9
"""The guard acts at this part of the limit; the rest is for coding and sending what was trained."""
ROOM = 0.7
"""Below this part of it there is room for another round."""
_EVERY_S = 1.0


def resident_bytes(table: Path = Path("/proc/self/statm")) -> int | None:
    """Memory of this process that is in RAM, bytes (proc(5): second number, in pages), or None when not told."""
    try:
        return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class MemoryGuard:
    """Asks the daemon to stop when it holds too much.

    Args:
        limit_mb: MiB of the setting ``memory_max_mb``, or None for no limit.
        stopping: gets the request.
        resident: bytes now.
        now_s: a monotonic clock; memory is looked at once a second at most.
    """

    def __init__(
        self,
        limit_mb: int | None,
        stopping: Stopping,
        *,
        resident: Callable[[], int | None] = resident_bytes,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_mb, self._stopping, self._resident, self._now_s = limit_mb, stopping, resident, now_s
        self._next_s = now_s()
        self._found_mb: float | None = None

    @property
    def found_too_much(self) -> bool:
        """Whether the guard asked for a stop."""
        return self._found_mb is not None

    def has_room(self) -> bool:
        """Whether so little is in use now that work can go on for a while."""
        resident = self._resident()
        return self._limit_mb is None or resident is None or resident < ROOM * self._limit_mb * (1 << 20)

    def look(self) -> None:
        """Compare, and request a stop when it is too much. Cheap enough to be asked before each step."""
        if self._limit_mb is None or self._stopping.requested or self._now_s() < self._next_s:
            return
        self._next_s = self._now_s() + _EVERY_S
        resident = self._resident()
        if resident is not None and resident >= SHARE * self._limit_mb * (1 << 20):
            self._found_mb = resident / (1 << 20)
            log().error("memory: %.0f MB of %d MB are in use; ending the round", self._found_mb, self._limit_mb)
            self._stopping.request("memory limit")

    def verdict(self) -> None:
        """Call when all is given back.

        Raises:
            CheckFailed: the guard asked for the stop, so that whoever watches starts the daemon again.
        """
        if self._found_mb is not None:
            raise CheckFailed(
                f"{self._found_mb:.0f} MB were in use, and the daemon ends at {SHARE:.0%} of {self._limit_mb} MB",
                where="memory_max_mb",
                fix="raise it, or use fewer examples (--shard K/N)",
            )
