"""A round planned from a plan's text: who is asked, in what, with which weight, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.budgets.accounts import Charged, Situation
from coordinator.budgets.codec_error import report_bytes
from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.budgets.round_plan import Entrant, Surroundings, plan_round
from protos.energy.trace import Phase, PhaseEnergy
from protos.plan.plan import RunPlan, parse

CODED = '[update]\ncodec = "entropy_coded"\n[planner]\npolicy = "joules"\np_min = 0.1\n'


def plan(more: str = "") -> RunPlan:
    return parse(f'[run]\nbundle = "b"\nrounds = 10\n[aggregate]\nweight = ["by_examples"]\n{more}')


def entrant(name: str, examples: int = 100, step_j: float = 0.01, **changes: Any) -> Entrant:
    model = CostModel(prices_of("pi4", macs=1_000_000, coordinates=650, batch_size=16))
    for steps in (10, 40) * 6:
        joules = {Phase.TRAIN: 0.05 + step_j * steps, Phase.ENCODE: 0.02, Phase.SEND: 0.1}
        energy = [PhaseEnergy(phase, value, 1.0, 0.0, "measured", "s", None) for phase, value in joules.items()]
        model.observe(Work(0, steps, 1000, 3000), energy)
    return Entrant(name, examples, 20, model, **changes)


def around(number: int = 1, fleet_j: float = 0.0, seed: int = 0) -> Surroundings:
    situation = Situation(1.8e9, 1.8e9 - 60, 10, 60.0, fleet_j)
    return Surroundings(number, situation, 650, float, np.random.default_rng(seed))


def test_without_a_planner_everyone_is_asked_for_what_the_plan_says() -> None:
    made = plan_round(plan("[budget]\nper_round_j = 2\n"), [entrant("a"), entrant("b", own_j=0.5)], around())
    assert [(line.device_id, line.steps, line.budget_j, line.probability, line.bits) for line in made.lines] == [
        ("a", 20, 2.0, 1.0, None),
        ("b", 20, 0.5, 1.0, None),
    ]
    assert made.whole is None
    assert (made.from_plan.total_variation, made.from_plan.largest_ratio) == (0.0, 1.0)


def test_weights_by_budget_are_far_from_weights_by_examples_and_it_is_said() -> None:
    text = '[run]\nbundle = "b"\n[aggregate]\nweight = ["by_examples", "by_budget"]\n[budget]\nper_round_j = 3\n'
    made = plan_round(parse(text + "[budget.device]\nb = 1\n"), [entrant("a"), entrant("b")], around())
    assert made.from_plan.total_variation == pytest.approx(0.0)
    assert made.from_examples.total_variation == pytest.approx(0.25)  # 3 : 1 instead of 1 : 1
    assert made.from_examples.largest_ratio == pytest.approx(2.0)


def test_no_device_gives_itself_more_say_than_its_board_can_spend_in_a_round() -> None:
    """A board of 6 W and 100 s can spend 600 J; who says that it may spend 10^9 is believed up to there."""
    text = '[run]\nbundle = "b"\n[round]\ndeadline_s = 100\n[aggregate]\nweight = ["by_budget"]\n'
    fleet = [entrant("a", own_j=2.0, work_w=6.0), entrant("b", own_j=1e9, work_w=6.0)]
    standing = {line.device_id: line.standing_j for line in plan_round(parse(text), fleet, around()).lines}
    assert standing == {"a": 2.0, "b": 600.0}
    promised = plan_round(parse(text + "[budget]\nper_round_j = 5000\n"), fleet, around())
    assert {line.device_id: line.standing_j for line in promised.lines} == {"a": 2.0, "b": 5000.0}, (
        "the operator's word"
    )


def test_a_total_is_kept_in_expectation_and_weights_stay_unbiased() -> None:
    fleet = [entrant(f"d{at}", examples=20 * (at + 1), step_j=0.005 * (at + 1)) for at in range(8)]
    text = plan(CODED + "[budget]\nfleet_j = 10\n")
    spent = []
    say: dict[str, float] = {each_entrant.device_id: 0.0 for each_entrant in fleet}
    draws = 1500
    for seed in range(draws):
        made = plan_round(text, fleet, around(seed=seed))
        spent.append(sum(line.expected_j or 0.0 for line in made.lines))
        for line in made.lines:
            assert 0.1 <= line.probability <= 1.0
            assert line.factor == pytest.approx(1 / line.probability)
            assert line.bits is not None
            say[line.device_id] += line.factor / draws
    assert np.mean(spent) <= 1.0 * 1.03, "a tenth of the total, in expectation"
    assert np.mean(spent) >= 0.9, "and no less"
    assert made.from_plan.total_variation == pytest.approx(0.0, abs=1e-9)
    for value in say.values():
        assert value == pytest.approx(1.0, abs=0.35)
    assert made.whole is not None
    assert made.whole.weight == sum(each_entrant.examples for each_entrant in fleet)


def test_who_is_left_out_is_named_and_the_bias_said() -> None:
    fleet = [entrant("rich"), entrant("poor", charged=Charged(run_j=99.95)), entrant("third")]
    made = plan_round(plan(CODED + "[budget]\nbattery_j = 100\n"), fleet, around())
    assert [name for name, _ in made.left_out] == ["poor"]
    assert made.from_plan.total_variation == pytest.approx(1 / 3)
    assert made.from_plan.largest_ratio is None


def test_who_cannot_pay_for_its_own_report_is_left_out_without_a_planner_too() -> None:
    made = plan_round(plan("[budget]\nper_round_j = 2\ndevice = {b = 0.05}\n"), [entrant("a"), entrant("b")], around())
    assert [line.device_id for line in made.lines] == ["a"]
    assert made.left_out == (("b", "sending a report costs more than it may spend"),)
    assert made.from_plan.total_variation > 0


@pytest.mark.parametrize(("factor", "is_asked"), [(1 - 2**-50, False), (1.0, True), (1 + 2**-50, True)])
def test_who_can_just_pay_for_its_own_report_is_asked(factor: float, is_asked: bool) -> None:
    one = entrant("a")
    text = plan("[budget]\nper_round_j = 2\n")
    sent_bytes = report_bytes(text.update.parameters["bits"], 650)
    sending = one.costs.forecast(Work(one.embeddings, one.steps, sent_bytes, one.bytes_down)).sending
    least_j = sending.mean - sending.deviation
    assert least_j > 0
    made = plan_round(text, [entrant("a", own_j=least_j * factor), entrant("rich")], around())
    assert [line.device_id for line in made.lines] == (["a", "rich"] if is_asked else ["rich"])


def test_who_has_nothing_left_is_left_out_whether_its_costs_are_known_or_not() -> None:
    cold = CostModel(prices_of("pi4", macs=1_000_000, coordinates=650, batch_size=16))
    empty = Charged(run_j=100.0)
    fleet = [entrant("rich"), entrant("known", charged=empty), Entrant("cold", 100, 20, cold, charged=empty)]
    made = plan_round(plan("[budget]\nbattery_j = 100\n"), fleet, around())
    assert [line.device_id for line in made.lines] == ["rich"]
    assert made.left_out == tuple((name, "nothing is left of its budget") for name in ("known", "cold"))


def test_less_than_one_device_in_expectation_is_one() -> None:
    fleet = [entrant(f"d{at}") for at in range(4)]
    for seed in range(20):
        assert len(plan_round(plan(CODED + "[budget]\nfleet_j = 1.5\n"), fleet, around(seed=seed)).lines) == 1


def test_intervals_stand_for_p_when_the_plan_says_so() -> None:
    text = plan('[planner]\nparticipation = "fedau"\n')
    made = plan_round(text, [entrant("often", rounds=(1, 2, 3)), entrant("rarely", rounds=(3,))], around(number=4))
    assert {line.device_id: line.factor for line in made.lines} == {"often": 1.0, "rarely": 3.0}
    assert made.whole is not None


def test_a_device_is_told_what_was_metered_and_no_more() -> None:
    cold = Entrant("cold", 100, 20, CostModel(prices_of("pi4", macs=1_000_000, coordinates=650, batch_size=16)))
    made = plan_round(plan("[budget]\nper_round_j = 2\n"), [entrant("warm"), cold], around())
    warm, unknown = (line.costs for line in made.lines)
    assert warm is not None
    assert unknown is not None
    assert warm.step_j == pytest.approx(0.01, rel=0.3)
    assert warm.sending_j >= 0.12
    assert (unknown.step_j, unknown.embedding_j) == (0.0, 0.0)
    assert unknown.sending_j > 0


def test_an_account_is_held_for_twice_what_a_round_may_cost_at_most_and_no_more() -> None:
    one, text = entrant("a"), plan("[budget]\nbattery_j = 10000\n")
    sent_bytes = report_bytes(text.update.parameters["bits"], 650)
    cost = one.costs.forecast(Work(one.embeddings, one.steps, sent_bytes, one.bytes_down)).whole
    assert cost.deviation > 0
    (line,) = plan_round(text, [one], around()).lines
    # A round's share of 10,000 J over the ten that are left is far above what one costs.
    (poor,) = plan_round(plan("[budget]\nbattery_j = 5\n"), [entrant("a")], around()).lines
    assert line.budget_j == pytest.approx(1000.0)
    assert poor.budget_j == pytest.approx(2 * (cost.mean + 2 * cost.deviation))


def test_first_prices_are_work_by_speed_times_watts() -> None:
    """A Pi 4 whose one busy core takes W: 2.3e9 multiply-accumulates, 2e6 coordinates and 2e6 bytes a second."""
    prices, none = (prices_of("pi4", macs=2_300_000, coordinates=count, batch_size=16) for count in (2_000, 0))
    watts = prices.send_fixed_j / 0.03
    assert prices.embedding_j == pytest.approx(0.001 * watts)
    assert prices.encode_j == pytest.approx((0.01 + 0.001) * watts)
    assert none.encode_j == pytest.approx(0.01 * watts)
    assert prices.step_j == pytest.approx((0.0005 + 3 * 2_000 * 16 / 2.3e8) * watts)
    assert prices.up_j == pytest.approx(watts / 2e6)
