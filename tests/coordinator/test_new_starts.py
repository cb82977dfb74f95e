"""What an order granted to a start of its device that ended may be spent: it is charged, and not handed out again."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run import resume
from protos.energy.trace import Phase
from protos.orders import SettledEnergy, TrainOrder, Verdict

Fleet = Callable[..., Any]
BATTERY = "[budget]\nbattery_j = {}\n"


def _spent(tools: Any, train_j: float) -> Any:
    return tuple(
        tools.joules(phase, j) for phase, j in ((Phase.EMBED, 0.5), (Phase.TRAIN, train_j), (Phase.ENCODE, 0.1))
    )


def _ledger(operator: Operator, run_id: str) -> tuple[float, float, float]:
    (one,) = operator.budgets(run_id)
    return one.granted_j, round(one.spent_j, 6), round(one.uncertain_j, 6)


def _start(operator: Operator, tools: Any, bundle: Path, tmp_path: Path, more: str, **keys: Any) -> str:
    return str(operator.start_run(tools.plan(bundle, deadline_s=600, more=more, **keys), tmp_path))


@pytest.mark.parametrize("restart", [False, True])
def test_three_power_cuts_do_not_hand_out_a_battery_four_times(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, restart: bool
) -> None:
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(10))
        a = fleet(address, "a", session="a-0")
        a.join()
        assert a.order().budget_j == 10.0
        assert a.order().budget_j == 10.0, "the same start asks as often as it likes"
        if not restart:
            _nothing_is_left(operator, run_id, fleet, address)
    if restart:
        with tools.served(tmp_path / "state") as address, Operator(address) as operator:
            _nothing_is_left(operator, run_id, fleet, address)


def _nothing_is_left(operator: Operator, run_id: str, fleet: Fleet, address: str) -> None:
    for start in range(1, 4):
        a = fleet(address, "a", session=f"a-{start}")
        a.join()
        for _ in range(5):
            assert not isinstance(a.ask(), TrainOrder)
    assert _ledger(operator, run_id) == (10.0, 0.0, 10.0)


def test_each_start_gets_what_the_account_leaves_and_all_of_it_is_charged(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(12) + "per_round_j = 5\n")
        handed = []
        for start in range(3):
            a = fleet(address, "a", session=f"a-{start}")
            a.join()
            order = a.order()
            handed.append(order.budget_j)
        assert handed == [5.0, 5.0, 2.0]
        assert a.send(a.answer(order, 1.0, energy=_spent(tools, 1.0))).verdict is Verdict.ACCEPTED
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.1),)))
        status = tools.finished(operator, run_id)
        assert status.state == "finished"
        # The third told what it spent. Of the first two nobody will ever know.
        assert _ledger(operator, run_id) == (12.0, 1.7, 10.0)


def test_a_start_that_never_saw_its_order_has_not_spent_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(10))
        fleet(address, "a", session="a-0").join()
        tools.until(lambda: len(operator.status(run_id)[0].rounds) == 2, "an open round")
        a = fleet(address, "a", session="a-1")
        a.join()
        assert a.order().budget_j == 10.0
        assert _ledger(operator, run_id) == (10.0, 0.0, 10.0)


def test_a_device_that_leaves_with_an_order_in_its_hands_is_charged_for_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(8) + "per_round_j = 5\n", devices=2)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        assert a.order().budget_j == 5.0
        # Such as one whose training diverged: what that took it does not say.
        a.leave()
        a.join()
        assert a.order().budget_j == 3.0


def test_without_a_limit_a_new_start_simply_takes_the_order(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = _start(operator, tools, plain_bundle, tmp_path, "")
        for start in range(3):
            a = fleet(address, "a", session=f"a-{start}")
            a.join()
            order = a.order()
        assert a.send(a.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"


def test_a_run_whose_books_are_bad_fails_with_the_reason_where_an_order_is_handed_to_another_start(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(10))
        a = fleet(address, "a", session="a-0")
        a.join()
        assert a.order().budget_j == 10.0
        with closing(sqlite3.connect(state / "coordinator.db", timeout=30)) as raw, raw:
            raw.execute("UPDATE grants SET granted_j = 'no figure'")
        raw.close()
        a = fleet(address, "a", session="a-1")
        a.join()
        for _ in range(2):
            assert not isinstance(a.ask(), TrainOrder)
        found = tools.finished(operator, run_id)
        assert found.state == "failed"
        assert "internal error: " in found.reason


def test_who_was_left_out_is_asked_again_only_with_something_new(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        _start(operator, tools, plain_bundle, tmp_path, BATTERY.format(10), devices=2, quorum=0.5)
        a, b = fleet(address, "a", session="a-0"), fleet(address, "b")
        a.join()
        b.join()
        assert isinstance(a.order(), TrainOrder)
        a = fleet(address, "a", session="a-1")
        for _ in range(3):
            # The same start, as after a connection that broke.
            a.join()
            assert not isinstance(a.ask(), TrainOrder)
    assert caplog.text.count("a is not asked again") == 1


@pytest.fixture
def steadfast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is tried until the devices have come, however busy the machine is."""
    real = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), attempts=1000))


@pytest.mark.usefixtures("steadfast")
def test_a_further_attempt_charges_what_a_start_that_ended_was_granted(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        more = BATTERY.format(8) + "per_round_j = 5\n"
        text = tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=1, more=more)
        run_id = operator.start_run(text, tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        assert b.order().budget_j == 5.0
        assert a.send(a.answer(a.order(), 1.0)).verdict is Verdict.ACCEPTED
        tools.until(lambda: operator.status(run_id)[0].rounds[1].state == "abandoned", "the end of the first attempt")
        b = fleet(address, "b", session="b-2")
        b.join()
        order = b.order()
        assert (order.attempt or 0) > 1
        assert order.budget_j == 3.0
        assert b.send(b.answer(order, 1.0, energy=_spent(tools, 1.0))).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
        (of_b,) = (budget for budget in operator.budgets(run_id) if budget.device_id == "b")
        assert of_b.granted_j == 8.0
        assert of_b.uncertain_j >= 5.0
