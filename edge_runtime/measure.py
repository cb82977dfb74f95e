"""The joules of a period or of a command, by any meter.

The time measured is one phase of the meter, from just before the command starts until its end is noticed (its SIGCHLD
ends the waiting). Joules are those of the whole board meanwhile, not of the command alone.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.power.meter import Meter, MeterIdentity, ShowsPower
from edge_runtime.signal_queue import SignalQueue
from protos.energy import Phase, PhaseEnergy
from protos.errors import UsageError

__all__ = ["Glance", "Measurement", "measure"]

_MEASURED = Phase.TRAIN
"""Any phase but idle would do: a meter adds up what is not idle while it goes on."""
GLANCE_S = 0.2

Ended = Literal["time", "command", "interrupt"]


@dataclass(frozen=True, slots=True)
class Glance:
    """What is known while measuring: seconds so far, joules so far, watts now (None: unknown)."""

    seconds: float
    energy_j: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured.

    Args:
        energy: joules with coverage, method, uncertainty and flags.
        identity: who measured.
        peak_w: largest sample, W; None when there was none (an estimate has none).
        ended: what ended it.
        command: the words of the command, None for a period.
        exit_code: the command's, 128 + n for one that signal n ended; None for a period.
    """

    energy: PhaseEnergy
    identity: MeterIdentity
    peak_w: float | None
    ended: Ended
    command: tuple[str, ...] | None
    exit_code: int | None

    @property
    def duration_s(self) -> float:
        """Seconds from beginning to end."""
        return self.energy.covered_s + self.energy.uncovered_s

    @property
    def mean_w(self) -> float | None:
        """Mean power of the covered seconds."""
        joules, seconds = self.energy.energy_j, self.energy.covered_s
        return joules / seconds if joules is not None and seconds > 0 else None

    def as_json(self) -> dict[str, Any]:
        """The figures by name; unknown ones are None."""
        energy = self.energy
        return {
            "schema": "edgejoule.measurement/1",
            "energy_j": energy.energy_j,
            "uncertainty_j": energy.uncertainty_j,
            "mean_w": self.mean_w,
            "peak_w": self.peak_w,
            "duration_s": self.duration_s,
            "covered_s": energy.covered_s,
            "uncovered_s": energy.uncovered_s,
            "coverage": energy.coverage,
            "method": energy.method,
            "sensor": energy.sensor,
            "calibration_id": self.identity.calibration_id,
            "quality": self.identity.quality,
            "flags": list(energy.flags),
            "budget": {term.name: term.standard_j for term in energy.budget},
            "ended_by": self.ended,
            "command": None if self.command is None else list(self.command),
            "exit_code": self.exit_code,
        }


def measure(
    meter: Meter,
    signals: SignalQueue,
    *,
    for_s: float | None = None,
    command: Sequence[str] = (),
    command_stdout: int | None = None,
    show: Callable[[Glance], None] | None = None,
) -> Measurement:
    """Measure until ``for_s`` seconds have passed, the command has ended, or, without a command, a signal comes.

    A signal that was sent to this process alone is passed on to the command. ``command_stdout`` is a file descriptor
    for the command's stdout; None lets it share ours.

    Raises:
        UsageError: the command cannot be started.
    """
    meter.start()
    meter.mark(_MEASURED)
    begun_s = time.monotonic()
    child = _start(command, signals, command_stdout) if command else None
    try:
        ended = _wait(meter, signals, begun_s, for_s, child, show)
    except BaseException:
        if child is not None:
            child.kill()
            child.wait()
        raise
    meter.mark(Phase.IDLE)
    parts = {part.phase: part for part in meter.settle()}
    code = None if child is None else child.returncode
    return Measurement(
        parts[_MEASURED],
        meter.identity,
        meter.peak_w if isinstance(meter, ShowsPower) else None,
        ended,
        tuple(command) if command else None,
        128 - code if code is not None and code < 0 else code,
    )


def _start(command: Sequence[str], signals: SignalQueue, stdout: int | None) -> subprocess.Popen[bytes]:
    try:
        with signals.starting_a_child():
            return subprocess.Popen(list(command), stdout=stdout)
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or str(cause)
        raise UsageError(f"cannot be started: {why}", where=command[0], fix="check the command behind --") from cause


def _wait(
    meter: Meter,
    signals: SignalQueue,
    begun_s: float,
    for_s: float | None,
    child: subprocess.Popen[bytes] | None,
    show: Callable[[Glance], None] | None,
) -> Ended:
    shown_s, shown_j = begun_s, 0.0
    while True:
        if child is not None and child.poll() is not None:
            return "command"
        now_s = time.monotonic()
        left_s = GLANCE_S if for_s is None else begun_s + for_s - now_s
        if left_s <= 0:
            return "time"
        if show is not None and now_s - shown_s >= GLANCE_S:
            spent_j = meter.spent_j()
            watts = (
                meter.power_w
                if isinstance(meter, ShowsPower)
                else None
                if spent_j is None
                else (spent_j - shown_j) / (now_s - shown_s)
            )
            show(Glance(now_s - begun_s, spent_j, watts))
            shown_s, shown_j = now_s, spent_j or 0.0
        asked = signals.wait(min(GLANCE_S, left_s))
        if asked is None:
            continue
        if child is None:
            return "interrupt"
        if not asked.from_terminal:
            child.send_signal(asked.number)
