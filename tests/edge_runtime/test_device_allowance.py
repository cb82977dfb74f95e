"""What may still be spent: joules, seconds, and a meter that falls silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.allowance import Allowance, Reserve
from protos.orders import StopReason


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


def rounds(*costs: tuple[float | None, float]) -> Reserve:
    reserve = Reserve()
    for joules, seconds in costs:
        reserve.coded(joules if joules is None else joules / 2, seconds / 2)
        reserve.sent(joules if joules is None else joules / 2, seconds / 2)
    return reserve


def test_without_a_budget_the_meter_is_never_asked() -> None:
    def broken() -> float:
        raise OSError("the sensor is gone")

    assert Spending().allowance(spent_j=broken).ask() is None


def test_training_ends_where_the_rest_is_needed_for_coding_and_sending() -> None:
    spending = Spending()
    allowance = spending.allowance(rounds((1.0, 1.0)), budget_j=10.0)
    spending.joules = 8.7
    assert allowance.ask() is None
    spending.joules = 8.8  # 10 - 1.2 x 1
    assert allowance.ask() is StopReason.BUDGET


def test_the_first_reserve_is_a_tenth_of_the_budget() -> None:
    assert Reserve().joules(10.0) == pytest.approx(1.0)


def test_any_budget_left_buys_the_first_step() -> None:
    spending = Spending()
    allowance = spending.allowance(budget_j=10.0)
    spending.joules = 9.99
    assert allowance.ask() is StopReason.BUDGET
    assert allowance.ask(first_step=True) is None
    spending.joules = 10.0
    assert allowance.ask(first_step=True) is StopReason.BUDGET


def test_an_unknown_cost_of_sending_teaches_nothing() -> None:
    assert rounds((None, 1.0)).joules(10.0) == pytest.approx(1.0)


def test_a_meter_that_falls_silent_is_charged_at_the_highest_mean_power() -> None:
    spending = Spending()
    allowance = spending.allowance(budget_j=10.0)
    spending.now_s, spending.joules = 12.0, 4.0  # 2 W
    assert allowance.ask() is None
    spending.joules = None
    spending.now_s = 14.4  # 4 J + 2.4 s x 2 W = 8.8 J of 9 J
    assert allowance.ask() is None
    spending.now_s = 14.6
    assert allowance.ask() is StopReason.BUDGET


def test_a_meter_that_never_spoke_allows_nothing_under_a_budget() -> None:
    spending = Spending()
    spending.joules = None
    assert spending.allowance(budget_j=10.0).ask(first_step=True) is StopReason.BUDGET


def test_the_deadline_keeps_time_for_sending() -> None:
    spending = Spending()
    allowance = spending.allowance(rounds((1.0, 5.0)), deadline_s=20.0)
    spending.now_s = 23.9
    assert allowance.ask() is None
    spending.now_s = 24.0  # 10 + 20 - 1.2 x 5
    assert allowance.ask() is StopReason.DEADLINE


def test_a_request_to_stop_comes_before_all() -> None:
    spending = Spending()
    allowance = spending.allowance(deadline_s=0.0, budget_j=1.0)
    spending.stop = True
    assert allowance.ask() is StopReason.SHUTDOWN


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=9), st.floats(1e-6, 1e9))
def test_the_reserve_is_never_more_than_there_is(costs: list[tuple[float, float]], limit: float) -> None:
    reserve = rounds(*costs)
    ask: list[Callable[[float], float]] = [reserve.joules, reserve.seconds]
    for one in ask:
        assert 0.0 <= one(limit) <= limit
