"""Pauses between two pieces of work, while the board is too hot or others need it.

Rules kept here:

* A pause begins and ends between pieces, never inside one. What it costs is idle energy, and is marked so.
* It has an end that is known when it begins: ``max_pause_s``, or the end of the round. Work ends then, with what there
  is.
* Each turn of the wait is progress, as in every other wait; a request to stop ends it.
* It is told twice, when it begins and when it ends: in the log, and to the service manager.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edge_runtime.config import Settings
from edge_runtime.health.condition import EVERY_S, Condition, Watch
from edge_runtime.health.limits import Judge, Limits
from edge_runtime.power.clock import Clock
from edge_runtime.systemd.journal import facts
from edge_runtime.systemd.logging_setup import log
from protos.energy.trace import Phase
from protos.orders import StopReason, Strain

__all__ = ["Pauses", "in_words", "open_pauses"]


class Pauses:
    """What a round asks before each piece; one for the life of a daemon.

    Args:
        judge: when to pause.
        look: the board's condition.
        now_s: a monotonic clock.
        wait: waits so many seconds; True when a stop is requested.
        tell: takes one line for the service manager.
    """

    def __init__(
        self,
        judge: Judge,
        look: Callable[[], Condition],
        *,
        now_s: Callable[[], float],
        wait: Callable[[float], bool],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._judge, self._look, self._now_s, self._wait, self._tell = judge, look, now_s, wait, tell
        self._mark: Callable[[Phase], None] = lambda phase: None
        self._phase, self._doing = Phase.IDLE, ""
        self._seconds = {StopReason.HEAT: 0.0, StopReason.BUSY: 0.0}
        self._hottest_c: float | None = None
        self._slowed = self._sagged = self._working = False
        self._fit_to_s = -math.inf

    def begin(self, mark: Callable[[Phase], None], doing: str) -> None:
        """A round begins: count anew.

        Args:
            mark: the meter's.
            doing: what the service manager is told when a pause has ended.
        """
        self._mark, self._doing = mark, doing
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._hottest_c = None
        self._slowed = self._sagged = self._working = False
        self._fit_to_s = -math.inf

    def working(self, phase: Phase) -> None:
        """Mark a phase, and come back to it after a pause."""
        self._phase = phase
        self._mark(phase)

    @property
    def paused_s(self) -> float:
        """Seconds of this round."""
        return sum(self._seconds.values())

    def ended(self) -> Strain:
        """The work of this round has just ended: what it had to bear."""
        self._see(during_work=self._working)
        heat_s, busy_s = self._seconds[StopReason.HEAT], self._seconds[StopReason.BUSY]
        return Strain(heat_s, busy_s, self._hottest_c, throttled=self._slowed, under_voltage=self._sagged)

    def until_fit(self, end_s: float) -> StopReason | None:
        """Wait until the board may work: None. Or why it may not: HEAT or BUSY for too long, or SHUTDOWN.

        Args:
            end_s: when the round has to end, on the clock.
        """
        now_s = self._now_s()
        if now_s < self._fit_to_s:
            # Asked before each step, and a step may take less than it takes to look.
            return None
        condition = self._see(during_work=self._working)
        cause = self._judge(condition, now_s)
        if cause is not None:
            cause = self._pause(cause, condition, now_s, min(end_s, now_s + self._judge.limits.max_pause_s))
        self._working = cause is None
        self._fit_to_s = self._now_s() + EVERY_S
        return cause

    def _pause(self, cause: StopReason, seen: Condition, begin_s: float, end_s: float) -> StopReason | None:
        words = in_words(cause, seen, self._judge.limits)
        more = facts(pause=cause, temperature=seen.temperature_c)
        log().warning("paused for at most %.0f s: %s", max(0.0, end_s - begin_s), words, extra=more)
        self._tell(f"paused: {words}")
        self._mark(Phase.IDLE)
        still: StopReason | None = cause
        turn_s = now_s = begin_s
        try:
            while still is not None and now_s < end_s:
                stopping = self._wait(min(EVERY_S, end_s - now_s))
                now_s = self._now_s()
                self._seconds[still] += now_s - turn_s
                turn_s = now_s
                if stopping:
                    return StopReason.SHUTDOWN
                seen = self._see(during_work=False)
                still = self._judge(seen, now_s)
        finally:
            self._mark(self._phase)
        more = facts(pause=cause, paused=now_s - begin_s, temperature=seen.temperature_c)
        if still is not None:
            words = in_words(still, seen, self._judge.limits)
            log().warning("training ends after a pause of %.0f s: %s", now_s - begin_s, words, extra=more)
            return still
        warm = "" if seen.temperature_c is None else f", at {seen.temperature_c:.1f} degrees"
        log().info("work goes on after a pause of %.0f s%s", now_s - begin_s, warm, extra=more)
        self._tell(self._doing)
        return None

    def _see(self, *, during_work: bool) -> Condition:
        """Look. What is seen before the first piece, or in a pause, says nothing of the joules of the work."""
        seen = self._look()
        known = [value for value in (self._hottest_c, seen.temperature_c) if value is not None]
        self._hottest_c = max(known, default=None)
        if during_work:
            self._tell_first(seen)
            self._slowed = self._slowed or seen.throttling.slowed
            self._sagged = self._sagged or seen.throttling.under_voltage
        return seen

    def _tell_first(self, seen: Condition) -> None:
        """Once in a round each: joules per step of such a round are not the usual ones."""
        if seen.throttling.under_voltage and not self._sagged:
            log().warning("the supply's voltage is too low; use a stronger supply or a shorter cable")
        if seen.throttling.slowed and not self._slowed:
            more = facts(temperature=seen.temperature_c)
            log().warning("the clock of the processor is held down; joules of this round are not typical", extra=more)


def in_words(cause: StopReason, seen: Condition, limits: Limits) -> str:
    """Why, and what is waited for."""
    if cause is StopReason.BUSY:
        share = "others" if seen.others_share is None else f"others use {seen.others_share:.0%} of the processor"
        return f"busy, {share}"
    hot = [f"{seen.temperature_c:.1f} degrees"] if seen.temperature_c is not None else []
    if seen.edge_tpu_c is not None and seen.edge_tpu_c >= seen.edge_tpu_limit_c:
        hot.append(f"Edge TPU {seen.edge_tpu_c:.1f} degrees")
    if seen.throttling.slowed_by_heat:
        hot.append("its clock is held down")
    return f"too hot, {', '.join(hot) or 'no reading'}; goes on below {limits.resume_below_c:g} degrees"


def open_pauses(
    settings: Settings, clock: Clock, *, wait: Callable[[float], bool], tell: Callable[[str], None]
) -> Pauses:
    """The pauses that the settings ask for, on the machine that they name. Arguments are those of :class:`Pauses`."""
    share = None if settings.pause_when_busy is None else settings.pause_when_busy / 100.0
    watch = Watch(
        settings.machine_root,
        now_s=clock.monotonic,
        own_cpu_s=clock.process_time,
        throttled_from=settings.throttled_from,
        load=share is not None,
    )
    limits = Limits(settings.pause_above_c, settings.resume_below_c, share, settings.max_pause_s)
    return Pauses(Judge(limits), watch.look, now_s=clock.monotonic, wait=wait, tell=tell)
