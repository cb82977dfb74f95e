"""Budgets of a day, a battery, a panel and a fleet: what may be spent now, and a round in the long run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.budgets.accounts import Charged, Situation, allot, fleet_rate_j
from coordinator.budgets.solar import DAY_S, Trace, read_trace
from protos.errors import DataError
from protos.plan.sections import BudgetSection

NOON_S = 20_000 * DAY_S + 12 * 3600.0
# A triangle: nothing at 6, 10 W at noon, nothing at 18.
PANEL = Trace(np.array([21_600.0, 43_200.0, 64_800.0]), np.array([0.0, 10.0, 0.0]))


def at(now_s: float = NOON_S, rounds_left: int = 10, round_s: float = 60.0, fleet_j: float = 0.0) -> Situation:
    return Situation(now_s, NOON_S - 3600.0, rounds_left, round_s, fleet_j)


def test_no_budget_is_no_limit() -> None:
    found = allot(BudgetSection(), "a", None, Charged(), at())
    assert (found.limit_j, found.rate_j, found.standing_j) == (math.inf, math.inf, None)


def test_the_smaller_of_the_plans_and_the_devices_own_limit_counts() -> None:
    budget = BudgetSection(per_round_j=5.0, device={"b": 2.0})
    assert allot(budget, "a", 3.0, Charged(), at()).limit_j == 3.0
    assert allot(budget, "b", 3.0, Charged(), at()).limit_j == 2.0
    assert allot(budget, "b", None, Charged(100.0, 100.0), at()).standing_j == 2.0


def test_a_day_ends_at_midnight_and_what_was_spent_before_it_is_forgotten() -> None:
    budget = BudgetSection(per_day_j=100.0, scale={"b": 0.5})
    spent = Charged(run_j=500.0, today_j=40.0)
    assert allot(budget, "a", None, spent, at()).limit_j == 60.0
    assert allot(budget, "b", None, spent, at()).limit_j == 10.0
    assert allot(budget, "b", None, Charged(500.0, 70.0), at()).limit_j == 0.0
    # Twelve hours are left and a round takes one: twelve rounds share what is left, if the run has so many.
    assert allot(budget, "a", None, spent, at(round_s=3600.0, rounds_left=99)).rate_j == pytest.approx(5.0)
    assert allot(budget, "a", None, spent, at(round_s=3600.0, rounds_left=3)).rate_j == pytest.approx(20.0)


def test_a_battery_lasts_for_the_rounds_that_are_left() -> None:
    budget = BudgetSection(battery_j=1000.0, battery_share=0.2)
    found = allot(budget, "a", None, Charged(run_j=50.0), at(rounds_left=15))
    assert (found.limit_j, found.rate_j) == (150.0, 10.0)


def test_a_harvest_is_what_has_come_and_the_rate_knows_what_will() -> None:
    budget = BudgetSection(harvest="panel.csv", harvest_share=0.5)
    # From 11 to 12 the triangle gives 9.17 W on average.
    come_j = 0.5 * 3600.0 * (10.0 + 10.0 * 5 / 6) / 2
    found = allot(budget, "a", None, Charged(run_j=1000.0), at(rounds_left=6, round_s=3600.0), PANEL)
    assert found.limit_j == pytest.approx(come_j - 1000.0)
    afternoon_j = 0.5 * 10.0 * 6 * 3600.0 / 2
    assert found.rate_j == pytest.approx((come_j - 1000.0 + afternoon_j) / 6)


def test_several_limits_all_hold() -> None:
    budget = BudgetSection(per_round_j=4.0, per_day_j=3.0, battery_j=100.0)
    assert allot(budget, "a", None, Charged(), at()).limit_j == 3.0
    assert allot(budget, "a", None, Charged(run_j=98.0), at()).limit_j == 2.0


def test_a_total_is_shared_by_the_rounds_that_are_left() -> None:
    assert fleet_rate_j(BudgetSection(), at()) == math.inf
    assert fleet_rate_j(BudgetSection(fleet_j=100.0), at(rounds_left=4, fleet_j=60.0)) == 10.0
    assert fleet_rate_j(BudgetSection(fleet_j=100.0), at(fleet_j=160.0)) == 0.0


@given(st.floats(0, 4 * DAY_S), st.floats(0, 4 * DAY_S), st.floats(0, 4 * DAY_S))
def test_harvests_of_stretches_add_up(first: float, second: float, third: float) -> None:
    one, two, three = sorted((first, second, third))
    whole = PANEL.joules(one, three)
    assert whole == pytest.approx(PANEL.joules(one, two) + PANEL.joules(two, three), rel=1e-9, abs=1e-6)
    assert PANEL.day_j == pytest.approx(10.0 * 6 * 3600.0)


def test_a_trace_of_hours_is_a_trace_of_seconds(tmp_path: Path) -> None:
    path = tmp_path / "panel.csv"
    path.write_text("hours,watts\n6,0\n12,10\n18,0\n")
    found = read_trace(path)
    np.testing.assert_array_equal(found.seconds, PANEL.seconds)
    assert found.day_j == PANEL.day_j


@pytest.mark.parametrize(
    "text",
    ["", "hours,watts\n", "hours,watts\n6,1\n", "minutes,watts\n1,1\n2,2\n", "hours,watts\n6,1\n5,1\n",
     "hours,watts\n6,1\n25,1\n", "hours,watts\n6,-1\n7,1\n", "hours,watts\n6,nan\n7,1\n", "hours\n1\n2\n"],
)  # fmt: skip
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "panel.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"panel\.csv"):
        read_trace(path)


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
