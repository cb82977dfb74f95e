"""The search for a step whose cost is the budget, on costs that are known as functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from protos.update.entropy.rate import payload_bits, step_for

TOP, FINEST = 1.0, 1e-9


@dataclass(frozen=True)
class Cost:
    """What it costs at a step."""

    coded_bits: float
    fixed_bits: float
    step: float


class Asked:
    """A cost as a function of the step, which notes where it was looked at."""

    def __init__(self, bits: Callable[[float], float], fixed_bits: float = 400.0) -> None:
        self.steps: list[float] = []
        self._bits, self._fixed = bits, fixed_bits

    def __call__(self, step: float) -> Cost:
        self.steps.append(step)
        return Cost(self._bits(step), self._fixed, step)


def smooth(count: int, slope: float = 1.0) -> Callable[[float], float]:
    """As a uniform quantiser's: a bit a coordinate for each halving of the step, and little for coarse ones."""
    return lambda step: count * slope * math.log2(1.0 + 0.5 * TOP / step)


@pytest.mark.parametrize("count", [10_000, 200_000, 3_000_000])
@pytest.mark.parametrize("bits", [0.5, 1.0, 2.0, 4.0, 7.0])
@pytest.mark.parametrize("slope", [0.7, 1.0, 1.2])
def test_what_is_found_costs_the_budget_or_hardly_more(count: int, bits: float, slope: float) -> None:
    budget = bits * count
    whole, sample = Asked(smooth(count, slope)), Asked(smooth(count, slope * 1.03))
    step, found = step_for(sample, whole, budget, count=count, top=TOP, finest=FINEST)
    assert found.step == step
    wanted = payload_bits(budget, 400.0)
    assert 0.98 * wanted <= found.coded_bits <= 1.002 * wanted
    # Everything is looked at few times: it is what costs.
    assert len(whole.steps) <= 3


def stairs(step_at: float, dear: float, cheap: float) -> Callable[[float], float]:
    return lambda step: dear if step < step_at else cheap


@pytest.mark.parametrize(("below", "is_chosen"), [(0.02, True), (0.035, True), (0.045, False), (0.08, False)])
def test_a_little_above_the_budget_is_four_times_as_bad_as_below_it(below: float, is_chosen: bool) -> None:
    """One per cent above is taken only where the next step down is more than four per cent below."""
    budget, count = 1e6, 250_000
    wanted = payload_bits(budget, 400.0)
    cost = Asked(stairs(TOP / 32, wanted + 0.01 * budget, wanted - below * budget))
    _, found = step_for(None, cost, budget, count=count, top=TOP, finest=FINEST)
    assert min(cost.steps) < TOP / 32 <= max(cost.steps), "both were looked at"
    assert (found.coded_bits < wanted) == is_chosen


@pytest.mark.parametrize("landing", [3.3, 4.6, 5.9, 7.1])
def test_a_landing_between_stairs_is_found_by_halving_where_secants_leap_past_it(landing: float) -> None:
    """Slopes say nothing here; each look lies between the finest that was too cheap and the coarsest too dear."""
    budget, count = 1e6, 250_000
    wanted = payload_bits(budget, 400.0)

    def bits(step: float) -> float:
        at = -math.log2(step)
        return wanted if abs(at - landing) < 0.4 else wanted * (3.0 if at > landing else 0.2)

    cost = Asked(bits)
    step, found = step_for(None, cost, budget, count=count, top=TOP, finest=FINEST)
    assert abs(-math.log2(step) - landing) < 0.4
    assert found.coded_bits == wanted
    for number, value in enumerate(cost.steps):
        before = cost.steps[:number]
        dear, cheap = ([other for other in before if (bits(other) > wanted) == is_dear] for is_dear in (True, False))
        assert max(dear, default=0.0) < value < min(cheap, default=math.inf)


def test_a_cost_that_no_step_reaches_ends_at_the_finest_or_the_coarsest() -> None:
    for bits, at_end in ((lambda step: 10.0, min), (lambda step: 1e9, max)):
        cost = Asked(bits)
        step, _ = step_for(None, cost, 1e6, count=100_000, top=TOP, finest=1e-3)
        assert 1e-3 <= step <= TOP * 2**12
        assert len(cost.steps) == len(set(cost.steps)), "no place is looked at twice"
        assert at_end(cost.steps) == cost.steps[-1], "the search went one way"


def test_headers_of_more_than_half_the_budget_leave_the_coordinates_as_much() -> None:
    assert payload_bits(1000, 499) == 501
    assert payload_bits(1000, 501) == 501
    assert payload_bits(1000, 5000) == 1000
