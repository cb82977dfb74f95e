"""A further attempt at a round asks again whoever did not count, and what earlier attempts cost stays counted."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from stored_runs import accept, report_of, started

from coordinator.budgets.order_line import OrderLine
from coordinator.operator.client import Operator
from coordinator.run import report_transactions, resume, round_transactions
from coordinator.store import devices, reading, reports, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.ledger import accounts
from coordinator.store.models import heads
from coordinator.store.tables import events
from coordinator.store.tables import reports as reports_table
from protos.convert.orders import order_to
from protos.energy.trace import Phase
from protos.errors import StoreError
from protos.orders import SettledEnergy, TrainOrder, Verdict

Fleet = Callable[..., Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), gather_s=0.3))


def test_a_refused_device_is_asked_again_and_both_attempts_cost_it_joules(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=3, more="[budget]\nbattery_j = 100\n")
        run_id = operator.start_run(text, tmp_path)
        odd, gone = fleet(address, "odd"), fleet(address, "gone")
        odd.join()
        gone.join()
        first = odd.order()
        assert first.attempt == 1
        refused = odd.send(odd.answer(first, 1.0, local_normaliser=500.0, attempt=1))
        assert (refused.verdict, refused.attempt) == (Verdict.REJECTED, 1)
        gone.leave()
        second = tools.until(lambda: (one := odd.ask()) and getattr(one, "attempt", 0) == 2 and one, "attempt 2")
        assert second.round == first.round
        odd.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),), attempt=1))
        taken = odd.send(odd.answer(second, 1.0, attempt=2))
        assert (taken.verdict, taken.attempt) == (Verdict.ACCEPTED, 2)
        odd.leave(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.5),), attempt=2))
        status = tools.finished(operator, run_id)
        shown = {device.device_id: device for device in operator.devices()}
        account = {budget.device_id: budget for budget in operator.budgets(run_id)}["odd"]
    told = {device.device_id: device for device in status.rounds[1].devices}["odd"]
    assert told.outcome == "accepted"
    assert {phase_energy.phase: phase_energy.energy_j for phase_energy in told.energy} == {
        Phase.EMBED: 2.0,
        Phase.TRAIN: 4.0,
        Phase.ENCODE: 1.0,
        Phase.SEND: 0.75,
    }
    assert shown["odd"].energy_j == 7.75
    assert (account.spent_j, account.uncertain_j) == (7.75, 0.0)
    db = Database(sqlite_url(tmp_path / "state/coordinator.db"))
    with db.reading() as connection:
        assert list(connection.execute(select(reports_table.c.attempt)).scalars()) == [2]
    db.close()


def test_what_was_sent_for_an_attempt_that_was_given_up_is_counted(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=3), tmp_path)
        here, gone = fleet(address, "here"), fleet(address, "gone")
        here.join()
        gone.join()
        taken = [order_to(one.order()).ByteSize() for one in (here, gone)]
        assert here.send(here.answer(here.order(), 1.0)).verdict is Verdict.ACCEPTED
        gone.leave()
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    down = {device.device_id: device.bytes_down for device in status.rounds[1].devices}
    # It asked twice. What the answer says of the time that is left may be a few bytes longer or shorter.
    assert abs(down["gone"] - taken[1]) < 16
    assert abs(down["here"] - 2 * taken[0]) < 32


@pytest.mark.parametrize(("quorum", "verdict"), [(1.0, Verdict.ACCEPTED), (0.3, Verdict.LATE)])
def test_a_report_between_deadline_and_decision_waits_for_the_decision(
    plain_bundle: Path,
    fleet: Fleet,
    tools: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quorum: float,
    verdict: Verdict,
) -> None:
    gate = threading.Event()
    real = report_transactions.accept

    def slow(*args: Any) -> Any:
        gate.wait(30)
        return real(*args)

    monkeypatch.setattr(report_transactions, "accept", slow)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=3, quorum=quorum, deadline_s=3), tmp_path)
        names = {name: fleet(address, name) for name in ("slow", "after", "never")}
        for device in names.values():
            device.join()
        held = {name: device.order() for name, device in names.items()}
        got: dict[str, Verdict] = {}

        def send(name: str) -> None:
            got[name] = names[name].send(names[name].answer(held[name], 1.0, attempt=1)).verdict

        threads = [threading.Thread(target=send, args=(name,)) for name in ("slow", "after")]
        threads[0].start()
        time.sleep(held["slow"].deadline_s + 0.2)
        threads[1].start()
        time.sleep(0.5)
        assert got == {}, "the round is not decided while a report is being written"
        gate.set()
        for thread in threads:
            thread.join()
        operator.stop_run(run_id)
    assert got == {"slow": Verdict.ACCEPTED, "after": verdict}


@pytest.mark.parametrize("late", [0, 1])
def test_nobody_is_told_that_a_round_is_closed_before_that_is_on_disk(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    gate, tried = threading.Event(), threading.Event()
    real = round_transactions.close_round

    def slow(*args: Any) -> Any:
        tried.set()
        gate.wait(30)
        return real(*args)

    monkeypatch.setattr(round_transactions, "close_round", slow)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=2, devices=2, quorum=0.5, deadline_s=3, late=late)
        run_id = operator.start_run(text, tmp_path)
        quick, slower = fleet(address, "quick"), fleet(address, "slower")
        quick.join()
        slower.join()
        held = slower.order()
        assert quick.send(quick.answer(quick.order(), 1.0)).verdict is Verdict.ACCEPTED
        got: list[Verdict] = []
        sending = threading.Thread(target=lambda: got.append(slower.send(slower.answer(held, 1.0)).verdict))
        assert tried.wait(30)
        sending.start()
        sending.join(0.5)
        assert got == [], "a crash now would open the round again, and it would be shut out"
        gate.set()
        sending.join()
        operator.stop_run(run_id)
    assert got == [Verdict.ACCEPTED if late else Verdict.LATE]


def test_a_restart_does_not_wait_for_a_device_whose_report_was_refused(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=2, quorum=0.5, deadline_s=600)
        run_id = operator.start_run(text, tmp_path)
        good, odd = fleet(address, "good"), fleet(address, "odd")
        good.join()
        odd.join()
        order = good.order()
        assert odd.send(odd.answer(odd.order(), 1.0, local_normaliser=500.0)).verdict is Verdict.REJECTED
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        good, odd = fleet(address, "good"), fleet(address, "odd")
        good.join()
        odd.join()
        assert not isinstance(odd.ask(), TrainOrder)
        assert good.send(good.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"


def test_a_report_of_an_attempt_that_never_was_is_refused(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        receipt = device.send(device.answer(device.order(), 1.0, attempt=2))
        assert (receipt.verdict, receipt.reason.split(":")[0]) == (Verdict.REJECTED, "not_ordered")
        assert device.send(device.answer(tools.until(device.order), 1.0)).verdict is Verdict.ACCEPTED, "says none"


def test_energy_of_a_renewed_order_stands_beside_that_of_the_new_one(db: Database) -> None:
    started(db)
    train = tools_joules(2.0)
    lines = [OrderLine("a", 5, 10.0), OrderLine("b", 7, 2.5)]
    with db.writing() as connection:
        accounts.add(connection, "run-1", 1, lines, 1000.0)
        reports.settle(connection, "run-1", 1, "a", [train], 1)
        runs.abandon_round(connection, "run-1", 1, "the deadline passed")
        runs.open_round(connection, "run-1", 1, 2, [OrderLine("a", 5, 4.0)], "")
        for _ in range(2):
            # Said again late, it replaces the figure of its own attempt alone.
            reports.settle(connection, "run-1", 1, "a", [tools_joules(3.0)], 1)
    accept(db, dataclasses.replace(report_of("a", 1.0), attempt=2))
    with db.reading() as connection:
        assert runs.asked(connection, "run-1", 1, 2) == ["a"]
        (_, found) = reading.run_status(connection, "run-1").rounds
        told = {device.device_id: device for device in found.devices}
        assert [(phase_energy.energy_j, phase_energy.method) for phase_energy in told["a"].energy] == [
            (4.0, "measured")
        ]
        assert told["a"].budget_j == 4.0, "what is left of it"
        assert devices.spent(connection)["a"] == (4.0, 0)
        account = accounts.accounts(connection, "run-1", 0.0)["a"]
        assert (account.granted_j, account.spent_j) == (10.0, 4.0)


def test_a_report_of_an_earlier_attempt_that_counts_has_its_energy_counted_once(db: Database) -> None:
    started(db)
    with db.writing() as connection:
        runs.abandon_round(connection, "run-1", 1, "the deadline passed")
        runs.open_round(connection, "run-1", 1, 2, [OrderLine("a", 5, None)], "")
    accept(db, dataclasses.replace(report_of("a", 2.0), attempt=1))
    with db.writing() as connection:
        reports.settle(connection, "run-1", 1, "a", [tools_joules(2.5)], 1)
    with db.reading() as connection:
        assert devices.spent(connection)["a"] == (2.5, 0)


def tools_joules(energy_j: float) -> Any:
    return dataclasses.replace(report_of("a", energy_j).energy[0])


def test_a_report_that_comes_before_an_attempt_is_written_down_as_abandoned_counts_for_it(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = resume.rules_of
    # Nothing is opened meanwhile: the device that is missing is waited for.
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), gather_s=30.0))
    monkeypatch.setattr("coordinator.run.run_driver.RETRY_S", 0.05)
    tried, room = threading.Event(), threading.Event()
    abandon = round_transactions.abandon_round

    def full(*args: Any) -> Any:
        tried.set()
        if not room.is_set():
            raise StoreError("disk full")
        return abandon(*args)

    monkeypatch.setattr(round_transactions, "abandon_round", full)
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=3), tmp_path)
        first, second = fleet(address, "a"), fleet(address, "b")
        first.join()
        second.join()
        assert first.send(first.answer(first.order(), 1.0)).verdict is Verdict.ACCEPTED
        report = second.answer(second.order(), 3.0)
    with tools.served(state) as address, Operator(address) as operator:
        assert tried.wait(30), "nobody is here when the deadline passes"
        assert fleet(address, "b").send(report).verdict is Verdict.ACCEPTED
        room.set()
        status = tools.finished(operator, run_id)
    assert (status.state, len(status.rounds[1].devices)) == ("finished", 2)
    db = Database(sqlite_url(state / "coordinator.db"))
    with db.reading() as connection:
        assert "abandoned" not in set(connection.execute(select(events.c.kind)).scalars())
        assert heads.get(connection, status.rounds[1].head_version)["out_bias"][0] == pytest.approx(2.0, abs=0.5)
    db.close()
