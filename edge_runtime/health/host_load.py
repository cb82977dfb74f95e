"""How much of the processor other programs use.

The load average counts this process too, and pressure (``/proc/pressure/cpu``) says that somebody waits without saying
whose work it waits for; Raspberry Pi OS starts with it off besides. So: the processor's busy time in ``/proc/stat``
less what this process used, as a share of all cores (proc(5): user, nice, system, idle, iowait, irq, softirq, steal, in
ticks; waiting for a disk is idle time). Time that a hypervisor gave away counts as used by others: it is gone as well.
Programs that this process starts count as others; it starts few, and none while it trains.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["SMOOTHING_S", "HostLoad"]

SMOOTHING_S = 5.0
"""Time constant of the mean: a program that starts and ends within a second is no busy host."""
_FIELDS = 8
_IDLE = (3, 4)


class HostLoad:
    """A mean over the last seconds.

    Args:
        proc: ``/proc``, or a folder like it.
        own_cpu_s: processor time that this process has used, seconds.
        tick_hz: ticks in a second.
    """

    def __init__(self, proc: Path, own_cpu_s: Callable[[], float], *, tick_hz: float | None = None) -> None:
        self._stat, self._own_cpu_s = proc / "stat", own_cpu_s
        self._tick_hz = tick_hz or float(os.sysconf("SC_CLK_TCK"))
        self._last: tuple[int, int, float, float] | None = None
        self._share: float | None = None

    def read(self, now_s: float) -> float | None:
        """Share of all cores that others use, 0 to 1; None before the second reading and where it is not told."""
        counted = self._counted()
        if counted is None:
            self._last = self._share = None
            return None
        busy, total, own_s = *counted, self._own_cpu_s()
        last, self._last = self._last, (busy, total, own_s, now_s)
        if last is None or total <= last[1]:
            return self._share
        others = (busy - last[0] - (own_s - last[2]) * self._tick_hz) / (total - last[1])
        others = min(1.0, max(0.0, others))
        keep = math.exp(-max(0.0, now_s - last[3]) / SMOOTHING_S)
        self._share = others if self._share is None else keep * self._share + (1.0 - keep) * others
        return self._share

    def _counted(self) -> tuple[int, int] | None:
        """Busy ticks and all ticks since the start of the machine."""
        try:
            with self._stat.open() as file:
                words = file.readline().split()
            ticks = [int(word) for word in words[1 : 1 + _FIELDS]]
        except (OSError, ValueError):
            return None
        if not words or words[0] != "cpu" or len(ticks) < _FIELDS:
            return None
        total = sum(ticks)
        return total - sum(ticks[at] for at in _IDLE), total
