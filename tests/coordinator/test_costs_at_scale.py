"""What one call costs at ten times the devices and ten times the history: counted in statements and in steps of
SQLite's machine, which are the same on every host."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from counted_costs import counted, fill
from scripted_device import joules
from stored_runs import head

from coordinator.budgets.order_line import OrderLine
from coordinator.operator.client import Operator
from coordinator.store import reports, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.ledger import accounts as grants
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.energy.trace import Phase
from protos.orders import SettledEnergy

Fleet = Callable[..., Any]


def play(tmp_path: Path, bundle: Path, fleet: Fleet, tools: Any, monkeypatch: Any, **size: int) -> dict[str, Counter]:  # type: ignore[type-arg]
    """What a settled figure, and the opening of a round, cost beside a store of this size."""
    state = tmp_path / "-".join(str(value) for value in size.values())
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
