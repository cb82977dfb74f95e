"""How wrong a joule may be: named terms, combined root-sum-square.

Each term is a standard uncertainty in joules (one sigma); limits of a data sheet are read as rectangular
distributions (limit / sqrt 3). ``expanded`` gives the k = 2 figure that reports carry, an interval of
about 95 % (JCGM 100:2008, GUM, 4.3.7, 5.1.2 and 6.2). For a phase of mean power P, standard deviation s
between samples, covered time T and supply voltage V:

====================  ==============================================================  ======================
term                  standard uncertainty                                            source
====================  ==============================================================  ======================
``quantisation``      hypot(V * current_step, P / V * voltage_step) / sqrt(12) * T    register steps
``offset``            V * offset_a / sqrt(3) * T                                      zero error of the chain
``gain``              gain_relative / sqrt(3) * P * T                                 shunt and ADC gain
``clock``             clock_relative * P * T                                          tick rate after the fit
``edge``              root of the sum over marks of (jump * (dt / 4 + sync_s))^2 / 3  a sample cut by a mark
``duty``              (1 - duty) * s * T                                              time the ADC did not look
``gap``               uncovered * max(P, peak) / sqrt(3)                              time without any sample
====================  ==============================================================  ======================

Quantisation, offset and gain are taken as the same error in every sample, so they do not shrink with
the count: a constant load sits on one step of the register. The ``duty`` term does not see a load that
alternates faster than the samples and in step with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ErrorModel", "Stretch", "UncertaintyTerm", "add_terms", "expanded"]


@dataclass(frozen=True, slots=True)
class UncertaintyTerm:
    """One line of the budget: its name and its standard uncertainty in joules."""

    name: str
    standard_j: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the terms need to know of the time a phase took.

    Args:
        energy_j: joules seen in the covered time.
        covered_s: seconds with samples.
        uncovered_s: seconds without.
        spread_w: standard deviation of the power between samples.
        peak_w: largest sample.
        edge_ws: root-sum-square over the phase's marks of jump * dt / 4, in watt-seconds.
        edge_w: root-sum-square over the phase's marks of the jump alone, in watts.
    """

    energy_j: float
    covered_s: float
    uncovered_s: float
    spread_w: float
    peak_w: float
    edge_ws: float
    edge_w: float


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """Limits of the errors of one measuring chain; the default is a perfect instrument.

    Args:
        supply_v: nominal bus voltage, V; must be positive.
        current_step_a: one step of the shunt register as current, A.
        voltage_step_v: one step of the bus register, V.
        offset_a: limit of the zero error, A.
        gain_relative: limit of the relative error of shunt, current and voltage gain together.
        duty: part of each sample period in which the shunt was looked at, 0 to 1.
        sync_s: limit of the error of the clock mapping at one instant, s.
        clock_relative: standard relative error of the tick rate after the fit.
    """

    supply_v: float = 5.0
    current_step_a: float = 0.0
    voltage_step_v: float = 0.0
    offset_a: float = 0.0
    gain_relative: float = 0.0
    duty: float = 1.0
    sync_s: float = 0.0
    clock_relative: float = 0.0

    def terms(self, stretch: Stretch) -> tuple[UncertaintyTerm, ...]:
        """Every term of the table in the module's docstring, also those that are zero."""
        seen_j, time_s = abs(stretch.energy_j), stretch.covered_s
        mean_w = seen_j / time_s if time_s > 0 else 0.0
        step_w = math.hypot(self.supply_v * self.current_step_a, mean_w / self.supply_v * self.voltage_step_v)
        sqrt3 = math.sqrt(3)
        return (
            UncertaintyTerm("quantisation", step_w / math.sqrt(12) * time_s),
            UncertaintyTerm("offset", self.supply_v * self.offset_a / sqrt3 * time_s),
            UncertaintyTerm("gain", self.gain_relative / sqrt3 * seen_j),
            UncertaintyTerm("clock", self.clock_relative * seen_j),
            UncertaintyTerm("edge", (stretch.edge_ws + stretch.edge_w * self.sync_s) / sqrt3),
            UncertaintyTerm("duty", (1.0 - self.duty) * stretch.spread_w * time_s),
            UncertaintyTerm("gap", stretch.uncovered_s * max(mean_w, stretch.peak_w) / sqrt3),
        )


def add_terms(left: Iterable[UncertaintyTerm], right: Iterable[UncertaintyTerm]) -> tuple[UncertaintyTerm, ...]:
    """Add two budgets line by line, as fully correlated errors (never too small)."""
    total: dict[str, float] = {}
    for term in (*left, *right):
        total[term.name] = total.get(term.name, 0.0) + term.standard_j
    return tuple(UncertaintyTerm(name, value) for name, value in total.items())


def expanded(terms: Iterable[UncertaintyTerm], *, coverage_factor: float = 2.0) -> float:
    """Combine standard uncertainties root-sum-square and widen by ``coverage_factor``; joules.

    >>> expanded([UncertaintyTerm("offset", 3.0), UncertaintyTerm("gain", 4.0)])
    10.0
    """
    return coverage_factor * math.sqrt(math.fsum(term.standard_j**2 for term in terms))
