"""What is stored badly fails the run that needs it; what cannot be written now waits; stop works in both."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from coordinator.operator.client import Operator
from coordinator.run import resume
from coordinator.store.database import DamagedError, Database, sqlite_url
from protos.errors import StoreError
from protos.orders import Verdict

Fleet = Callable[..., Any]


@contextmanager
def nothing_can_be_written(state: Path) -> Iterator[None]:
    """Another program holds SQLite's lock for writing."""
    with closing(sqlite3.connect(state / "coordinator.db", isolation_level=None)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
    other.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.store.database.BUSY_MS", 50)
    monkeypatch.setattr("coordinator.run.run_driver.RETRY_S", 0.1)
    monkeypatch.setattr("coordinator.server.run_scheduler.RETRY_S", 0.1)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE heads SET data = zeroblob(length(data)) WHERE version = :head",
        "UPDATE heads SET data = x'00' WHERE version = :head",
        "UPDATE heads SET shapes = 'no JSON' WHERE version = :head",
        "UPDATE runs SET plan_toml = 'no plan' WHERE name = 'one'",
    ],
)
def test_a_run_whose_rows_are_bad_fails_with_the_reason_and_the_next_one_begins(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, damage: str
) -> None:
    state = tmp_path / "state"
    text_of: Callable[[str], str] = lambda name: tools.plan(plain_bundle, rounds=2).replace('"test"', f'"{name}"')  # noqa: E731
    with tools.served(state) as address, Operator(address) as operator:
        one, two = (operator.start_run(text_of(name), tmp_path) for name in ("one", "two"))
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        head = tools.until(lambda: operator.status(one)[0].rounds[1].head_version, "the head")
    with closing(sqlite3.connect(state / "coordinator.db")) as raw, raw:
        raw.execute(damage, {"head": head} if ":head" in damage else {})
    raw.close()
    with tools.served(state) as address, Operator(address) as operator:
        device = fleet(address, "a", session="again")
        device.join()
        assert device.order().run_id == two
        (run,) = operator.status(one)
        assert run.state == "failed"
        assert "damaged" in run.reason or "plan" in run.reason or "TOML" in run.reason
        assert operator.stop_run(one) == "failed"


def test_a_stop_works_while_nothing_can_be_written_and_is_written_down_later(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        text_of = tools.plan(plain_bundle, quorum=1.0, deadline_s=0.6)
        one, two = (operator.start_run(text_of, tmp_path) for _ in range(2))
        device = fleet(address, "a")
        device.join()
        device.order()
        with nothing_can_be_written(state):
            tools.until(lambda: "cannot write" in operator.status(one)[0].reason, "the trouble")
            with pytest.raises(StoreError, match="has ended here, and that cannot be written down yet"):
                operator.stop_run(one)
            assert "cannot be written down yet" in operator.status(one)[0].reason
        tools.until(lambda: operator.status(one)[0].state == "stopped", "the row")
        assert device.order().run_id == two
    with tools.served(state) as address, Operator(address) as operator:
        assert operator.status(one)[0].state == "stopped"


def test_a_run_that_waits_can_be_stopped_while_nothing_can_be_written(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        one, two = (operator.start_run(tools.plan(plain_bundle), tmp_path) for _ in range(2))
        with nothing_can_be_written(state), pytest.raises(StoreError, match="cannot be written down yet"):
            operator.stop_run(two)
        tools.until(lambda: operator.status(two)[0].state == "stopped", "the row")
        assert operator.status(one)[0].state == "running" or not operator.status(one)[0].is_over


def test_a_bundle_that_is_not_here_is_a_wait_that_holds_up_nobody_and_can_be_stopped(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state, other = tmp_path / "state", tools.bundle(tmp_path / "other", width=4)
    with tools.served(state) as address, Operator(address) as operator:
        one = operator.start_run(tools.plan(plain_bundle), tmp_path)
        two, three = (operator.start_run(tools.plan(path), tmp_path) for path in (other, plain_bundle))
        missing = operator.status(one)[0].bundle_id.removeprefix("sha256:")
    shutil.move(state / "bundles" / missing, tmp_path / "away")
    with tools.served(state) as address, Operator(address) as operator:
        device = fleet(address, "a")
        device.join()
        order = device.order()
        assert order.run_id == two
        assert "is held here; copy it from the state folder" in operator.status(one)[0].reason
        assert not operator.status(one)[0].is_over
        assert operator.stop_run(three) == "stopped"
        device.send(device.answer(order, 1.0))
        assert tools.finished(operator, two).state == "finished"
        shutil.move(tmp_path / "away", state / "bundles" / missing)
        order = device.order()
        assert order.run_id == one
        assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED


def test_a_machine_without_memory_fails_no_run_that_is_to_begin(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []
    real = resume.train_inputs

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(errno.ENOMEM)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(resume, "train_inputs", fails_once)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
    assert failed


def test_a_lock_passes_and_a_missing_table_does_not(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    db = Database(sqlite_url(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked") as caught, db.writing():
            pass
        assert not isinstance(caught.value, DamagedError)
        other.execute("ROLLBACK")
        other.execute("DROP TABLE events")
    other.close()
    with pytest.raises(DamagedError, match="no such table"), db.reading() as connection:
        connection.execute(text("SELECT * FROM events"))
    db.close()


def test_a_report_that_cannot_be_written_is_taken_when_it_can(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        report = device.answer(device.order(), 1.0)
        with nothing_can_be_written(state), pytest.raises(grpc.RpcError) as caught:
            device.send(report)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert device.send(report).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
