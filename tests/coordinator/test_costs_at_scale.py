"""What one call costs at ten times the devices and ten times the history: counted in statements and in steps of
SQLite's machine, which are the same on every host."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_device import joules
from sqlalchemy import event
from sqlalchemy.engine import Engine
from stored_runs import head

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel
from coordinator.budgets.order_line import OrderLine
from coordinator.operator.client import Operator
from coordinator.store import batches, devices, reports, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase
from protos.model.bundle import open_bundle
from protos.orders import DeviceCard, DeviceReport, MeterCard, SettledEnergy, StopReason
from protos.orders import Engine as RuntimeEngine
from protos.update.tensors import as_float32

Fleet = Callable[..., Any]
_STEPS_AT_ONCE = 10


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts statements, parsed cost models, and tens of steps of SQLite's machine, in every thread."""
    found: Counter[str] = Counter()
    counting = [True]
    parse = CostModel.from_state

    def parsed(state: Any) -> CostModel:
        found["models"] += 1
        return parse(state)

    def stepped() -> int:
        # The handler stays with its connection when this is over.
        found["steps"] += _STEPS_AT_ONCE * counting[0]
        return 0

    def begun(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        found["statements"] += 1
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(stepped, _STEPS_AT_ONCE)

    with monkeypatch.context() as patched:
        patched.setattr(CostModel, "from_state", staticmethod(parsed))
        event.listen(Engine, "before_cursor_execute", begun)
        try:
            yield found
        finally:
            counting[0] = False
            event.remove(Engine, "before_cursor_execute", begun)


def fill(state: Path, bundle: Path, *, known: int, rounds: int, in_each: int) -> None:
    """A store with the costs of so many devices, and a finished run of so many rounds with so many devices."""
    state.mkdir()
    db = Database(sqlite_url(state / "coordinator.db"))
    bundle_id = open_bundle(bundle).bundle_id
    model = CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8))
    engine, meter = RuntimeEngine("ai-edge-litert", "2.3.0", "xnnpack"), MeterCard("measured", "ina219:test")
    names = [f"old-{at:04}" for at in range(max(known, in_each))]
    with db.writing() as connection:
        for name in names:
            devices.join(connection, DeviceCard(name, "1", "0", "pi4", engine, meter, 40, 10))
            devices.leave(connection, name)
        for name in names[:known]:
            costs.keep(connection, name, bundle_id, model)
        initial = heads.put(connection, head())
        runs.add(connection, NewRun("run-old", "old", "plan-1", "toml", "/", bundle_id, rounds, initial))
        runs.add_round_zero(connection, "run-old", head_version=initial, accuracy=None, loss=None)
        for number in range(1, rounds + 1):
            lines = [OrderLine(name, 5, 1.0) for name in names[:in_each]]
            runs.open_round(connection, "run-old", number, 1, lines, "")
            grants.add(connection, "run-old", number, lines, time.time())
            for line in lines:
                report = DeviceReport(
                    "run-old", number, line.device_id, "plan-1", bundle_id, initial, 5, 5, 40, 5.0,
                    StopReason.COMPLETED, 2.0, 1.0, engine, (), as_float32(head(1)), 40, 0.1,
                )  # fmt: skip
                batches.accept(connection, [batches.Taken(report, serialise_report(report), 1.0, None, 0)])
            runs.close_round(connection, "run-old", number, head_version=initial, accuracy=None, loss=None)
        runs.change(connection, "run-old", state="finished")
    db.close()


def play(tmp_path: Path, bundle: Path, fleet: Fleet, tools: Any, monkeypatch: Any, **size: int) -> dict[str, Counter]:  # type: ignore[type-arg]
    """What a settled figure, and the opening of a round, cost beside a store of this size."""
    state = tmp_path / "-".join(str(one) for one in size.values())
    fill(state, bundle, **size)
    found = {}
    with tools.served(state) as address, Operator(address) as operator:
        with counted(monkeypatch) as found["opening"]:
            run_id = operator.start_run(tools.plan(bundle, devices=1), tmp_path)
            device = fleet(address, "a")
            device.join()
            order = device.order()
        with counted(monkeypatch) as found["reporting"]:
            device.send(device.answer(order, 1.0))
        tools.finished(operator, run_id)
        with counted(monkeypatch) as found["settling"]:
            device.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.05),)))
        (fit,) = operator.budgets(run_id)
    assert fit.fitted_rounds == 1, "the figure was learnt from"
    return found


