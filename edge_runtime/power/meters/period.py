"""The marks of the period that is being metered, kept in one place for every kind of meter."""

from __future__ import annotations

from protos.energy.trace import Mark, Phase

__all__ = ["Period"]


class Period:
    """Marks since the last settlement, and the seconds at work so far.

    The first mark is where the period began. Times given must not go back; one that does is taken as
    the time of the mark before it.
    """

    def __init__(self, start_s: float, phase: Phase = Phase.IDLE) -> None:
        self.marks = [Mark(start_s, phase)]
        self._worked_s = 0.0
        self._carried_s = 0.0

    @property
    def last(self) -> Mark:
        """The mark whose phase is running."""
        return self.marks[-1]

    def mark(self, now_s: float, phase: Phase) -> None:
        """Begin ``phase`` at ``now_s``."""
        last = self.marks[-1]
        now_s = max(now_s, last.t_s)
        if last.phase.is_work:
            self._worked_s += self._carried_s + now_s - last.t_s
        self._carried_s = 0.0
        self.marks.append(Mark(now_s, phase))

    def worked_s(self, now_s: float) -> float:
        """Seconds in phases other than idle, from the beginning of the period to ``now_s``."""
        last = self.marks[-1]
        if not last.phase.is_work:
            return self._worked_s
        return self._worked_s + self._carried_s + max(0.0, now_s - last.t_s)

    def fold(self, to_s: float) -> None:
        """Forget what was marked before ``to_s``: the phase of that time now begins there.

        The seconds at work are kept. What a running phase has folded away still belongs to it, and so to the
        next period when this one is closed before another mark.
        """
        before = [mark for mark in self.marks if mark.t_s <= to_s]
        if not before:
            return
        if len(before) == len(self.marks) and before[-1].phase is not Phase.IDLE:
            self._carried_s += to_s - before[-1].t_s
        self.marks = [Mark(to_s, before[-1].phase), *self.marks[len(before) :]]

    def close(self) -> tuple[list[Mark], float]:
        """End the period at the last mark; returns its marks (without that one) and its end.

        The running phase becomes the first of the next period. Without a mark since the last
        settlement the list is empty.
        """
        closed, last = self.marks[:-1], self.marks[-1]
        self.marks = [last]
        self._worked_s = 0.0
        return closed, last.t_s
