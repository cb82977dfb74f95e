"""What an order that is asked again grants comes on top of what the attempts before it cost, and never hides it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run import resume
from protos.energy.trace import Phase
from protos.orders import SettledEnergy, TrainOrder, Verdict

Fleet = Callable[..., Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), gather_s=0.3, attempts=1000))


def _spent(tools: Any, train_j: float | None) -> Any:
    return tuple(tools.joules(phase, j) for phase, j in ((Phase.EMBED, 0), (Phase.TRAIN, train_j), (Phase.ENCODE, 0)))


def _ledger(operator: Operator, run_id: str, device_id: str) -> tuple[float, float, float]:
    (one,) = (budget for budget in operator.budgets(run_id) if budget.device_id == device_id)
    return round(one.granted_j, 6), round(one.spent_j, 6), round(one.uncertain_j, 6)


@pytest.mark.parametrize("restart", [False, True])
def test_what_a_pause_ended_stays_granted_beside_what_is_granted_when_the_run_goes_on(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, restart: bool
) -> None:
    state, text = tmp_path / "state", tools.plan(plain_bundle, more="[budget]\nper_round_j = 5\n")

    def goes_on(operator: Operator, run_id: str, a: Any) -> None:
        operator.resume_run(run_id)
        order = a.order()
        assert (order.attempt, order.budget_j) == (2, 5.0)
        assert a.order().budget_j == 5.0, "the same start asks as often as it likes"
        assert _ledger(operator, run_id, "a") == (9.75, 4.75, 5.0)
        assert a.send(a.answer(order, 1.0, energy=_spent(tools, 4.5), attempt=2)).verdict is Verdict.ACCEPTED
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),), attempt=2))
        assert tools.finished(operator, run_id).state == "finished"
        assert _ledger(operator, run_id, "a") == (9.75, 9.5, 0.0)

    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        a = fleet(address, "a")
        a.join()
        held = a.order()
        operator.pause_run(run_id)
        late = a.send(a.answer(held, 1.0, energy=_spent(tools, 4.5), attempt=1))
        assert late.verdict is Verdict.LATE
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),), attempt=1))
        assert _ledger(operator, run_id, "a") == (5.0, 4.75, 0.0)
        if not restart:
            goes_on(operator, run_id, a)
    if restart:
        with tools.served(state) as address, Operator(address) as operator:
            a = fleet(address, "a")
            a.join()
            goes_on(operator, run_id, a)


def test_a_report_that_was_late_and_counts_after_all_is_paid_for_once(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    """The network delivers it a second time, when a further attempt is open that trains from the same head."""
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, more="[budget]\nper_round_j = 5\n"), tmp_path)
        a = fleet(address, "a")
        a.join()
        report = a.answer(a.order(), 1.0, energy=_spent(tools, 4.5), attempt=1)
        operator.pause_run(run_id)
        assert a.send(report).verdict is Verdict.LATE
        operator.resume_run(run_id)
        assert a.order().attempt == 2
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.EMBED, 0.125),), attempt=2))
        assert a.send(report).verdict is Verdict.ACCEPTED
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),), attempt=1))
        # What the further attempt cost meanwhile does not stand in the accepted one's place, nor the reverse.
        a.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.TRAIN, 1.0),), attempt=2))
        assert tools.finished(operator, run_id).state == "finished"
        assert _ledger(operator, run_id, "a")[1] == 4.5 + 0.25 + 0.125 + 1.0


@pytest.mark.parametrize("train_j", [5.0, None], ids=["told", "its sensor failed"])
def test_an_attempt_gets_what_is_left_also_of_what_was_told_after_it_opened(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, train_j: float | None
) -> None:
    text = tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=1, more="[budget]\nbattery_j = 8\n")
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        held = b.order()
        assert held.budget_j == 8.0
        assert a.send(a.answer(a.order(), 1.0)).verdict is Verdict.ACCEPTED
        fields = {"energy": _spent(tools, train_j), "local_normaliser": 500.0, "attempt": 1}
        assert b.send(b.answer(held, 1.0, **fields)).verdict is Verdict.REJECTED
        for state in ("abandoned", "open"):
            tools.until(lambda state=state: operator.status(run_id)[0].rounds[1].state == state, "a further attempt")
        # A further attempt asks it before it has told what sending took.
        told = SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.5),), attempt=1)
        if train_j is None:
            for _ in range(5):
                assert not isinstance(b.ask(told), TrainOrder), "all of its battery may be spent"
            assert _ledger(operator, run_id, "b") == (8.0, 0.5, 7.5)
            return
        assert tools.until(lambda: isinstance(one := b.ask(told), TrainOrder) and one, "its order").budget_j == 2.5
        assert _ledger(operator, run_id, "b") == (8.0, 5.5, 2.5)
