"""Whole or not at all: what a store refuses, and what a failure leaves behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from stored_runs import accept, head, report_of, started

from coordinator.store import reading, reports
from coordinator.store.database import AlreadyThereError, Database, sqlite_url
from coordinator.store.models import heads
from protos.errors import StoreError, UnknownRunError
from protos.update.trees import Tree, version


def test_one_device_has_one_report_in_a_round(db: Database) -> None:
    started(db)
    first = accept(db, report_of("a", 2.0))
    with pytest.raises(AlreadyThereError):
        accept(db, report_of("a", 9.0))
    with db.reading() as connection:
        assert list(reports.in_order(connection, "run-1", 1)) == [(1, first)]
        (_, one) = reading.run_status(connection, "run-1").rounds
    assert one.devices[0].energy[0].energy_j == 2.0, "the second left no trace"
    assert one.devices[0].bytes_up == len(first)


def test_a_transaction_that_fails_leaves_nothing(db: Database) -> None:
    started(db)

    def fail() -> None:
        with db.writing() as connection:
            reports.mark(connection, "run-1", 1, "a", "late", 10)
            heads.put(connection, head(9))
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    with db.reading() as connection:
        assert reading.run_status(connection, "run-1").rounds[1].devices[0].outcome == "ordered"
        with pytest.raises(UnknownRunError):
            heads.get(connection, version(head(9)))


def test_another_layout_is_refused(url: str) -> None:
    first = Database(url)
    with first.writing() as connection:
        connection.execute(text("UPDATE layout SET version = 99"))
    first.close()
    with pytest.raises(StoreError, match="layout"):
        Database(url)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    db = Database(sqlite_url(tmp_path / "store.db"))
    started(db)
    with db.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with db.writing() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        large = {"out_bias": np.zeros(100_000, np.float32)}
        with pytest.raises(StoreError, match="full"):
            _put_in_own_words(db, connection, large)
    with db.reading() as connection:
        assert len(reading.run_ids(connection)) == 1
    db.close()


def _put_in_own_words(db: Database, connection: object, tree: Tree) -> None:
    with db._translated():
        heads.put(connection, tree)  # type: ignore[arg-type]


def test_a_locked_database_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.store.database.BUSY_MS", 50)
    path = tmp_path / "store.db"
    db = Database(sqlite_url(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            started(db)
        other.execute("ROLLBACK")
    other.close()
    started(db)
    db.close()
