"""The board at rest, and what is left of an energy when its rest is taken away.

Idle power is read before and after, at the middle of each reading; in between it is a straight line, beyond a
constant. That the line may be none is the budget's line ``baseline``: a rectangle of half the drift either way. Idle
energy is subtracted in one place, :func:`net_of`, line by line: the error of the zero is the same in both and goes out;
errors of the scale act on the difference; what is random adds in squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from protos.energy.interval import Interval, add_terms, combine, subtract_terms
from protos.energy.interval_summary import examine
from protos.energy.trace import PhaseEnergy, PowerTrace
from protos.energy.uncertainty import ErrorModel, UncertaintyTerm

__all__ = ["Baseline", "IdleReading", "NetEnergy", "net_of"]


@dataclass(frozen=True, slots=True)
class IdleReading:
    """One look at the board at rest.

    Args:
        start_s, stop_s: when, host time.
        energy_j: joules in the covered seconds.
        covered_s: seconds with samples, more than 0.
        terms: the budget of ``energy_j``.
        drift_w: power of its second half less that of its first, None when not known.
    """

    start_s: float
    stop_s: float
    energy_j: float
    covered_s: float
    terms: tuple[UncertaintyTerm, ...]
    drift_w: float | None = None

    @classmethod
    def of_trace(cls, trace: PowerTrace, start_s: float, stop_s: float, errors: ErrorModel) -> IdleReading:
        """Read a trace.

        Raises:
            ValueError: no sample there.
        """
        clean = trace.disjoint()
        edges = np.array([start_s, (start_s + stop_s) / 2, stop_s])
        whole, _ = examine(clean, edges[:1], edges[2:], errors)
        if whole.covered_s <= 0:
            raise ValueError(f"no samples from {start_s} s to {stop_s} s")
        first, _ = examine(clean, edges[:1], edges[1:2], errors)
        second, _ = examine(clean, edges[1:2], edges[2:], errors)
        halves = (first.covered_s, second.covered_s)
        drift_w = second.energy_j / halves[1] - first.energy_j / halves[0] if min(halves) > 0 else None
        return cls(start_s, stop_s, whole.energy_j, whole.covered_s, errors.terms(whole), drift_w)

    @classmethod
    def of_figure(cls, figure: PhaseEnergy, start_s: float, stop_s: float) -> IdleReading:
        """Take a settled figure.

        Raises:
            ValueError: it has no joules.
        """
        if figure.energy_j is None or figure.covered_s <= 0:
            raise ValueError("a reading without a figure")
        return cls(start_s, stop_s, figure.energy_j, figure.covered_s, figure.budget)

    @property
    def power_w(self) -> float:
        """Mean power at rest, W."""
        return self.energy_j / self.covered_s

    @property
    def middle_s(self) -> float:
        """The instant that the mean stands for."""
        return (self.start_s + self.stop_s) / 2

    def over(self, seconds: float) -> tuple[UncertaintyTerm, ...]:
        """The budget of this power held for so long."""
        scale = seconds / self.covered_s
        return tuple(
            replace(
                term,
                standard_j=term.standard_j * scale,
                limit_j=None if term.limit_j is None else term.limit_j * scale,
                bias_j=0.0,
            )
            for term in self.terms
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """Idle power over time, from a reading before and, if there is one, a reading after."""

    before: IdleReading
    after: IdleReading | None = None

    def power_w(self, t_s: float) -> float:
        """Idle power at an instant, W.

        >>> at_rest = IdleReading(0.0, 2.0, 4.0, 2.0, ())
        >>> Baseline(at_rest, IdleReading(10.0, 12.0, 8.0, 2.0, ())).power_w(6.0)
        3.0
        """
        share = self._share(t_s, t_s)
        return self.before.power_w * (1 - share) + (self.after or self.before).power_w * share

    def energy(self, start_s: float, stop_s: float) -> tuple[float, tuple[UncertaintyTerm, ...]]:
        """Joules that the board at rest would have drawn, and their budget."""
        seconds = stop_s - start_s
        if self.after is None:
            drift_j = (self.before.drift_w or 0.0) * seconds
            return self.before.power_w * seconds, (*self.before.over(seconds), _drift(drift_j))
        late_s = seconds * self._share(start_s, stop_s)
        energy_j = self.before.power_w * (seconds - late_s) + self.after.power_w * late_s
        terms = add_terms(self.before.over(seconds - late_s), self.after.over(late_s))
        return energy_j, (*terms, _drift((self.after.power_w - self.before.power_w) * seconds))

    def _share(self, start_s: float, stop_s: float) -> float:
        """Mean weight of the reading after, over a time: 0 up to the middle of the one before, 1 from that after."""
        if self.after is None:
            return 0.0
        first, last = self.before.middle_s, self.after.middle_s
        if stop_s <= start_s or last <= first:
            return min(1.0, max(0.0, (start_s - first) / (last - first))) if last > first else 0.5

        def grown(t_s: float) -> float:
            inside = min(max(t_s, first), last) - first
            return inside**2 / (2 * (last - first)) + max(0.0, t_s - last)

        return (grown(stop_s) - grown(start_s)) / (stop_s - start_s)


@dataclass(frozen=True, slots=True)
class NetEnergy:
    """An energy less idle.

    Args:
        energy_j: what is left, J; may be below 0.
        idle_j: what was taken away, J.
        interval: how wrong ``energy_j`` may be.
        budget: the lines behind it.
    """

    energy_j: float
    idle_j: float
    interval: Interval
    budget: tuple[UncertaintyTerm, ...]


def net_of(
    energy_j: float, terms: Iterable[UncertaintyTerm], baseline: Baseline, start_s: float, stop_s: float, *,
    covered_s: float | None = None,
) -> NetEnergy:  # fmt: skip
    """Take idle energy away from a gross figure.

    Args:
        energy_j: gross joules seen in the covered seconds.
        terms: its budget.
        baseline: the board at rest.
        start_s, stop_s: the time of the gross figure, on the clock of the baseline.
        covered_s: seconds of it with samples, all of it when None: idle is taken away where joules were seen.
    """
    idle_j, idle_terms = baseline.energy(start_s, stop_s)
    share = 1.0 if covered_s is None or stop_s <= start_s else min(1.0, covered_s / (stop_s - start_s))
    budget = subtract_terms(terms, idle_terms)
    return NetEnergy(energy_j - idle_j * share, idle_j * share, combine(budget), budget)


def _drift(drift_j: float) -> UncertaintyTerm:
    """Idle power may have been anywhere between the readings, all the time."""
    return UncertaintyTerm("baseline", abs(drift_j) / math.sqrt(12), "local", "rectangular", abs(drift_j) / 2)
