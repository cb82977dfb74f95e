"""Under load a commit is shared: a hundred reports take the statements, and the commit, of one."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from stored_runs import head

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel
from coordinator.budgets.order_line import OrderLine
from coordinator.operator.client import Operator
from coordinator.run import report_transactions
from coordinator.run.batching import Batching
from coordinator.run.rounds import round_budgets
from coordinator.store import batches, reading, reports, runs
from coordinator.store.database import AlreadyThereError, Database
from coordinator.store.ledger import accounts, costs
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import DeviceReport, StopReason, Verdict
from protos.orders import Engine as RuntimeEngine
from protos.update.tensors import as_float32

Fleet = Callable[..., Any]
RUN = "run-1"
ENGINE = RuntimeEngine("ai-edge-litert", "2.3.0", "xnnpack")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Statements and commits, in every thread."""
    found: Counter[str] = Counter()

    def begun(*rest: Any) -> None:
        found["statements"] += 1

    def committed(*rest: Any) -> None:
        found["commits"] += 1

    event.listen(Engine, "before_cursor_execute", begun)
    event.listen(Engine, "commit", committed)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", begun)
        event.remove(Engine, "commit", committed)


def _joules(phase: Phase, energy_j: float | None) -> PhaseEnergy:
    return PhaseEnergy(phase, energy_j, 1.0, 0.0, "measured" if energy_j is not None else "unknown", "ina219", None)


def _report(name: str, by: int = 1) -> DeviceReport:
    energy = (_joules(Phase.EMBED, 1.0), _joules(Phase.TRAIN, 2.0), _joules(Phase.ENCODE, 0.5))
    return DeviceReport(
        RUN, 1, name, "plan-1", "sha256:b", "head", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0, ENGINE, energy,
        as_float32(head(by)), 40, 0.1, attempt=1,
    )  # fmt: skip


def _taken(name: str, by: int = 1) -> batches.Taken:
    report = _report(name, by)
    return batches.Taken(report, serialise_report(report), 40.0, (1.0, 0.5), 100)


def _opened(db: Database, names: list[str]) -> None:
    model = CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8))
    with db.writing() as connection:
        initial = heads.put(connection, head())
        runs.add(connection, NewRun(RUN, "test", "plan-1", "toml", "/", "sha256:b", 3, initial))
        lines = [OrderLine(name, 5, 4.0) for name in names]
        runs.open_round(connection, RUN, 1, 1, lines, "")
        accounts.add(connection, RUN, 1, lines, 0.0)
        for name in names:
            costs.keep(connection, name, "sha256:b", model)


def test_many_reports_take_the_statements_and_the_commit_of_one(db: Database) -> None:
    names = [f"dev-{at:03}" for at in range(110)]
    _opened(db, names)
    found = []
    for some in (names[:1], names[1:11], names[11:]):
        with counted() as counts, db.writing() as connection:
            batches.accept(connection, [_taken(name) for name in some])
        found.append(dict(counts))
    assert found[0] == found[1] == found[2]
    assert found[0]["commits"] == 1
    with db.reading() as connection:
        assert reports.devices_in(connection, RUN, 1) == names, "in the order in which they came"


def test_many_settled_figures_take_the_statements_and_the_commit_of_one(db: Database) -> None:
    names = [f"dev-{at:03}" for at in range(110)]
    _opened(db, names)
    with db.writing() as connection:
        batches.accept(connection, [_taken(name) for name in names])
    found = []
    for some in (names[:1], names[1:11], names[11:]):
        told = [batches.Told(RUN, 1, name, (_joules(Phase.SEND, 0.1),), 1) for name in some]
        with counted() as counts, db.writing() as connection:
            known = batches.settle(connection, told)
            round_budgets.learn_all(connection, known)
        assert [device_id for _, _, device_id in known] == some
        found.append(dict(counts))
    assert found[0] == found[1] == found[2]
    with db.reading() as connection:
        fits = costs.models_of(connection, "sha256:b", names)
    assert {fit.rounds for fit in fits.values()} == {1}, "each order teaches once"


