"""Which of several runs may ask devices next. A device works for one run at a time.

* A run of a higher priority goes before one of a lower.
* Of equal ones the one goes first that has had the fewest orders for its share: *start-time fair queueing* (Goyal, Vin,
  Cheng, "Start-time fair queueing", 1996). What a run has had is a virtual time, orders divided by share; one that
  begins later begins at the time of those that are on, so that it neither catches up nor falls behind.
* A run whose devices work for another one waits for them, as long as a round waits for the devices of the one before,
  and then goes on with those that are free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Claim:
    """What a run has had of the devices.

    Attributes:
        priority: of its plan.
        share: of its plan, > 0.
        sequence: in which order runs were started.
        had: orders that it was given, divided by its share.
    """

    priority: int
    share: float
    sequence: int
    had: float = 0.0

    @property
    def rank(self) -> tuple[int, float, int]:
        """The lowest goes first.

        >>> first, second = Claim(0, 1.0, 1), Claim(0, 3.0, 2)
        >>> turns = []
        >>> for _ in range(8):
        ...     goes = min((first, second), key=lambda one: one.rank)
        ...     goes.took(10)
        ...     turns.append(goes.sequence)
        >>> turns.count(2)
        6
        """
        return -self.priority, self.had, self.sequence

    def took(self, orders: int) -> None:
        """So many devices were asked."""
        self.had += orders / self.share

    def begins_beside(self, others: Iterable[Claim]) -> None:
        """Begin at the time of those of the same priority that are on."""
        self.had = max(self.had, min((other.had for other in others if other.priority == self.priority), default=0.0))


@dataclass(frozen=True)
class Wish:
    """What a run that gathers would do.

    Attributes:
        claim: of the run.
        can_open: it has whom it needs, if it waits no longer for those that are away.
        free: devices that it could ask now.
        lent: devices that it could ask, and that work for another run.
        wanted: devices that it would rather have, all that there are where it does not say.
        least: devices without which it does not begin.
        waited: it has waited as long as a round does for the devices of the one before.
        settles: its round is being folded and written down, and there is another to come: it will want devices soon.
    """

    claim: Claim
    can_open: bool
    free: int
    lent: int
    wanted: int | None
    least: int
    waited: bool
    settles: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether it would open now."""
        if not self.can_open:
            return False
        there = self.free + self.lent
        if self.free >= min(there, self.wanted if self.wanted is not None else there):
            return True
        return self.waited and self.free >= max(1, min(self.least, there))


def may_go(own: Wish, others: Iterable[Wish]) -> bool:
    """Whether a run that gathers may open a round now, beside the others.

    A run whose turn it is keeps it while its round is written down, or shares would be worth nothing where that takes
    long.

    >>> def wish(sequence, **keys):
    ...     made = dict(can_open=True, free=4, lent=0, wanted=None, least=2, waited=False)
    ...     return Wish(Claim(0, 1.0, sequence), **{**made, **keys})
    >>> may_go(wish(2), [wish(1)]), may_go(wish(1), [wish(2)]), may_go(wish(2), [wish(1, can_open=False)])
    (False, True, True)
    >>> may_go(wish(1, free=1, lent=3), []), may_go(wish(1, free=2, lent=2, waited=True), [])
    (False, True)
    >>> writing = wish(1, can_open=False, settles=True)
    >>> may_go(wish(2), [writing]), may_go(wish(1), [wish(2, can_open=False, settles=True)])
    (False, True)
    """
    before = (other for other in others if other.claim.rank < own.claim.rank)
    return own.is_ready and not any(wish.is_ready or wish.settles for wish in before)
