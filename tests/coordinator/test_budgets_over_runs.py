"""A budget of one device that holds over all runs: what earlier ones spent, or may have spent, is charged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.budgets.accounts import Charged, Situation, allot
from coordinator.operator.client import Operator
from protos.energy.trace import Phase
from protos.orders import SettledEnergy, TrainOrder
from protos.plan.plan import parse
from protos.plan.sections import BudgetSection

Fleet = Callable[..., Any]
WORK = ((Phase.EMBED, 1.0), (Phase.TRAIN, 5.0), (Phase.ENCODE, 0.2))


def test_what_one_run_spent_is_not_there_for_the_next_whatever_restarts(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    text = tools.plan(plain_bundle, more="[budget]\ntotal_j = 10\n")
    state, granted = tmp_path / "state", []
    for turn in range(2):
        with tools.served(state) as address, Operator(address) as operator:
            run_id = operator.start_run(text, tmp_path)
            device = fleet(address, "a", session=f"a-{turn}")
            device.join()
            order: TrainOrder = device.order()
            granted.append(order.budget_j)
            spent = WORK if turn == 0 else ((Phase.EMBED, 0.0), (Phase.TRAIN, 3.0), (Phase.ENCODE, 0.2))
            device.send(device.answer(order, 1.0, energy=tuple(tools.joules(*pair) for pair in spent)))
            device.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.1),)))
            assert tools.finished(operator, run_id).state == "finished"
    assert granted[0] == pytest.approx(10.0)
    assert granted[1] == pytest.approx(10.0 - 6.3)
    with tools.served(state) as address, Operator(address) as operator:
        device = fleet(address, "a", session="a-3")
        device.join()
        others = operator.start_run(text.replace("total_j = 10", "total_j = 9"), tmp_path)
        ended = tools.finished(operator, others)
        assert ended.state == "failed"
        assert "can never open" in ended.reason
        assert "nothing is left of its budget" in ended.reason


@pytest.mark.parametrize("came_j", [2.0, None])
def test_what_came_in_is_charged_and_leaves_the_order_open_where_it_is_not_known(
    came_j: float | None, address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, more="[budget]\ntotal_j = 10\n"), tmp_path)
        device = fleet(address, "a")
        device.join()
        order: TrainOrder = device.order()
        energy = tuple(tools.joules(*pair) for pair in ((Phase.RECEIVE, came_j), *WORK))
        device.send(device.answer(order, 1.0, energy=energy))
        device.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.1),)))
        assert tools.finished(operator, run_id).state == "finished"
        (book,) = operator.budgets(run_id)
    assert book.spent_j == pytest.approx(6.3 + (came_j or 0.0))
    assert book.uncertain_j == pytest.approx(0.0 if came_j is not None else 10.0 - 6.3)


def test_an_order_that_nobody_answered_is_charged_to_the_runs_after_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(
            tools.plan(plain_bundle, more="[budget]\ntotal_j = 10\nper_round_j = 4\n"), tmp_path
        )
        device = fleet(address, "a")
        device.join()
        assert device.order().budget_j == pytest.approx(4.0)
        operator.stop_run(run_id)
        operator.start_run(tools.plan(plain_bundle, more="[budget]\ntotal_j = 10\n"), tmp_path)
        assert device.order().budget_j == pytest.approx(6.0)


def test_runs_that_ask_for_no_such_budget_do_not_look_at_others(plain_bundle: Path, tools: Any) -> None:
    plain, limited = (parse(tools.plan(plain_bundle, more=more)) for more in ("", "[budget]\ntotal_j = 5\n"))
    assert not plain.budget.has_accounts
    assert limited.budget.has_accounts
    assert plain.plan_id != limited.plan_id


def test_the_total_lasts_for_the_rounds_that_are_left_and_is_scaled() -> None:
    budget = BudgetSection(total_j=10.0, scale={"b": 0.5})
    now = Situation(now_s=0.0, started_s=0.0, rounds_left=4, round_s=60.0)
    found = allot(budget, "a", None, Charged(run_j=1.0, ever_j=2.0), now)
    assert (found.limit_j, found.rate_j, found.standing_j) == (8.0, 2.0, 10.0)
    assert allot(budget, "b", None, Charged(ever_j=9.0), now).limit_j == 0.0