@pytest.mark.parametrize("steps", [0, 5])
def test_a_report_without_a_step_says_nothing_of_what_coding_an_update_costs(db: Database, steps: int) -> None:
    _opened(db, ["a"])
    report = dataclasses.replace(_report("a"), steps_done=steps)
    with db.writing() as connection:
        batches.accept(connection, [batches.Taken(report, serialise_report(report), 40.0, (1.0, 0.5), 100)])
        known = batches.settle(connection, [batches.Told(RUN, 1, "a", (_joules(Phase.SEND, 0.1),), 1)])
        round_budgets.learn_all(connection, known)
    with db.reading() as connection:
        fit = costs.models_of(connection, "sha256:b", ["a"])["a"]
    assert fit.knows(Phase.SEND)
    assert fit.knows(Phase.EMBED)
    assert fit.knows(Phase.ENCODE) == (steps > 0)


def test_a_batch_writes_what_one_after_the_other_would(db: Database) -> None:
    names = ["a", "b", "c"]
    _opened(db, names)
    for some in (["a", "c"], ["b"]):
        with db.writing() as connection:
            batches.accept(connection, [_taken(name) for name in some])
    for name, settle in (("a", batches.settle), ("b", None)):
        for energy_j in (0.25, None, 0.5):
            with db.writing() as connection:
                told = (_joules(Phase.SEND, energy_j), _joules(Phase.IDLE, None))
                if settle is not None:
                    settle(connection, [batches.Told(RUN, 1, name, told, 1)])
                else:
                    reports.settle(connection, RUN, 1, name, told, 1)
    with db.reading() as connection:
        a, b, _ = reading.run_status(connection, RUN).rounds[0].devices
        books = accounts.accounts(connection, RUN, 0.0)
    assert a.energy == b.energy
    assert (a.outcome, a.bytes_up, a.bytes_down, a.weight) == (b.outcome, b.bytes_up, b.bytes_down, b.weight)
    assert books["a"] == books["b"]


def test_a_report_that_is_there_already_undoes_the_whole_batch(db: Database) -> None:
    _opened(db, ["a", "b"])
    with db.writing() as connection:
        batches.accept(connection, [_taken("a")])
    with pytest.raises(AlreadyThereError), db.writing() as connection:
        batches.accept(connection, [_taken("b"), _taken("a", 9)])
    with db.reading() as connection:
        assert reports.devices_in(connection, RUN, 1) == ["a"]


def test_reports_that_come_during_a_commit_share_the_next_one(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()
    real, sizes = report_transactions.accept, []

    def slow(db: Any, run: Any, number: int, waiting: Any) -> Any:
        sizes.append(len(waiting))
        begun.set()
        gate.wait(30)
        return real(db, run, number, waiting)

    monkeypatch.setattr(report_transactions, "accept", slow)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=8), tmp_path)
        devices = [fleet(address, f"d{at}") for at in range(8)]
        for device in devices:
            device.join()
        answers = [(device, device.answer(device.order(), 1.0)) for device in devices]
        verdicts: list[Verdict] = []

        def send(device: Any, report: Any) -> None:
            verdicts.append(device.send(report).verdict)

        first, *others = [threading.Thread(target=send, args=answer) for answer in answers]
        first.start()
        begun.wait(30)
        for thread in others:
            thread.start()
        waiting = "seven reports that wait"
        tools.until(lambda: len(_queue(Batching)) == 7, waiting)
        gate.set()
        for thread in (first, *others):
            thread.join()
        assert tools.finished(operator, run_id).state == "finished"
    assert verdicts == [Verdict.ACCEPTED] * 8
    assert sizes == [1, 7]


def _queue(kind: type) -> list[Any]:
    """What waits in the largest of all queues."""
    import gc

    return max((item._waiting for item in gc.get_objects() if isinstance(item, kind)), key=len, default=[])
