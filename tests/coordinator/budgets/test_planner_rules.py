"""The planner: never beyond a budget in expectation, p and bits within bounds, more budget never less work."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.budgets.codec_error import ERROR, best_bits, bits_within
from coordinator.budgets.cost_model import CostModel, Prices, Work
from coordinator.budgets.planner import Candidate, Choice, decide
from coordinator.budgets.round_plan import draw
from protos.energy.trace import Phase, PhaseEnergy

COORDINATES = 5125


def known(step_j: float = 0.01, fixed_j: float = 0.1, up_j: float = 1e-6) -> CostModel:
    """A device that was metered often, so that its costs are sure."""
    model = CostModel(Prices(0.01, 0.02, fixed_j / 2, step_j, fixed_j / 4, fixed_j / 4, up_j, 1.0, up_j))
    for steps, size in ((5, 1000), (40, 9000)) * 12:
        joules = {
            Phase.TRAIN: fixed_j / 2 + step_j * steps,
            Phase.ENCODE: fixed_j / 4,
            Phase.SEND: fixed_j / 4 + up_j * size,
        }
        energy = [PhaseEnergy(phase, value, 1.0, 0.0, "measured", "s", None) for phase, value in joules.items()]
        model.observe(Work(0, steps, size, 0), energy)
    return model


POSITIVE = st.floats(1e-3, 1e3)
FLEETS = st.lists(
    st.builds(
        lambda weight, step_j, up_j, rate, limit, change: Candidate(
            "d", weight, known(step_j / 1e3, 0.1, up_j * 1e-6), 20, limit_j=limit, rate_j=rate, change=change,
            deviation=change,
        ),
        POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE,
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def named(fleet: list[Candidate]) -> list[Candidate]:
    return [replace(candidate, device_id=f"d{at}") for at, candidate in enumerate(fleet)]


@settings(max_examples=60)
@given(fleet=FLEETS, fleet_j=st.one_of(st.just(math.inf), POSITIVE), p_min=st.floats(0.01, 1.0))
def test_no_budget_is_passed_in_expectation_and_everything_is_within_bounds(
    fleet: list[Candidate], fleet_j: float, p_min: float
) -> None:
    choice = Choice("joules", "entropy_coded", COORDINATES, p_min=p_min, fleet_j=fleet_j)
    made = decide(named(fleet), choice)
    assert sum(decision.probability * decision.expected_j for decision in made) <= fleet_j * (1 + 1e-9)
    for decision, candidate in zip(made, fleet, strict=True):
        assert decision.bits in ERROR["entropy_coded"]
        if not decision.probability:
            assert decision.why
            continue
        assert p_min * (1 - 1e-9) <= decision.probability <= 1.0
        assert 1 <= decision.steps <= candidate.steps
        assert decision.probability * decision.expected_j <= candidate.rate_j * (1 + 1e-9)
        assert decision.expected_j <= decision.granted_j <= candidate.limit_j


@settings(max_examples=40)
@given(fleet=FLEETS, fleet_j=POSITIVE, more=st.floats(1.0, 10.0))
def test_a_larger_total_never_takes_from_what_the_fleet_does(
    fleet: list[Candidate], fleet_j: float, more: float
) -> None:
    fleet = named(fleet)

    def spent(total_j: float) -> float:
        choice = Choice("joules", "entropy_coded", COORDINATES, p_min=0.01, fleet_j=total_j)
        return sum(decision.probability * decision.expected_j for decision in decide(fleet, choice))

    # Where not even p_min can be paid for, whole devices go: then the sum may jump by one of them.
    least = sum(
        0.01 * decision.expected_j for decision in decide(fleet, Choice("joules", "entropy_coded", COORDINATES, 0.01))
    )
    if fleet_j >= least:
        assert spent(fleet_j * more) >= spent(fleet_j) * (1 - 1e-6)


@given(limit_j=st.floats(0.2, 5.0), more=st.floats(1.0, 5.0))
def test_steps_grow_with_the_limit_of_a_round(limit_j: float, more: float) -> None:
    one = Candidate("a", 1.0, known(), 200, limit_j=limit_j)
    choice = Choice("joules", "entropy_coded", COORDINATES)
    small, large = (decide([replace(one, limit_j=j)], choice)[0].steps for j in (limit_j, limit_j * more))
    assert 0 < small <= large


def test_a_dear_link_gets_fewer_bits_and_a_dear_computer_more() -> None:
    choice = Choice("joules", "entropy_coded", COORDINATES)
    radio, computer = Candidate("a", 1.0, known(up_j=1e-3), 2), Candidate("b", 1.0, known(step_j=1.0), 20)
    low, high = (decision.bits for decision in decide([radio, computer], choice))
    assert low <= 1.5
    assert high >= 4.0


def test_the_rule_of_bits_has_the_thresholds_of_its_formula() -> None:
    """Halves of bits are in the table, so the whole bits begin a little earlier or later than 1.51, 11.7, 55.6, 235."""
    for r, wanted in ((20.0, 3.0), (100.0, 4.0), (400.0, 5.0)):
        assert best_bits("entropy_coded", r) == wanted
    table = ERROR["eden"]
    for r in (0.1, 3.0, 17.0, 200.0):
        chosen = best_bits("eden", r)
        assert all((1 + table[chosen]) * (r + chosen) <= (1 + table[b]) * (r + b) for b in table)


def test_on_demand_takes_the_fewest_bits_within_the_bound() -> None:
    assert bits_within("entropy_coded", 0.1) == 2.0
    assert bits_within("entropy_coded", 0.03) == 3.0
    made = decide(
        [Candidate("a", 1.0, known(), 5)], Choice("on_demand", "entropy_coded", COORDINATES, error_bound=0.03)
    )
    assert made[0].bits == 3.0


def test_under_a_total_who_matters_more_and_costs_less_is_asked_more_often() -> None:
    usual = Candidate("usual", 1.0, known(), 20, change=1.0, deviation=1.0)
    far = replace(usual, device_id="far", deviation=3.0)
    dear = replace(usual, device_id="dear", costs=known(step_j=0.2))
    p = [
        decision.probability
        for decision in decide([usual, far, dear], Choice("joules", "entropy_coded", COORDINATES, 0.01, fleet_j=0.4))
    ]
    assert p[1] > 2 * p[0] > 2 * p[2] > 0


def test_a_device_that_was_never_metered_is_let_in() -> None:
    cold = CostModel(Prices(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-3, 1.0, 1e-3))
    made = decide([Candidate("new", 1.0, cold, 10, limit_j=0.5)], Choice("joules", "entropy_coded", COORDINATES))[0]
    assert (made.probability, made.steps, made.granted_j) == (1.0, 1, 0.5)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_draw_has_the_planned_size(p: list[float], seed: int) -> None:
    drawn = draw({str(at): value for at, value in enumerate(p)}, np.random.default_rng(seed))
    assert math.floor(sum(p) - 1e-9) <= len(drawn) <= math.ceil(sum(p) + 1e-9)
    assert all(str(at) in drawn for at, value in enumerate(p) if value == 1.0)


def test_a_draw_has_the_planned_probabilities() -> None:
    p = {"a": 0.05, "b": 0.3, "c": 0.5, "d": 0.9, "e": 1.0}
    random = np.random.default_rng(1)
    draws = 20_000
    counts = dict.fromkeys(p, 0)
    for _ in range(draws):
        for name in draw(p, random):
            counts[name] += 1
    for name, wanted in p.items():
        assert counts[name] / draws == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / draws))
