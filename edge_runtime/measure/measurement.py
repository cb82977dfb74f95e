"""The joules of a period or of a command, by any meter.

The time measured is one phase of the meter, from just before the command starts until its end is noticed (its SIGCHLD
ends the waiting). Joules are those of the whole board meanwhile, not of the command alone. With a baseline the board is
measured at rest before and after, and what it would have needed anyway is taken off.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge_runtime.measure.period import MeasuredPeriod, PeriodMeter
from edge_runtime.measure.signal_queue import SignalQueue
from edge_runtime.power.meters.meter import MeterIdentity, ShowsPower
from protos.errors import UsageError

__all__ = ["AFTER", "BEFORE", "INCOMPLETE", "MAIN", "Ended", "Glance", "Measurement", "measure"]

BEFORE, MAIN, AFTER = "idle-before", "measured", "idle-after"
"""Names of the periods, in the JSON and in a recording."""
INCOMPLETE = "recording-incomplete"
"""Flag of a measurement whose recording ended before it."""
GLANCE_S = 0.2

Ended = Literal["time", "command", "interrupt", "recording"]


@dataclass(frozen=True, slots=True)
class Glance:
    """What is known while measuring: period, seconds so far, joules so far, watts now (None: unknown)."""

    name: str
    seconds: float
    energy_j: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured.

    Args:
        main: the period or command itself, gross.
        identity: who measured.
        ended: what ended it.
        command: the words of the command, None for a period.
        exit_code: the command's, 128 + n for one that signal n ended; None for a period.
        before: the board at rest before; None without a baseline.
        after: the board at rest after; None without a baseline, or after a SIGTERM.
    """

    main: MeasuredPeriod
    identity: MeterIdentity
    ended: Ended
    command: tuple[str, ...] | None
    exit_code: int | None
    before: MeasuredPeriod | None = None
    after: MeasuredPeriod | None = None

    def flagged(self, word: str) -> Measurement:
        """The same with one more flag on its energy."""
        energy = self.main.energy
        return replace(self, main=replace(self.main, energy=replace(energy, flags=(*energy.flags, word))))

    @property
    def periods(self) -> tuple[MeasuredPeriod, ...]:
        """Every period, in order of time."""
        return tuple(period for period in (self.before, self.main, self.after) if period is not None)


def measure(
    meter: PeriodMeter,
    signals: SignalQueue,
    *,
    for_s: float | None = None,
    command: Sequence[str] = (),
    command_stdout: int | None = None,
    baseline_s: float | None = None,
    show: Callable[[Glance], None] | None = None,
) -> Measurement:
    """Measure until ``for_s`` seconds have passed, the command has ended, or, without a command, a signal comes.

    A signal that was sent to this process alone is passed on to the command; a second SIGTERM kills it.
    ``command_stdout`` is a file descriptor for the command's stdout; None lets it share ours. With ``baseline_s`` the
    board is measured at rest for so long before and after: a signal during the first ends everything, one during the
    second ends that alone, and after a SIGTERM there is no second.

    Raises:
        UsageError: the command cannot be started.
        KeyboardInterrupt: a signal came during the first baseline.
    """
    before = after = None
    if baseline_s is not None:
        before, stop = _period(meter, signals, BEFORE, baseline_s, show)
        if stop.ended == "interrupt":
            raise KeyboardInterrupt
    child = None
    if command:
        meter.begin(MAIN)
        child = _start(command, signals, command_stdout)
        try:
            stop = _wait(meter, MAIN, signals, None, child, show)
        except BaseException:
            child.kill()
            child.wait()
            raise
        main = meter.end()
    else:
        main, stop = _period(meter, signals, MAIN, for_s, show)
    if baseline_s is not None and not stop.terminated:
        after, _ = _period(meter, signals, AFTER, baseline_s, show)
    code = None if child is None else child.returncode
    code = 128 - code if code is not None and code < 0 else code
    words = tuple(command) if command else None
    meter.fact({"ended": stop.ended, "command": None if words is None else list(words), "exit_code": code})
    return Measurement(main, meter.meter.identity, stop.ended, words, code, before, after)


@dataclass(frozen=True, slots=True)
class _Stop:
    """What ended a period, and whether a SIGTERM was among it: then nothing more is measured."""

    ended: Ended
    terminated: bool = False


def _period(
    meter: PeriodMeter, signals: SignalQueue, name: str, for_s: float | None, show: Callable[[Glance], None] | None
) -> tuple[MeasuredPeriod, _Stop]:
    meter.begin(name)
    stop = _wait(meter, name, signals, for_s, None, show)
    return meter.end(), stop


def _start(command: Sequence[str], signals: SignalQueue, stdout: int | None) -> subprocess.Popen[bytes]:
    try:
        with signals.starting_a_child():
            return subprocess.Popen(list(command), stdout=stdout)
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or str(cause)
        raise UsageError(f"cannot be started: {why}", where=command[0], fix="check the command behind --") from cause


def _wait(
    meter: PeriodMeter,
    name: str,
    signals: SignalQueue,
    for_s: float | None,
    child: subprocess.Popen[bytes] | None,
    show: Callable[[Glance], None] | None,
) -> _Stop:
    begun_s = shown_s = time.monotonic()
    shown_j, terms = 0.0, 0
    while True:
        if child is not None and child.poll() is not None:
            return _Stop("command", terms > 0)
        now_s = time.monotonic()
        left_s = GLANCE_S if for_s is None else begun_s + for_s - now_s
        if left_s <= 0:
            return _Stop("time")
        if show is not None and now_s - shown_s >= GLANCE_S:
            spent_j = meter.meter.spent_j()
            watts = (
                meter.meter.power_w
                if isinstance(meter.meter, ShowsPower)
                else None
                if spent_j is None
                else (spent_j - shown_j) / (now_s - shown_s)
            )
            show(Glance(name, now_s - begun_s, spent_j, watts))
            shown_s, shown_j = now_s, spent_j or 0.0
        asked = signals.wait(min(GLANCE_S, left_s))
        if asked is None:
            continue
        if child is None:
            return _Stop("interrupt", asked.number is signal.SIGTERM)
        if not asked.from_terminal:
            terms += asked.number is signal.SIGTERM
            child.send_signal(signal.SIGKILL if terms > 1 else asked.number)
