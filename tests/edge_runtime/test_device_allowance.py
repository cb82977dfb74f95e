"""What may still be spent: joules, seconds, and a meter that falls silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.round.allowance import Allowance, Price
from edge_runtime.round.costs import CostHistory, Reserve
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import CostHint, StopReason

BUNDLE = "bundle-a"


def metered(phase: Phase, energy_j: float | None, seconds: float = 1.0) -> PhaseEnergy:
    return PhaseEnergy(phase, energy_j, seconds, 0.0, "measured", "s", None)


class Spending:
    def __init__(self) -> None:
        self.joules: float | None = 0.0
        self.now_s = 10.0
        self.stop = False

    def allowance(self, reserve: Reserve | None = None, **changes: Any) -> Allowance:
        values: dict[str, Any] = {
            "budget_j": None,
            "deadline_s": 100.0,
            "reserve": reserve or Reserve(),
            "spent_j": lambda: self.joules,
            "now_s": lambda: self.now_s,
            "stopping": lambda: self.stop,
        }
        return Allowance(**{**values, **changes})


def rounds(*costs: tuple[float | None, float], history: CostHistory | None = None) -> Reserve:
    """A device that sent so many reports, each for (joules, seconds) of coding and sending."""
    reserve = Reserve(history, BUNDLE)
    for joules, seconds in costs:
        half = None if joules is None else joules / 2
        reserve.worked((metered(Phase.ENCODE, half),), 0, 0, seconds / 2)
        reserve.sent(half, seconds / 2)
    return reserve


def test_without_a_budget_the_meter_is_never_asked() -> None:
    def broken() -> float:
        raise OSError("the sensor is gone")

    allowance = Spending().allowance(spent_j=broken)
    assert allowance.step() is None
    assert allowance.examples(8) == 8


def test_training_ends_where_the_rest_is_needed_for_coding_and_sending() -> None:
    spending = Spending()
    allowance = spending.allowance(rounds((1.0, 1.0)), budget_j=10.0)
    spending.joules = 8.7
    assert allowance.step() is None
    spending.joules = 8.8  # 10 - 1.2 x 1
    assert allowance.step() is StopReason.BUDGET


def test_a_step_that_the_budget_does_not_pay_for_is_not_begun() -> None:
    spending = Spending()
    allowance = spending.allowance(rounds((1.0, 1.0)), budget_j=10.0)
    made = 0
    while allowance.step() is None:
        made += 1
        spending.joules = 3.0 * made  # the price shows with the first
    assert (made, spending.joules) == (2, 6.0)


def test_a_step_that_was_dear_in_earlier_rounds_is_known_before_the_first() -> None:
    reserve = rounds((0.5, 1.0))
    reserve.worked((metered(Phase.TRAIN, 20.0), metered(Phase.ENCODE, 0.1)), 0, 4, 0.0)
    assert Spending().allowance(reserve, budget_j=5.5).step() is StopReason.BUDGET
    assert Spending().allowance(reserve, budget_j=5.7).step() is None


def test_a_device_that_knows_nothing_believes_the_order() -> None:
    reserve = Reserve(None, BUNDLE, CostHint(embedding_j=0.5, step_j=2.0, sending_j=1.0, work_w=3.0))
    assert Spending().allowance(reserve, budget_j=2.9).step() is StopReason.BUDGET
    assert Spending().allowance(reserve, budget_j=3.1).step() is None
    assert Spending().allowance(reserve, budget_j=3.1).examples(8) == 4
    assert Spending().allowance(reserve, budget_j=1.4).examples(8) is StopReason.BUDGET


def test_its_own_figures_count_more_than_the_order() -> None:
    reserve = rounds((0.25, 1.0))
    reserve.told(CostHint(embedding_j=9.0, step_j=9.0, sending_j=9.0, work_w=9.0))
    reserve.worked((metered(Phase.EMBED, 4.0), metered(Phase.TRAIN, 1.0)), 8, 2, 0.0)
    assert (reserve.embedding_j, reserve.step_j) == (0.5, 0.5)
    assert reserve.work_w == 9.0, "the larger: a shared machine draws less than it could"
    reserve.told(None)
    assert reserve.work_w == 4.0
    assert reserve.joules(10.0) == pytest.approx(0.3)


def test_nobody_knows_anything_so_a_tenth_is_kept_and_one_example_is_tried() -> None:
    assert Reserve().joules(10.0) == pytest.approx(1.0)
    spending = Spending()
    allowance = spending.allowance(budget_j=10.0)
    assert allowance.examples(8) == 1
    spending.joules = 2.0
    assert allowance.examples(8) == 3  # (9 - 2) / 2
    spending.joules = 8.0
    assert allowance.examples(8) is StopReason.BUDGET


def test_pieces_that_are_held_up_once_in_a_while_do_not_pass_the_budget() -> None:
    # A step takes 0.1 J, and one of each round, which nobody can foresee, 3 J. Coding and sending: 1 J.
    history = CostHistory(None)
    reserve = rounds((1.0, 1.0), (1.0, 1.0), history=history)
    over, steps = [], []
    for late in (20, 85, 40, 70, 60, 80):
        spending = Spending()
        allowance = spending.allowance(reserve, budget_j=10.0)
        made = 0
        while allowance.step() is None:
            made += 1
            assert spending.joules is not None
            spending.joules += 3.0 if made == late else 0.1
        assert spending.joules is not None
        over.append(spending.joules + 1.2 > 10.0 + 1e-9)
        energy = (metered(Phase.TRAIN, spending.joules), metered(Phase.ENCODE, 0.5))
        reserve.worked(energy, 0, made, 0.5, excess_j=allowance.excess_j)
        steps.append(made)
    assert not any(over[1:]), "from the second round on it is known"
    assert sorted(steps)[len(steps) // 2] > 20, "what is kept back for it is not the whole round"


def test_what_was_held_up_is_the_most_by_which_a_stretch_cost_more_than_it_was_allowed_at() -> None:
    price = Price(0.25)
    assert price.at(10.0) == 0.25
    for pieces, charged_j, excess_j in (
        (4, 11.25, 0.0),  # 1.25 J, a quarter above: noise
        (2, 13.25, 2 * (1.0 - 0.3125)),  # 1 J each where 0.3125 J was expected
        (1, 13.75, 2 * (1.0 - 0.3125)),  # less than was expected now
    ):
        price.asked(pieces)
        price.at(charged_j)
        assert price.excess_j == pytest.approx(excess_j)


def test_an_unknown_cost_of_sending_teaches_nothing() -> None:
    assert rounds((None, 1.0)).joules(10.0) == pytest.approx(1.0)


def test_a_restart_remembers_what_work_cost(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    rounds((1.0, 5.0), (2.0, 4.0), history=CostHistory(path))
    again = Reserve(CostHistory(path), BUNDLE)
    assert (again.joules(10.0), again.seconds(100.0)) == (pytest.approx(2.9), pytest.approx(6.5))
    assert Reserve(CostHistory(path), "another bundle").joules(10.0) == pytest.approx(1.0)


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"bundle-a": 3}', b'{"bundle-a": {"sending_j": ["x"]}}', b"\xff"])
def test_a_damaged_file_of_costs_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(damage)
    assert Reserve(CostHistory(path), BUNDLE).joules(10.0) == pytest.approx(1.0)


def test_a_meter_that_falls_silent_is_charged_at_the_highest_mean_power() -> None:
    spending = Spending()
    allowance = spending.allowance(budget_j=10.0)
    spending.now_s, spending.joules = 12.0, 4.0  # 2 W
    assert allowance.step() is None
    spending.joules = None
    spending.now_s = 12.4  # 0.8 J more, which is the price of a step: 4.8 J of 9 J
    assert allowance.step() is None
    spending.now_s = 14.6
    assert allowance.step() is StopReason.BUDGET


def test_a_meter_that_never_spoke_allows_nothing_under_a_budget() -> None:
    spending = Spending()
    spending.joules = None
    assert spending.allowance(budget_j=10.0).step() is StopReason.BUDGET


def test_the_deadline_keeps_time_for_sending() -> None:
    spending = Spending()
    allowance = spending.allowance(rounds((1.0, 5.0)), deadline_s=20.0)
    spending.now_s = 23.9
    assert allowance.step() is None
    spending.now_s = 24.0  # 10 + 20 - 1.2 x 5
    assert allowance.step() is StopReason.DEADLINE


def test_a_request_to_stop_comes_before_all() -> None:
    spending = Spending()
    allowance = spending.allowance(deadline_s=0.0, budget_j=1.0)
    spending.stop = True
    assert allowance.step() is StopReason.SHUTDOWN


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=9), st.floats(1e-6, 1e9))
def test_the_reserve_is_never_more_than_there_is(costs: list[tuple[float, float]], limit: float) -> None:
    reserve = rounds(*costs)
    ask: list[Callable[[float], float]] = [reserve.joules, reserve.seconds]
    for function in ask:
        assert 0.0 <= function(limit) <= limit


@given(
    budget_j=st.floats(0.01, 100),
    sending_j=st.floats(0.001, 50),
    step_j=st.floats(0.0005, 20),
    example_j=st.floats(0.0005, 20),
    examples=st.integers(0, 60),
    guess=st.floats(1.0, 4.0),
)
def test_a_device_with_steady_costs_never_spends_more_than_its_budget(
    budget_j: float, sending_j: float, step_j: float, example_j: float, examples: int, guess: float
) -> None:
    """Whatever the hint overrates: embedding, training and sending together stay within, if sending alone does."""
    spending = Spending()
    hint = CostHint(guess * example_j, guess * step_j, guess * sending_j, 1.0)
    allowance = spending.allowance(Reserve(None, BUNDLE, hint), budget_j=budget_j)
    spent, done = 0.0, 0
    while done < examples and not isinstance(granted := allowance.examples(min(8, examples - done)), StopReason):
        assert 1 <= granted <= 8
        done, spent = done + granted, spent + granted * example_j
        spending.joules = spent
    while done == examples and allowance.step() is None and spent < 2 * budget_j:
        spent += step_j
        spending.joules = spent
    assert spent + sending_j <= max(budget_j, sending_j) * (1 + 1e-9)


def test_steps_that_vary_are_priced_by_their_spread() -> None:
    """Four of 0.5 J and 1.5 J in turn: mean 1 J, standard deviation of a sample 0.577 J, so the fifth is 2.15 J."""
    for left_j, verdict in ((2.2, None), (2.1, StopReason.BUDGET)):
        spending = Spending()
        allowance = spending.allowance(rounds((1e-9, 1.0)), budget_j=4.0 + left_j)
        for joules in (0.0, 0.5, 2.0, 2.5):
            spending.joules = joules
            assert allowance.step() is None
        spending.joules = 4.0
        assert allowance.step() is verdict


def test_work_that_became_slow_keeps_more_back_for_sending() -> None:
    """Steps of 0.5 J where they were of 0.1 J: sending is expected to cost five times 0.2 J, and a fifth more."""
    for left_j, verdict in ((1.8, None), (1.6, StopReason.BUDGET)):
        reserve = rounds((0.2, 1.0))
        reserve.worked((metered(Phase.TRAIN, 1.0), metered(Phase.ENCODE, 0.1)), 0, 10, 0.0)
        spending = Spending()
        allowance = spending.allowance(reserve, budget_j=2.0 + left_j)
        for joules in (0.0, 0.5, 1.0, 1.5):
            spending.joules = joules
            assert allowance.step() is None
        spending.joules = 2.0
        assert allowance.step() is verdict


def test_a_block_of_examples_costs_no_more_than_a_fiftieth_of_the_budget() -> None:
    reserve = Reserve(None, BUNDLE, CostHint(embedding_j=0.05, step_j=1.0, sending_j=0.1, work_w=1.0))
    assert Spending().allowance(reserve, budget_j=10.0).block(8) == 4
    assert Spending().allowance(reserve, budget_j=1.0).block(8) == 1
    assert Spending().allowance(reserve, budget_j=100.0).block(8) == 8
    assert Spending().allowance(reserve).block(8) == 8, "without a budget nothing is asked"
