"""A database of an older layout is brought up to date, and its run goes on.

`landed/layout-1.sql` is the dump of a database that the version with layout 1 wrote: round 1 was abandoned with the
report of `a`, `b` did not answer, `c` left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from described_tables import HOW, changed, described, pinned
from sqlalchemy import select, text

from coordinator.operator.client import Operator
from coordinator.run import resume
from coordinator.store import backup, reading, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.layouts import LAYOUT, STEPS
from coordinator.store.models.bundle_store import BundleStore
from coordinator.store.tables import devices, grants, layout, orders, reports, rounds
from protos.errors import StoreError
from protos.model.bundle import open_bundle
from protos.orders import Verdict
from protos.v1 import edgejoule_pb2 as pb

RUN = "run-0d04d6c521"


def _landed(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "landed/layout-1.sql").read_text())
    connection.close()
    return path


def test_a_database_of_layout_1_keeps_all_that_it_says(tmp_path: Path) -> None:
    path = _landed(tmp_path / "store.db")
    for _ in range(2):
        db = Database(sqlite_url(path))
        with db.reading() as connection:
            assert list(connection.execute(select(layout.c.version)).scalars()) == [LAYOUT]
            assert runs.asked(connection, RUN, 1, 1) == ["a", "b", "c"]
            found = reading.run_status(connection, RUN).rounds[1]
            assert [(device.device_id, device.outcome, device.budget_j) for device in found.devices] == [
                ("a", "accepted", 5.0), ("b", "missing", 5.0), ("c", "missing", 5.0),
            ]  # fmt: skip
            assert found.devices[0].spent_j == 3.5
            assert list(connection.execute(select(reports.c.attempt)).scalars()) == [None], "nobody said"
        db.close()


@pytest.mark.parametrize("restored", [False, True])
def test_a_run_of_layout_1_is_finished_by_this_version_from_its_folder_or_from_a_backup(
    plain_bundle: Path,
    fleet: Callable[..., Any],
    tools: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restored: bool,
) -> None:
    real = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), gather_s=0.3))
    state = tmp_path / "state"
    path = _landed(state / "coordinator.db")
    bundle_id = BundleStore(state / "bundles").keep(open_bundle(plain_bundle)).bundle_id
    with closing(sqlite3.connect(path)) as connection, connection:
        # As zip files differ from one numpy to the next.
        connection.execute("UPDATE runs SET bundle_id = ?", (bundle_id,))
        for row, data in connection.execute("SELECT rowid, data FROM reports WHERE data IS NOT NULL").fetchall():
            report = pb.DeviceReport.FromString(data)
            report.bundle_id = bundle_id
            data = report.SerializeToString()
            changed = (data, hashlib.sha256(data).digest(), row)
            connection.execute("UPDATE reports SET data = ?, sha256 = ? WHERE rowid = ?", changed)
    connection.close()
    if restored:
        assert backup.take(state, tmp_path / "backup").layout == 1
        state = tmp_path / "another"
        backup.restore(tmp_path / "backup", state)
    with tools.served(state) as address, Operator(address) as operator:
        b = fleet(address, "b", session="b-2")
        b.join()
        order = b.order()
        assert (order.run_id, order.round) == (RUN, 1)
        assert b.send(b.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert b.send(b.answer(b.order(2), 1.0)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, RUN)
    assert status.state == "finished"
    assert {device.device_id: device.weight for device in status.rounds[1].devices} == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_the_steps_lead_from_any_layout_to_the_tables_of_today(url: str) -> None:
    db = Database(url)
    with db.writing() as connection:
        added = (
            (orders, "attempt"),
            (reports, "attempt"),
            (devices, "reason"),
            (orders, "session"),
            (grants, "lost_j"),
            (reports, "folded_in"),
            (rounds, "trained_from"),
        )
        connection.execute(text("DROP INDEX late_reports_by_round"))
        for table, column in added:
            connection.execute(text(f"ALTER TABLE {table.name} DROP COLUMN {column}"))
        connection.execute(text("UPDATE layout SET version = 1"))
    db.close()
    db = Database(url)
    with db.reading() as connection:
        for table in (orders, reports, devices, grants, rounds):
            connection.execute(select(table)).all()
    db.close()
    assert list(STEPS) == list(range(1, LAYOUT))


def test_no_table_changes_without_a_new_layout(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(sqlite_url(path)).close()
    assert pinned(LAYOUT).exists(), f"nobody wrote down what layout {LAYOUT} is: {HOW}"
    then, now = pinned(LAYOUT).read_text().splitlines(), described(path)
    assert not changed(then, now), f"{changed(then, now)}: {HOW}"
    assert now == then, "tables that are new are written down by tests/coordinator/described_tables.py"


def test_a_change_of_a_table_is_told_from_a_new_table() -> None:
    then = ["orders.run_id VARCHAR(64) not null key 1", "orders.steps INTEGER not null"]
    assert changed(then, [*then, "fence.epoch BIGINT not null key 1"]) == []
    assert changed(then, [*then, "orders.novel INTEGER"]) == ["+ orders.novel INTEGER"]
    assert changed(then, then[:1]) == ["- orders.steps INTEGER not null"]
    longer = [then[0].replace("64", "80"), then[1]]
    assert changed(then, longer) == [f"- {then[0]}", f"+ {longer[0]}"]


@pytest.mark.parametrize("number", range(1, LAYOUT + 1))
def test_every_layout_that_there_was_becomes_the_one_of_today(tmp_path: Path, number: int) -> None:
    assert pinned(number).exists() or number == 1, HOW
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    Database(sqlite_url(new)).close()
    if number == 1:
        _landed(old)
    else:
        _as_described(old, pinned(number).read_text().splitlines(), number)
    Database(sqlite_url(old)).close()
    assert described(old) == described(new)


def _as_described(path: Path, lines: list[str], number: int) -> None:
    """A database with just these tables and no row but its layout."""
    tables: dict[str, list[str]] = {}
    primary: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        table, colon, rest = line.partition(": ")
        if colon:
            own, _, other = rest.partition(" of ")
            others = [part.rpartition(".") for part in other.strip("()").split(", ")]
            there = f"FOREIGN KEY {own} REFERENCES {others[0][0]} ({', '.join(entry[2] for entry in others)})"
            tables[table].append(there if other else rest)
        else:
            table, _, column = line.partition(".")
            column, key, place = column.partition(" key ")
            column += "''" if column.endswith("default ") else ""
            primary.setdefault(table, []).extend([(int(place), column.split()[0])] if key else [])
            tables.setdefault(table, []).append(column)
    connection = sqlite3.connect(path)
    for table, parts in tables.items():
        key = ", ".join(name for _, name in sorted(primary[table]))
        # A key of one integer is the number of the row only if its type is spelt so.
        connection.execute(f"CREATE TABLE {table} ({', '.join(parts)}, PRIMARY KEY ({key}))")
    connection.execute("INSERT INTO layout VALUES (?)", (number,))
    connection.commit()
    connection.close()


def test_a_database_that_lacks_a_column_of_its_layout_is_refused_by_name_and_left_as_it_is(url: str) -> None:
    db = Database(url)
    with db.writing() as connection:
        connection.execute(text("ALTER TABLE grants DROP COLUMN deviation"))
        connection.execute(text("ALTER TABLE runs DROP COLUMN engine"))
    db.close()
    for _ in range(2):
        lacks = rf"has layout {LAYOUT} without grants\.deviation, runs\.engine: another build"
        with pytest.raises(StoreError, match=lacks):
            Database(url)


def test_a_step_that_fails_leaves_the_old_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _landed(tmp_path / "store.db")
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.store.database.upgrade", _cut(STEPS[1]))
        with pytest.raises(StoreError, match="no such table"):
            Database(sqlite_url(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(orders)")]
        assert "attempt" not in columns
        assert connection.execute("SELECT version FROM layout").fetchall() == [(1,)]
    connection.close()
    Database(sqlite_url(path)).close()


def _cut(step: Callable[[Any], None]) -> Callable[[Any, int], None]:
    def body(connection: Any, found: int) -> None:
        step(connection)
        connection.execute(text("SELECT * FROM nowhere"))

    return body