def test_what_a_settled_figure_costs_does_not_grow_with_the_devices_that_the_bundle_knows(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, known=20, rounds=1, in_each=1)["settling"]
    many = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, known=200, rounds=1, in_each=1)["settling"]
    assert few["models"] == many["models"] == 1
    assert few["statements"] == many["statements"]
    assert many["steps"] < 1.2 * few["steps"] + 100


def test_what_the_opening_of_a_round_costs_does_not_grow_with_the_history_beside_it(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, known=5, rounds=10, in_each=10)["opening"]
    long = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, known=5, rounds=100, in_each=10)["opening"]
    # Looking for runs, and telling devices to wait, may take a call more or less.
    assert long["steps"] < 1.5 * short["steps"] + 500
    assert short["models"] == long["models"] == 0, "the first round of the only device: nothing to parse"


def test_what_a_report_costs_grows_neither_with_devices_nor_with_rounds(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, known=5, rounds=10, in_each=10)["reporting"]
    for size in ({"known": 50, "rounds": 10, "in_each": 100}, {"known": 5, "rounds": 100, "in_each": 10}):
        large = play(tmp_path, plain_bundle, fleet, tools, monkeypatch, **size)["reporting"]
        assert large["steps"] < 1.3 * small["steps"] + 500, size
        # The end of the round may be on its way already.
        assert abs(large["statements"] - small["statements"]) < 15, size


def summed(state: Path, monkeypatch: pytest.MonkeyPatch, *, rounds: int) -> Counter[str]:
    """What it takes to know the accounts of ten devices when one more round opens after so many, as a run does it."""
    state.mkdir()
    db = Database(sqlite_url(state / "coordinator.db"))
    names = [f"dev-{at}" for at in range(10)]
    with db.writing() as connection:
        initial = heads.put(connection, head())
        runs.add(connection, NewRun("run", "run", "plan-1", "toml", "/", "bundle", rounds, initial))
    for number in range(1, rounds + 1):
        with db.writing() as connection:
            grants.accounts(connection, "run", 0.0, (number, names), keep=True)
            lines = [OrderLine(name, 5, 1.0 + number / 7) for name in names]
            runs.open_round(connection, "run", number, 1, lines, "")
            grants.add(connection, "run", number, lines, 1000.0)
            for name in names:
                energy = [joules(phase, 0.1 * number) for phase in grants.WORKING]
                reports.settle(connection, "run", number, name, energy, 1)
    with counted(monkeypatch) as found, db.writing() as connection:
        grants.accounts(connection, "run", 0.0, (rounds + 1, names), keep=True)
    with db.reading() as connection:
        known = grants.accounts(connection, "run", 0.0)
        assert known == grants.accounts(connection, "run", 0.5), "summed anew, since another time"
    db.close()
    return found


def test_what_it_takes_to_know_the_accounts_does_not_grow_with_the_rounds_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = summed(tmp_path / "few", monkeypatch, rounds=8)
    many = summed(tmp_path / "many", monkeypatch, rounds=80)
    assert few["statements"] == many["statements"]
    assert many["steps"] < 1.2 * few["steps"] + 100


def test_an_older_database_of_this_layout_gets_its_indices(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(sqlite_url(path)).close()
    names = "SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite_%'"
    with closing(sqlite3.connect(path)) as raw, raw:
        made = {name for (name,) in raw.execute(names)}
        for name in ("reports_of_device_by_round", "grants_of_device_by_round", "grants_by_time"):
            raw.execute(f"DROP INDEX {name}")
    Database(sqlite_url(path)).close()
    with closing(sqlite3.connect(path)) as raw:
        assert {name for (name,) in raw.execute(names)} == made
