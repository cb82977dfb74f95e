"""What may still be spent in a round, as a question that is asked before each step.

Rules kept here:

* Joules kept back for coding and sending come from what earlier rounds needed for it; before there is one, a tenth
  of the budget.
* A meter that falls silent in the middle does not give energy away: time it does not account for is charged at the
  highest mean power seen in the round. A meter that never knew anything allows nothing under a budget.
* Without a budget the meter is not asked at all, so a failing one cannot stop training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from protos.orders import StopReason

_FIRST_SHARE = 0.1
_MARGIN = 1.2
_REMEMBERED = 5
_FIRST_RESERVE_S = 1.0


class Reserve:
    """What coding and sending an update cost in the last rounds."""

    def __init__(self) -> None:
        self._joules: deque[float] = deque(maxlen=_REMEMBERED)
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

        self._encode_j: float | None = None
        self._encode_s = 0.0

    def coded(self, energy_j: float | None, seconds: float) -> None:
        """Note what coding cost in this round."""
        self._encode_j, self._encode_s = energy_j, seconds

    def sent(self, energy_j: float | None, seconds: float) -> None:
        """Note what sending cost, and remember the round; an unknown energy teaches nothing about joules."""
        if energy_j is not None and self._encode_j is not None:
            self._joules.append(max(0.0, self._encode_j) + max(0.0, energy_j))
        self._seconds.append(self._encode_s + max(0.0, seconds))

    def joules(self, budget_j: float) -> float:
        """Joules to keep back out of ``budget_j``, at most all of it."""
        wanted = _MARGIN * max(self._joules) if self._joules else _FIRST_SHARE * budget_j
        return min(wanted, budget_j)

    def seconds(self, deadline_s: float) -> float:
        """Seconds to keep back before the deadline, at most half of it."""
        wanted = _MARGIN * max(self._seconds) if self._seconds else _FIRST_RESERVE_S
        return min(wanted, deadline_s / 2)


class Allowance:
    """The limits of one round.

    Args:
        budget_j: joules for all phases but idling, or None.
        deadline_s: seconds from now until the round closes.
        reserve: what to keep back.
        spent_j: joules of this round so far, or None when unknown.
        now_s: a monotonic clock.
        stopping: whether the daemon was asked to stop.
    """

    def __init__(
        self,
        *,
        budget_j: float | None,
        deadline_s: float,
        reserve: Reserve,
        spent_j: Callable[[], float | None],
        now_s: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self._budget_j, self._spent_j, self._now_s, self._stopping = budget_j, spent_j, now_s, stopping
        self._reserve_j = reserve.joules(budget_j) if budget_j is not None else 0.0
        self._start_s = now_s()
        self._end_s = self._start_s + deadline_s - reserve.seconds(deadline_s)
        self._known_j, self._known_s, self._power_w = 0.0, self._start_s, 0.0
        self._ever_known = False

    def ask(self, *, first_step: bool = False) -> StopReason | None:
        """None to go on, else why not.

        Args:
            first_step: what is kept back for sending does not count, so that any budget left buys one step.
        """
        if self._stopping():
            return StopReason.SHUTDOWN
        now_s = self._now_s()
        if now_s >= self._end_s:
            return StopReason.DEADLINE
        if self._budget_j is None:
            return None
        reserve_j = 0.0 if first_step else self._reserve_j
        return StopReason.BUDGET if self._charged_j(now_s) + reserve_j >= self._budget_j else None

    def _charged_j(self, now_s: float) -> float:
        spent_j = self._spent_j()
        if spent_j is not None:
            self._ever_known, self._known_j, self._known_s = True, spent_j, now_s
            elapsed_s = now_s - self._start_s
            if elapsed_s > 0:
                self._power_w = max(self._power_w, spent_j / elapsed_s)
            return spent_j
        if not self._ever_known:
            return float("inf")
        return self._known_j + self._power_w * (now_s - self._known_s)
