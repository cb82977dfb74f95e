"""One suite over every database: what is written is there, whole or not at all, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from coordinator.budgets.cost_model import CostModel, Prices
from coordinator.budgets.unbiased import Whole
from coordinator.order_line import OrderLine
from coordinator.status import WeightBias
from coordinator.store import costs, devices, grants, heads, reading, reports, runs, shown
from coordinator.store.database import AlreadyThereError, Database, sqlite_url
from coordinator.store.runs import NewRun
from coordinator.store.shown import StoredLink
from protos.convert.reports import serialise_report
from protos.energy import Method, Phase, PhaseEnergy
from protos.errors import StoreError, UnknownRunError
from protos.orders import CostHint, DeviceCard, DeviceReport, Engine, MeterCard, StopReason, Strain
from protos.update.tensors import as_float32
from protos.update.trees import Tree, version


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "store.db")
    server: str = request.getfixturevalue("postgres")
    name = f"t{time.time_ns()}"
    import psycopg

    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def head(seed: int = 0) -> Tree:
    rng = np.random.default_rng(seed)
    return {"out_bias": rng.normal(size=3).astype(np.float32), "out_kernel": rng.normal(size=(2, 3)).astype(np.float32)}


def started(db: Database, run_id: str = "run-1", name: str = "digits") -> None:
    """A run with an open round 1 of two devices."""
    with db.writing() as connection:
        initial = heads.put(connection, head())
        runs.add(connection, NewRun(run_id, name, "plan-1", "toml", "/", "sha256:1", 3, initial))
        runs.add_round_zero(connection, run_id, head_version=initial, accuracy=0.5, loss=None)
        runs.open_round(connection, run_id, 1, 1, [OrderLine("a", 5, None), OrderLine("b", 7, 2.5)], "")


def report_of(device_id: str, energy_j: float | None = 2.0) -> DeviceReport:
    method: Method = "unknown" if energy_j is None else "measured"
    return DeviceReport(
        "run-1", 1, device_id, "plan-1", "sha256:1", "head", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0,
        Engine("e", "1", "d"), (PhaseEnergy(Phase.TRAIN, energy_j, 1.0, 0.0, method, "s", None, ("x",)),),
        as_float32(head(1)), 40, 0.1,
    )  # fmt: skip


def accept(db: Database, report: DeviceReport, weight: float = 1.0) -> bytes:
    data = serialise_report(report)
    with db.writing() as connection:
        reports.accept(connection, report, data, weight)
    return data


def test_heads_come_back_bit_for_bit_and_are_kept_once(db: Database) -> None:
    tree = head()
    tree["out_bias"][:] = [-0.0, 1e-45, 1 / 3]
    with db.writing() as connection:
        assert heads.put(connection, tree) == heads.put(connection, tree) == version(tree)
    with db.reading() as connection:
        back = heads.get(connection, version(tree))
        with pytest.raises(UnknownRunError):
            heads.get(connection, "head-none")
    for name in tree:
        assert back[name].tobytes() == tree[name].tobytes()
        assert back[name].shape == tree[name].shape


def test_reports_come_back_as_they_came_in_the_order_of_acceptance(db: Database) -> None:
    started(db)
    sent = [accept(db, report_of("b")), accept(db, report_of("a"))]
    with db.reading() as connection:
        assert list(reports.in_order(connection, "run-1", 1)) == sent
        assert reports.devices_in(connection, "run-1", 1) == ["b", "a"]
        assert reports.holds(connection, "run-1", 1, "a")
        assert not reports.holds(connection, "run-1", 2, "a")


def test_what_a_device_had_to_bear_comes_back_and_silence_stays_silence(db: Database) -> None:
    started(db)
    strain = Strain(42.5, 3.25, 81.25, throttled=True)
    accept(db, dataclasses.replace(report_of("a"), strain=strain, stop_reason=StopReason.HEAT))
    accept(db, report_of("b"))
    with db.reading() as connection:
        by_name = {one.device_id: one for one in reading.run_status(connection, "run-1").rounds[1].devices}
    assert (by_name["a"].strain, by_name["a"].stop_reason) == (strain, StopReason.HEAT)
    assert (by_name["b"].strain, by_name["b"].stop_reason) == (None, StopReason.COMPLETED)


def test_what_devices_hold_comes_back_with_the_way_there(db: Database) -> None:
    started(db)
    links = [StoredLink("head-a", "head-b", b"\0\xff"), StoredLink("head-b", "head-c", b"")]
    for seed, kept in ((1, links[:1]), (2, links), (3, links[1:])):
        with db.writing() as connection:
            shown.put(connection, "run-1", head(seed), kept)
        with db.reading() as connection:
            found = shown.get(connection, "run-1")
            assert found is not None
            assert version(found[0]) == version(head(seed))
            assert found[1] == kept
            assert shown.get(connection, "run-2") is None
            with pytest.raises(UnknownRunError):
                heads.get(connection, version(head(seed - 1))) if seed > 1 else heads.get(connection, "head-none")


def test_one_device_has_one_report_in_a_round(db: Database) -> None:
    started(db)
    first = accept(db, report_of("a", 2.0))
    with pytest.raises(AlreadyThereError):
        accept(db, report_of("a", 9.0))
    with db.reading() as connection:
        assert list(reports.in_order(connection, "run-1", 1)) == [first]
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


def test_energy_said_again_replaces_and_unknown_never_replaces_known(db: Database) -> None:
    started(db)

    def settle(energy_j: float | None) -> None:
        record = PhaseEnergy(Phase.SEND, energy_j, 1.0, 0.0, "measured", "s", None)
        with db.writing() as connection:
            reports.settle(connection, "run-1", 1, "a", [record])

    def shown() -> tuple[float | None, int]:
        with db.reading() as connection:
            return devices.spent(connection)["a"]

    settle(None)
    assert shown() == (None, 1), "unknown is not zero"
    settle(0.25)
    settle(0.5)
    settle(0.5)
    settle(None)
    assert shown() == (0.5, 0)


def test_idling_is_no_cost_of_a_device_in_a_round_and_in_all(db: Database) -> None:
    started(db)
    accept(db, report_of("a", 2.0))
    idle, send = (PhaseEnergy(phase, 0.5, 1.0, 0.0, "measured", "s", None) for phase in (Phase.IDLE, Phase.SEND))
    unknown = PhaseEnergy(Phase.IDLE, None, 0.0, 1.0, "unknown", "s", None)
    with db.writing() as connection:
        reports.settle(connection, "run-1", 1, "a", [idle, send])
        reports.settle(connection, "run-1", 1, "b", [unknown])
    with db.reading() as connection:
        assert devices.spent(connection) == {"a": (2.5, 0)}
        by_device = {one.device_id: one for one in reading.run_status(connection, "run-1").rounds[1].devices}
    assert by_device["a"].spent_j == 2.5
    assert by_device["b"].spent_j is None
    assert [one.phase for one in by_device["a"].energy] == [Phase.IDLE, Phase.TRAIN, Phase.SEND]


def test_a_status_tells_shares_bytes_and_unknowns(db: Database) -> None:
    started(db)
    accept(db, report_of("a"), 1.0)
    accept(db, report_of("b", None), 3.0)
    with db.writing() as connection:
        runs.add_bytes_down(connection, "run-1", 1, {"a": 100, "b": 50})
        runs.close_round(connection, "run-1", 1, head_version=heads.put(connection, head(2)), accuracy=0.75, loss=0.5)
    with db.reading() as connection:
        status = reading.run_status(connection, "run-1")
        assert [one.round for one in reading.run_status(connection, "run-1", 1).rounds] == [1]
    zero, one = status.rounds
    assert (zero.accuracy, zero.loss, zero.devices) == (0.5, None, ())
    assert (one.state, one.accuracy, one.head_version) == ("closed", 0.75, version(head(2)))
    assert one.bytes_down == 150
    a, b = one.devices
    assert (a.weight, b.weight, a.budget_j, b.budget_j) == (0.25, 0.75, None, 2.5)
    assert (a.spent_j, b.spent_j) == (2.0, None)
    assert a.energy[0].flags == ("x",)


def test_who_did_not_report_is_missing_and_a_retry_keeps_who_did(db: Database) -> None:
    started(db)
    accept(db, report_of("a"))
    with db.writing() as connection:
        runs.abandon_round(connection, "run-1", 1, "the deadline passed")
    with db.reading() as connection:
        outcomes = [one.outcome for one in reading.run_status(connection, "run-1").rounds[1].devices]
    assert outcomes == ["accepted", "missing"]
    with db.writing() as connection:
        runs.open_round(connection, "run-1", 1, 2, [OrderLine("b", 9, None), OrderLine("c", 1, None)], "")
    with db.reading() as connection:
        found = reading.run_status(connection, "run-1").rounds[1]
    assert [(one.device_id, one.outcome, one.steps_planned) for one in found.devices] == [
        ("a", "accepted", 5),
        ("b", "ordered", 7),
        ("c", "ordered", 1),
    ]


def test_refusals_are_counted_by_reason(db: Database) -> None:
    started(db)
    for _ in range(3):
        with db.writing() as connection:
            reports.refuse(connection, "run-1", 1, "a", "wrong_head", "trained with another")
    with db.reading() as connection:
        assert reports.refusal_counts(connection, "run-1") == {(1, "a", "wrong_head"): 3}


def test_runs_are_found_by_id_prefix_and_name(db: Database) -> None:
    started(db, "run-abc1", "one%")
    started(db, "run-abd2", "two")
    with db.reading() as connection:
        find: Callable[[str], str] = lambda name: runs.resolve(connection, name)  # noqa: E731
        assert [find("run-abc1"), find("run-abd"), find("abc"), find("two"), find("one%")] == [
            "run-abc1", "run-abd2", "run-abc1", "run-abd2", "run-abc1",
        ]  # fmt: skip
        with pytest.raises(UnknownRunError, match="means 2 runs"):
            find("run-ab")
        with pytest.raises(UnknownRunError, match="no run"):
            find("run-%")


def test_devices_are_remembered_across_a_reopening(url: str) -> None:
    card = DeviceCard("a", "s1", "0", "pi4", Engine("e", "1", "d"), MeterCard("measured", "x"), 40, 10, 2.5)
    first = Database(url)
    with first.writing() as connection:
        devices.join(connection, card)
        devices.join(connection, card)
        devices.leave(connection, "a")
    first.close()
    second = Database(url)
    with second.reading() as connection:
        (known,) = devices.known(connection)
    second.close()
    assert (known.card, known.left) == (card, True)


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
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            started(db)
        other.execute("ROLLBACK")
    other.close()
    started(db)
    db.close()


def test_the_ledger_counts_each_joule_once_and_what_is_not_told_as_uncertain(db: Database) -> None:
    started(db)
    hint = CostHint(0.0, 0.1, 0.25, 3.0)
    lines = [
        OrderLine("a", 5, 8.0, 4.0, 0.5, 2.0, 3.0, 2.5, hint),
        OrderLine("b", 7, 2.5, expected_j=1.0),
    ]
    with db.writing() as connection:
        grants.add(connection, "run-1", 1, lines, 1000.0)
        grants.add(connection, "run-1", 1, [OrderLine("a", 5, 99.0)], 2000.0)
    with db.reading() as connection:
        found = grants.complete(connection, "run-1", 1, runs.lines_of(connection, "run-1", 1))
        assert (found["a"].budget_j, found["a"].factor, found["a"].costs) == (None, 2.0, hint)
        before = grants.accounts(connection, "run-1", 0.0)
        assert (before["a"].granted_j, before["a"].uncertain_j, before["a"].pending_j) == (8.0, 8.0, 2.5)
    accept(db, report_of("a", 2.0))
    told = [PhaseEnergy(phase, 0.5, 1.0, 0.0, "measured", "s", None) for phase in (Phase.EMBED, Phase.ENCODE)]
    with db.writing() as connection:
        for _ in range(2):
            reports.settle(connection, "run-1", 1, "a", told)
        half = grants.accounts(connection, "run-1", 0.0)["a"]
        assert (half.spent_j, half.uncertain_j) == (3.0, 0.5), "twice what sending is expected to cost"
        assert grants.lessons(connection, "run-1", 1, "a") == []
        reports.settle(connection, "run-1", 1, "a", [PhaseEnergy(Phase.SEND, 0.25, 1.0, 0.0, "measured", "s", None)])
        (lesson,) = grants.lessons(connection, "run-1", 1, "a")
        assert (lesson.steps, lesson.embedded) == (5, 40)
        grants.learnt(connection, "run-1", 1, "a")
        assert grants.lessons(connection, "run-1", 1, "a") == []
        whole = grants.accounts(connection, "run-1", 1500.0)
    assert (whole["a"].spent_j, whole["a"].uncertain_j, whole["a"].today_j) == (3.25, 0.0, 0.0)
    assert (whole["b"].spent_j, whole["b"].uncertain_j) == (0.0, 2.5)


def test_plans_of_rounds_and_fits_of_devices_come_back_as_they_were(db: Database) -> None:
    started(db)
    kept = costs.KeptPlan(Whole(3.0, 30.0), {"a": 1.0, "b": 2.0}, WeightBias(0.25, None, 0.5, 2.0, ("c",)))
    model = CostModel(Prices(*(0.1 * (at + 1) for at in range(9))))
    with db.writing() as connection:
        costs.keep_plan(connection, "run-1", 1, costs.KeptPlan(None, {}, WeightBias(0.0, 1.0, 0.0, 1.0)))
        costs.keep_plan(connection, "run-1", 1, kept)
        for _ in range(2):
            costs.keep(connection, "a", "sha256:1", model)
    with db.reading() as connection:
        assert costs.plans(connection, "run-1") == {1: kept}
        assert costs.models(connection, "sha256:1")["a"].state() == model.state()
        assert costs.models(connection, "sha256:2") == {}
        assert reading.run_status(connection, "run-1").rounds[1].bias == kept.bias
