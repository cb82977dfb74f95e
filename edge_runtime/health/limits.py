"""When to pause, and when to go on: each has a limit of its own, so that a board at its limit does not stutter.

* Too hot from ``pause_above_c`` on, cool again at ``resume_below_c``. An Edge TPU has the limit of its driver.
* A clock that is held down counts as too hot as long as the board is not cool. Held down for want of voltage it does
  not: waiting gives no better supply.
* Busy when others use more than ``pause_when_busy`` of all cores, free again at three quarters of that.
* A pause lasts a few seconds at least.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.health.condition import Condition
from protos.orders import StopReason

__all__ = ["FREE_SHARE", "LEAST_PAUSE_S", "MARGIN_C", "Judge", "Limits"]

MARGIN_C = 5.0
"""Between stopping and going on, when the settings do not say."""
FREE_SHARE = 0.75
LEAST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings allow.

    Attributes:
        pause_above_c: degrees Celsius; 0: heat is no reason to pause.
        resume_below_c: degrees Celsius, below the other.
        pause_when_busy: share of all cores, 0 to 1, or None: other programs are no reason.
        max_pause_s: longest single pause.
    """

    pause_above_c: float
    resume_below_c: float
    pause_when_busy: float | None
    max_pause_s: float


class Judge:
    """Remembers whether it said stop, and why."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._paused: tuple[StopReason, float] | None = None

    def __call__(self, condition: Condition, now_s: float) -> StopReason | None:
        """HEAT or BUSY to pause now, None to work."""
        if self._paused is not None:
            cause, since_s = self._paused
            if now_s - since_s < LEAST_PAUSE_S or self._lasts(condition, cause):
                return cause
        # What ends one pause may begin the next, for the other reason.
        begins = self._begins(condition)
        self._paused = None if begins is None else (begins, now_s)
        return begins

    def _begins(self, seen: Condition) -> StopReason | None:
        if self._hot(seen, self.limits.pause_above_c, seen.edge_tpu_limit_c):
            return StopReason.HEAT
        limit = self.limits.pause_when_busy
        if limit is not None and seen.others_share is not None and seen.others_share > limit:
            return StopReason.BUSY
        return None

    def _lasts(self, seen: Condition, cause: StopReason) -> bool:
        if cause is StopReason.HEAT:
            return self._hot(seen, self.limits.resume_below_c, seen.edge_tpu_limit_c - MARGIN_C)
        limit = self.limits.pause_when_busy
        return limit is not None and seen.others_share is not None and seen.others_share > FREE_SHARE * limit

    def _hot(self, seen: Condition, limit_c: float, edge_tpu_limit_c: float) -> bool:
        if not self.limits.pause_above_c:
            return False
        warm = seen.temperature_c is None or seen.temperature_c > self.limits.resume_below_c
        return (
            (seen.temperature_c is not None and seen.temperature_c >= limit_c)
            or (seen.edge_tpu_c is not None and seen.edge_tpu_c >= edge_tpu_limit_c)
            or (seen.throttling.slowed_by_heat and warm)
        )
