"""Opening a store: what is set on it, who may share it, and what cannot be opened."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from stored_runs import started

from coordinator.store.database import Database, sqlite_url
from protos.errors import ConfigError, RefusedError, StoreError


def test_two_coordinators_do_not_share_a_postgresql_database(postgres: str) -> None:
    first = Database(postgres)
    try:
        with pytest.raises(RefusedError, match="another coordinator"):
            Database(postgres)
    finally:
        first.close()
    Database(postgres).close()


def test_sqlite_commits_are_forced_to_disk(tmp_path: Path) -> None:
    db = Database(sqlite_url(tmp_path / "store.db"))
    with db.reading() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {text}").scalar() for text in ("journal_mode", "synchronous")]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    db.close()
    assert pragmas == ["wal", 2]


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Database(sqlite_url(tmp_path / "store.db"))


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "postgresql+nosuchdriver://x/y"])
def test_a_url_that_cannot_be_used_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="not a usable database URL"):
        Database(url)


def test_a_server_that_is_not_there_is_a_store_error_without_the_password() -> None:
    pytest.importorskip("psycopg", reason="needs the postgresql extra")
    with pytest.raises(StoreError) as failure:
        Database("postgresql+psycopg://someone:hush@127.0.0.1:1/nothing?connect_timeout=2")
    assert "hush" not in str(failure.value)


@pytest.mark.parametrize("name", ["what?mode=memory", "a share of 50%25", "number #1", "\u00fcber"])
def test_a_database_is_in_its_folder_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for runs_before in (0, 1):
        with closing(Database(sqlite_url(folder / "coordinator.db"))) as db, db.reading() as connection:
            assert len(connection.execute(text("SELECT run_id FROM runs")).all()) == runs_before
        if not runs_before:
            with closing(Database(sqlite_url(folder / "coordinator.db"))) as db:
                started(db)
    assert [path.name for path in tmp_path.iterdir()] == [name], "and nothing beside it"
    assert "coordinator.db" in {path.name for path in folder.iterdir()}
