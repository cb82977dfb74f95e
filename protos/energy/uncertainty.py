"""The lines of an uncertainty budget: how wrong a joule may be, and why.

Each line is a standard uncertainty in joules (one sigma) and a limit. For a stretch of time with energy E, mean power
P, covered time T and supply voltage V:

================  =================================================================  ========  ====================
line              standard uncertainty                                               kind      shape
================  =================================================================  ========  ====================
``shunt``         (shunt_relative + heating) / sqrt 3 * E                            s         rectangular
``gain``          gain_standard * E, or gain_relative / sqrt 3 * E                   s         normal, rectangular
``bus``           bus_standard * E, or bus_relative / sqrt 3 * E                     s         normal, rectangular
``reference``     reference_relative / sqrt 3 * E                                    s         rectangular
``offset``        V * offset_standard_a * T, or V * offset_a / sqrt 3 * T            s         normal, rectangular
``clock``         clock_relative * E                                                 s         normal
``quantisation``  hypot(V current_step * alike, P / V voltage_step) / sqrt 12 * T    local     rectangular
``sync``          jump over all marks * sync_s / sqrt 3                              local     rectangular
``edge``          root of the sum over marks of (jump * dt)^2, times EDGE_SHARE      random    normal
``duty``          dithered: root of the sum over samples of var(u (p - m))           random    normal
(``duty``)        not dithered: sum over samples of u * abs(D) / sqrt 12             local     rectangular
``noise``         V * noise_a * root of the sum of dt^2                              random    normal
``gap``           uncovered * s, and uncovered * P as known to be missing            random    normal
``clipping``      infinite when a sample was clipped: no figure                      local     rectangular
================  =================================================================  ========  ====================

*Kind* says how a line goes together with itself in another stretch: ``systematic`` (s) is one error of the chain, the
same everywhere, so it adds linearly and goes out of a difference; ``local`` is the same while the load stays as it is,
so it adds linearly and does not go out of a difference; ``random`` adds in squares.

* ``alike``: root of the sum of squared shares of time that the samples spent on one and the same reading. A steady load
  sits on one step (1); a load that moves over N steps errs in N independent ways (1 / sqrt N).
* ``duty``: u is the part of a sample's interval dt in which the shunt was not looked at, D the difference between
  neighbouring samples. Where the rhythm of conversions is varied (``dithered``), the errors of samples are independent,
  and the variance of u (p - m), with p the mean of the part that was seen and m of the part that was not, is
  u dt var(p) for a load much faster than dt, and u^2 D^2 / 3 for a step. :mod:`protos.energy.interval_summary`
  tells the one from the other. Without dither a load may stay in step: each step in power errs by u D
  in one direction, by up to half of it, and all alike: a rectangle.
* ``heating``: a shunt that carries I amperes turns I^2 R into heat, and its resistance follows. That is
  shunt_heating_per_w * R * (P^2 + s^2) / V^2, of the mean square of the current, s the standard deviation of power.
* ``gap``: nothing is interpolated into time without samples. What is missing is about uncovered * P, so the interval is
  widened by that; s is the standard deviation between samples.

Limits are those of the data sheet where there is one, three sigma of a random line else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["EDGE_SHARE", "ErrorModel", "IntervalSummary", "Kind", "Shape", "UncertaintyTerm"]

Kind = Literal["systematic", "local", "random"]
Shape = Literal["normal", "rectangular"]
SQRT3, SQRT12 = math.sqrt(3), math.sqrt(12)
EDGE_SHARE = 0.1
"""Standard error of dividing a sample that a mark cuts, in parts of jump * dt. See docs/decisions/0008."""


@dataclass(frozen=True, slots=True)
class UncertaintyTerm:
    """One line of the budget.

    Args:
        name: of the line, see the module's table.
        standard_j: standard uncertainty, J.
        kind: how it goes together with the same line of another stretch.
        shape: of its distribution.
        limit_j: largest error possible; None stands for three sigma.
        bias_j: energy known to be missing from the figure, J.
    """

    name: str
    standard_j: float
    kind: Kind = "systematic"
    shape: Shape = "normal"
    limit_j: float | None = None
    bias_j: float = 0.0

    @property
    def worst_j(self) -> float:
        """The limit, J."""
        return 3.0 * self.standard_j if self.limit_j is None else self.limit_j


@dataclass(frozen=True, slots=True)
class IntervalSummary:
    """What the lines need to know of a stretch of time (one interval, or all the intervals of a phase).

    Args:
        energy_j: joules seen in the covered time.
        covered_s: seconds with samples.
        uncovered_s: seconds without.
        spread_w: standard deviation of the power between samples.
        peak_w: largest sample.
        low_w: smallest sample.
        alike: 0 to 1, see the module's docstring.
        cut_ws: root-sum-square over marks that cut a sample of jump * dt, Ws.
        cut_sum_ws: sum of the same.
        sync_w: power that a shift of all marks together moves in or out, W.
        unseen_w2s2: variance of the energy in the time that was not looked at, if it is that at random, W^2 s^2.
        unseen_s: sum over samples of u, s.
        swing_ws: sum over samples of u * abs(D), Ws.
        squared_s2: sum over samples of dt^2, s^2.
        samples: how many touch the stretch.
        clipped: whether one of them was.
    """

    energy_j: float
    covered_s: float
    uncovered_s: float = 0.0
    spread_w: float = 0.0
    peak_w: float = 0.0
    low_w: float = 0.0
    alike: float = 1.0
    cut_ws: float = 0.0
    cut_sum_ws: float = 0.0
    sync_w: float = 0.0
    unseen_w2s2: float = 0.0
    unseen_s: float = 0.0
    swing_ws: float = 0.0
    squared_s2: float = 0.0
    samples: int = 0
    clipped: bool = False


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """Limits of the errors of one measuring chain; the default is a perfect instrument.

    A limit alone is read as a rectangle (GUM 4.3.7). Where the standard deviation of parts is known as well, the
    fields ``*_standard`` carry it, and the line is normal.

    Args:
        supply_v: nominal bus voltage, V; must be positive.
        current_step_a: one step of the shunt register as current, A.
        voltage_step_v: one step of the bus register, V.
        offset_a: limit of the zero error, A.
        gain_relative: limit of the relative error of the current amplifier, or of a chain as a whole.
        duty: part of each sample in which the shunt was looked at, 0 to 1; used where ``shunt_s`` is 0.
        sync_s: limit of the error of the clock mapping at one instant, s.
        clock_relative: standard relative error of the tick rate after the fit.
        shunt_relative: limit of the relative error of the shunt's resistance, cold.
        shunt_ohm: resistance of the shunt, ohm; 0 where it does not matter.
        shunt_heating_per_w: limit of the relative change of its resistance per watt that it turns into heat.
        bus_relative: limit of the relative error of the bus voltage.
        reference_relative: limit of the error of the meter that the calibration compared with.
        offset_standard_a, gain_standard, bus_standard: standard deviations, None for rectangles.
        noise_a: standard deviation of the noise of one sample, A.
        shunt_s: time the shunt was looked at in each sample, s; 0 when only ``duty`` is known.
        dithered: the rhythm of conversions is varied, so that no load stays in step with it.
    """

    supply_v: float = 5.0
    current_step_a: float = 0.0
    voltage_step_v: float = 0.0
    offset_a: float = 0.0
    gain_relative: float = 0.0
    duty: float = 1.0
    sync_s: float = 0.0
    clock_relative: float = 0.0
    shunt_relative: float = 0.0
    bus_relative: float = 0.0
    reference_relative: float = 0.0
    offset_standard_a: float | None = None
    gain_standard: float | None = None
    bus_standard: float | None = None
    noise_a: float = 0.0
    shunt_s: float = 0.0
    dithered: bool = False
    shunt_ohm: float = 0.0
    shunt_heating_per_w: float = 0.0

    def terms(self, stretch: IntervalSummary) -> tuple[UncertaintyTerm, ...]:
        """Every line of the table in the module's docstring, also those that are zero."""
        seen_j, time_s, volts = abs(stretch.energy_j), stretch.covered_s, self.supply_v
        mean_w = seen_j / time_s if time_s > 0 else 0.0
        largest_w = max(mean_w, abs(stretch.peak_w))
        # The time looked at lies in front of the time that is not: a sample stands for up to half of that earlier.
        shift_j = stretch.sync_w * (self.sync_s + stretch.unseen_s / max(1, stretch.samples) / 2)
        infinite = math.inf if stretch.clipped else 0.0
        current_j = volts * self.current_step_a * time_s
        voltage_j = mean_w / volts * self.voltage_step_v * time_s
        return (
            _limited("shunt", self.shunt_relative + self._heating(mean_w, stretch.spread_w), seen_j),
            _limited("gain", self.gain_relative, seen_j, self.gain_standard),
            _limited("bus", self.bus_relative, seen_j, self.bus_standard),
            _limited("reference", self.reference_relative, seen_j),
            _limited("offset", self.offset_a, volts * time_s, self.offset_standard_a),
            UncertaintyTerm("clock", self.clock_relative * seen_j),
            UncertaintyTerm(
                "quantisation",
                math.hypot(current_j * stretch.alike, voltage_j) / SQRT12,
                "local",
                "rectangular",
                (current_j + voltage_j) / 2,
            ),
            UncertaintyTerm("sync", shift_j / SQRT3, "local", "rectangular", shift_j),
            UncertaintyTerm("edge", stretch.cut_ws * EDGE_SHARE, "random", limit_j=stretch.cut_sum_ws / 4),
            self._duty(stretch, largest_w - stretch.low_w),
            UncertaintyTerm("noise", volts * self.noise_a * math.sqrt(stretch.squared_s2), "random"),
            UncertaintyTerm(
                "gap",
                stretch.uncovered_s * stretch.spread_w,
                "random",
                limit_j=stretch.uncovered_s * largest_w,
                bias_j=stretch.uncovered_s * mean_w,
            ),
            UncertaintyTerm("clipping", infinite, "local", "rectangular", infinite),
        )

    def _heating(self, mean_w: float, spread_w: float) -> float:
        """Limit of the relative change of the shunt's resistance by the heat it makes: k R mean(I^2)."""
        square_a2 = (mean_w**2 + spread_w**2) / self.supply_v**2
        return self.shunt_heating_per_w * self.shunt_ohm * square_a2

    def _duty(self, stretch: IntervalSummary, range_w: float) -> UncertaintyTerm:
        limit_j = stretch.unseen_s * range_w
        if self.dithered:
            return UncertaintyTerm("duty", math.sqrt(stretch.unseen_w2s2), "random", limit_j=limit_j)
        return UncertaintyTerm("duty", stretch.swing_ws / SQRT12, "local", "rectangular", limit_j)


def _limited(name: str, limit: float, scale_j: float, standard: float | None = None) -> UncertaintyTerm:
    """A systematic line in proportion to ``scale_j``: a rectangle, or normal with a known standard deviation."""
    if standard is None:
        return UncertaintyTerm(name, limit / SQRT3 * scale_j, shape="rectangular", limit_j=limit * scale_j)
    return UncertaintyTerm(name, standard * scale_j, limit_j=limit * scale_j)
