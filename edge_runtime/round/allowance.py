"""What may still be spent in a round, as a question that is asked before each piece of work.

Rules kept here:

* A piece is begun only when the budget pays for it **and** for coding and sending what there is. Its price is what the
  pieces before it cost in this round; before the first, what they cost in earlier rounds, or what the order says.
* What the last pieces cost varies when other programs use the processor, so the next one is priced at their mean and
  twice their standard deviation, when that is more.
* A piece may be begun late, or be held up in its middle, by as much as the dearest of the last pieces was, so none is
  begun that the budget does not pay for at that price; and as much more is kept back as a piece of the last rounds
  cost beyond what it was allowed at.
* Between two questions lies no more than a fiftieth of the budget, if a piece is that small: what becomes dear while it
  is done is seen at once.
* A round whose pieces cost more than they do on a calm machine sends on a busy one too: as many times as much is kept
  back for coding and sending.
* Joules kept back for coding and sending come from what earlier rounds needed for it, or from the order; when nobody
  knows, they are a tenth of the budget.
* Under a budget a piece whose price nobody knows is tried alone, so that the price of many is known before they are.
* A meter lags. Time that no sample covers yet is charged at no less than the watts at work (:class:`ExpectsPower`).
* A meter that falls silent in the middle does not give energy away: time it does not account for is charged at the
  highest mean power seen in the round. A meter that never knew anything allows nothing under a budget.
* Without a budget the meter is not asked at all, so a failing one cannot stop training.
* A board that is too hot or busy rests first. Time rested is no time worked: a silent meter's is not charged for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edge_runtime.round.costs import Reserve
from protos.orders import StopReason

# Pieces that the spread of prices is taken from, and the share of a budget that lies between two questions.
_WINDOW, _FEWEST, _GRAIN = 16, 4, 0.02
# A piece that cost so many times what it was allowed at was held up, and is no matter of noise.
_HELD_UP = 2.0
# How much dearer than on a calm machine work is that is taken for slowed down, and sending is expected to be at most.
_LEAST_SLOWDOWN, _MOST_SLOWDOWN = 1.5, 8.0


class Price:
    """What one piece of work costs, learnt while it is done.

    Args:
        known_j: before the first piece; None when nobody knows.
    """

    def __init__(self, known_j: float | None) -> None:
        self._known_j = known_j
        self._begun_j = self._last_j = 0.0
        self._done = self._asked = 0
        self.excess_j = 0.0
        """By how much what lay between two questions cost more than it was allowed at, J; noise left out."""
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    @property
    def mean_j(self) -> float | None:
        """Joules of the pieces of this round; None before the first is done."""
        return (self._last_j - self._begun_j) / self._done if self._done else None

    def at(self, charged_j: float) -> float | None:
        """Joules of the next piece, when so much was charged up to now; None when nobody knows."""
        if self._asked:
            recent_j = (charged_j - self._last_j) / self._asked
            self._done += self._asked
            mean_j = (charged_j - self._begun_j) / self._done
            if self._known_j is not None and recent_j > _HELD_UP * self._known_j:
                self.excess_j = max(self.excess_j, (recent_j - self._known_j) * self._asked)
            # One dear piece in a long row raises the price a little; a row that becomes dear raises it for good.
            self._known_j = max(mean_j, (mean_j + recent_j) / 2)
            self._recent.append(recent_j)
            if len(self._recent) >= _FEWEST:
                # m + 2 s of the last n pieces: m their mean, s^2 = sum (x - m)^2 / (n - 1).
                recent_mean_j = sum(self._recent) / len(self._recent)
                squares = sum((value - recent_mean_j) ** 2 for value in self._recent)
                self._known_j = max(self._known_j, recent_mean_j + 2 * math.sqrt(squares / (len(self._recent) - 1)))
                # What is held up once in a while has no spread that two deviations would show.
                self._known_j = max(self._known_j, max(self._recent))
        elif not self._done:
            self._begun_j = charged_j
        self._last_j, self._asked = charged_j, 0
        return self._known_j

    def asked(self, count: int) -> None:
        """So many pieces are done now."""
        self._asked = count


class Rests(Protocol):
    """Pauses; see :class:`edge_runtime.health.pauses.Pauses`."""

    @property
    def paused_s(self) -> float:
        """Seconds rested in this round."""
        ...

    def until_fit(self, end_s: float) -> StopReason | None:
        """Wait until work may go on: None. Or why it may not, at ``end_s`` of the clock at the latest: the board, or a
        request to stop."""
        ...


class Allowance:
    """The limits of one round.

    Args:
        budget_j: joules for all phases but idling, or None.
        deadline_s: seconds from now until the round closes.
        reserve: what to keep back, and what pieces cost before.
        spent_j: joules of this round so far, or None when unknown.
        now_s: a monotonic clock.
        stopping: whether the daemon was asked to stop.
        rests: waits before a piece, when it has to; None never does.
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
        rests: Rests | None = None,
    ) -> None:
        self._budget_j, self._spent_j, self._now_s, self._stopping = budget_j, spent_j, now_s, stopping
        self._rests = rests
        self._reserve = reserve
        self._example, self._step = Price(reserve.embedding_j), Price(reserve.step_j)
        self._start_s = now_s()
        self._end_s = self._start_s + deadline_s - reserve.seconds(deadline_s)
        self._known_j, self._known_s, self._power_w = 0.0, self._start_s, 0.0
        self._ever_known = False

    def step(self) -> StopReason | None:
        """None to make one step, else why not."""
        found = self._pieces(self._step, 1)
        return found if isinstance(found, StopReason) else None

    def examples(self, wanted: int) -> int | StopReason:
        """How many examples may be embedded now, 1 to ``wanted``, or why none."""
        return self._pieces(self._example, wanted)

    def block(self, most: int) -> int:
        """How many examples to embed between two questions, 1 to ``most``."""
        each_j = self._example.mean_j or self._reserve.embedding_j
        if self._budget_j is None or not each_j or each_j <= 0:
            return most
        return max(1, min(most, math.floor(min(_GRAIN * self._budget_j / each_j, most))))

    def _kept_j(self, budget_j: float) -> float:
        """Joules for coding and sending, from what this round shows of the machine."""
        pairs = ((self._step.mean_j, self._reserve.calm_step_j), (self._example.mean_j, self._reserve.calm_embedding_j))
        slower = max((now_j / calm_j for now_j, calm_j in pairs if now_j and calm_j), default=1.0)
        return self._reserve.joules(budget_j, min(_MOST_SLOWDOWN, slower) if slower >= _LEAST_SLOWDOWN else 1.0)

    def _pieces(self, price: Price, wanted: int) -> int | StopReason:
        if self._stopping():
            return StopReason.SHUTDOWN
        if self._rests is not None and (cause := self._rests.until_fit(self._end_s)) is not None:
            return cause
        now_s = self._now_s()
        if now_s >= self._end_s:
            return StopReason.DEADLINE
        if self._budget_j is None:
            return wanted
        charged_j = self._charged_j(now_s - (self._rests.paused_s if self._rests else 0.0))
        each_j = price.at(charged_j)
        left_j = self._budget_j - self._kept_j(self._budget_j) - self._reserve.excess_j - charged_j
        if not left_j > 0 or (each_j is not None and each_j > left_j):
            return StopReason.BUDGET
        if each_j is None:
            count = 1
        else:
            count = wanted if each_j <= 0 else min(wanted, math.floor(min(left_j / each_j, wanted)))
        price.asked(count)
        return count

    @property
    def excess_j(self) -> float:
        """By how much a piece of this round cost more than it was allowed at, J."""
        return max(self._step.excess_j, self._example.excess_j)

    @property
    def rested_s(self) -> float:
        """Seconds paused in this round."""
        return self._rests.paused_s if self._rests is not None else 0.0

    def _charged_j(self, now_s: float) -> float:
        """Args: now_s: of the clock, less the time that was rested."""
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
