"""Loads for the simulated sensor: each knows the joules it has drawn up to any instant.

A load answers ``energy_j(t)``, the integral of its power, at any instants up to its last ``poll``. So the mean
over a conversion window is an exact difference, and the truth that a measurement is compared with has no error of
its own. Times are seconds on the host's monotonic clock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protos.energy.boards import BoardProfile
from protos.errors import UsageError

__all__ = ["ConstantLoad", "Load", "ProcessLoad", "SquareLoad", "parse_load"]

Floats = npt.NDArray[np.float64]


class Load(Protocol):
    """Joules drawn since some instant, as a function of time."""

    @property
    def known_from_s(self) -> float:
        """The earliest instant that ``energy_j`` still answers exactly."""
        ...

    def poll(self, now_s: float) -> None:
        """Look at the world; afterwards ``energy_j`` is known up to ``now_s``."""
        ...

    def energy_j(self, t_s: Any) -> Floats:
        """Joules drawn up to each instant; float64 of the shape of ``t_s``."""
        ...


class ConstantLoad:
    """The same power for ever."""

    known_from_s = float("-inf")

    def __init__(self, power_w: float) -> None:
        self.power_w = power_w

    def poll(self, now_s: float) -> None:
        return None

    def energy_j(self, t_s: Any) -> Floats:
        return self.power_w * np.asarray(t_s, np.float64)


class SquareLoad:
    """``high_w`` for ``duty`` of each ``period_s``, then ``low_w``."""

    known_from_s = float("-inf")

    def __init__(self, low_w: float, high_w: float, period_s: float, duty: float = 0.5) -> None:
        self.low_w, self.high_w, self.period_s, self.duty = low_w, high_w, period_s, duty

    def poll(self, now_s: float) -> None:
        return None

    def energy_j(self, t_s: Any) -> Floats:
        t = np.asarray(t_s, np.float64)
        periods = np.floor(t / self.period_s)
        into = t - periods * self.period_s
        high_s = periods * self.duty * self.period_s + np.minimum(into, self.duty * self.period_s)
        joules: Floats = self.low_w * t + (self.high_w - self.low_w) * high_s
        return joules


class ProcessLoad:
    """A board whose power follows the CPU time of one process, all of its threads: ``idle + cpu_w * cores``.

    The process CPU clock is read in nanoseconds through ``clock_gettime``: the id of a process's clock is
    ``(~pid << 3) | 2`` (Linux, ``posix-timers``). Between two polls the power is constant. A process that is gone
    draws idle power; with a pid file the next pid is picked up. Children are other processes and are not seen.
    """

    KEEP = 4096

    def __init__(
        self, board: BoardProfile, *, pid: int | None = None, pid_file: Path | None = None, now_s: float | None = None
    ) -> None:
        self._board, self._pid, self._pid_file = board, pid, pid_file
        self._clock_id: int | None = None
        self._cpu_ns = 0
        start = time.monotonic() if now_s is None else now_s
        self._look_again_s = start
        self._times, self._joules = [start], [0.0]
        self._find(start)

    @property
    def known_from_s(self) -> float:
        return self._times[0]

    def poll(self, now_s: float) -> None:
        elapsed = now_s - self._times[-1]
        if elapsed <= 0:
            return
        busy = 0.0
        if self._clock_id is not None:
            try:
                cpu_ns = time.clock_gettime_ns(self._clock_id)
            except OSError:
                self._clock_id = None
            else:
                # The clock is read a little after ``now_s``: what cannot have been used by then is left for later.
                used_ns = min(max(0, cpu_ns - self._cpu_ns), int(elapsed * self._board.cores * 1e9))
                busy = used_ns * 1e-9 / elapsed
                self._cpu_ns += used_ns
        elif now_s >= self._look_again_s:
            self._find(now_s)
        self._times.append(now_s)
        self._joules.append(self._joules[-1] + self._board.power_w(busy) * elapsed)
        if len(self._times) > self.KEEP:
            del self._times[: self.KEEP // 2], self._joules[: self.KEEP // 2]

    def energy_j(self, t_s: Any) -> Floats:
        """As :meth:`Load.energy_j`; the last 2,048 polls are kept, earlier instants read as the first of them."""
        t = np.asarray(t_s, np.float64)
        # Only the knots around the instants asked for: a long history must not be converted for each batch.
        first = max(0, len(self._times) - 64)
        if t.size and first and float(t.min()) < self._times[first]:
            first = 0
        return np.asarray(np.interp(t, self._times[first:], self._joules[first:]), np.float64)

    def _find(self, now_s: float) -> None:
        """Read the pid file, if that is how the process is named, and begin to follow the process."""
        self._look_again_s = now_s + 0.25
        pid = self._pid
        if self._pid_file is not None:
            try:
                pid = int(self._pid_file.read_text().strip())
            except (OSError, ValueError):
                return
        if not pid or pid < 1:
            return
        clock_id = (~pid << 3) | 2
        try:
            self._cpu_ns = time.clock_gettime_ns(clock_id)
        except OSError:
            return
        self._clock_id = clock_id


def parse_load(text: str, board: BoardProfile, *, pid: int | None, pid_file: Path | None) -> Load:
    """The load that ``text`` names: ``cpu``, ``idle``, ``constant:W`` or ``square:LOW_W,HIGH_W,PERIOD_S[,DUTY]``.

    Raises:
        UsageError: the text is none of these, or ``cpu`` without a process.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "cpu" and not rest:
            if pid is None and pid_file is None:
                raise UsageError("the cpu load needs a process", where="--load", fix="give --pid or --pid-file")
            return ProcessLoad(board, pid=pid, pid_file=pid_file)
        if kind == "idle" and not rest:
            return ConstantLoad(board.idle_w)
        numbers = [float(part) for part in rest.split(",")]
        if kind == "constant" and len(numbers) == 1 and numbers[0] >= 0:
            return ConstantLoad(numbers[0])
        if kind == "square" and len(numbers) in (3, 4) and min(numbers) >= 0 and numbers[2] > 0:
            return SquareLoad(*numbers)
    except UsageError:
        raise
    except ValueError:
        pass
    raise UsageError(
        f"unknown load {text!r}",
        where="--load",
        fix="use cpu, idle, constant:WATTS or square:LOW_W,HIGH_W,PERIOD_S[,DUTY]",
    )
