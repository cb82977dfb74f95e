"""What is on disk counts, whatever happens between a commit and its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from lossy_proxy import LossyProxy
from stored_runs import started

from coordinator.operator.client import Operator
from coordinator.run import report_transactions, round_transactions
from coordinator.run.reports.aggregation import Fold
from coordinator.run.rounds.round_events import State
from coordinator.run.run import ActiveRun
from coordinator.store import runs
from coordinator.store.database import AlreadyThereError, Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.tables import orders
from protos.errors import StoreError
from protos.model.bundle import open_bundle
from protos.orders import Verdict

Fleet = Callable[..., Any]


def _moved(database: str, bundle: Path, version: str) -> float:
    """By how much the head's bias moved."""
    db = Database(database)
    with db.reading() as connection:
        head = heads.get(connection, version)
    db.close()
    return float((head["out_bias"] - open_bundle(bundle).initial_head()["out_bias"])[0])


def _lost_and_sent_again(device: Any, report: Any) -> None:
    """A report whose first answer is an error, and whose second is DUPLICATE, as the device sends it until answered."""
    with pytest.raises(grpc.RpcError):
        device.send(report)
    assert device.send(report).verdict is Verdict.DUPLICATE


@pytest.mark.parametrize("half_way", [False, True])
def test_a_report_whose_fold_failed_after_the_commit_is_in_the_head(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half_way: bool
) -> None:
    failed: list[str] = []
    name = "_guess_of" if half_way else "add"
    real = getattr(Fold, name)

    def fail_once(self: Fold, *args: Any) -> Any:
        # `_guess_of` is asked once before the commit as well, for the sizes.
        failed.append(name)
        if len(failed) == (2 if half_way else 1):
            raise MemoryError("a copy of a large head")
        return real(self, *args)

    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        report = a.answer(a.order(), 100.0)
        monkeypatch.setattr(Fold, name, fail_once)
        _lost_and_sent_again(a, report)
        assert b.send(b.answer(b.order(), 1.0)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    moved = _moved(sqlite_url(tmp_path / "state/coordinator.db"), plain_bundle, status.rounds[1].head_version or "")
    assert moved == 50.5
    assert {device.device_id: device.weight for device in status.rounds[1].devices} == {"a": 0.5, "b": 0.5}


def test_a_report_whose_commit_was_not_answered_is_in_the_head(
    postgres: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    import psycopg

    name = f"t{time.time_ns()}"
    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    port = postgres.rpartition(":")[2].partition("/")[0]
    proxy = LossyProxy(int(port))
    direct = postgres.rpartition("/")[0] + f"/{name}"
    through = direct.replace(f":{port}/", f":{proxy.port}/")
    with tools.served(tmp_path / "state", through) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, deadline_s=600), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        order = a.order()
        report = a.answer(order, 100.0)
        proxy.lose_next_commit(after=b"INSERT INTO reports")
        _lost_and_sent_again(a, report)
        assert proxy.lost == 1
        b.send(b.answer(b.order(), 1.0))
        # It hung to its deadline, since the machine went on waiting for a.
        status = tools.finished(operator, run_id)
    proxy.close()
    assert _moved(direct, plain_bundle, status.rounds[1].head_version or "") == 50.5
    assert {device.device_id: device.outcome for device in status.rounds[1].devices} == {
        "a": "accepted",
        "b": "accepted",
    }


def test_a_head_moves_once_a_round_also_when_the_books_cannot_be_read_after_that(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []
    real = round_transactions.enough

    def fails_once(db: Database, run: ActiveRun) -> str:
        if run.machine.round not in failed and run.machine.state is State.SETTLING:
            failed.append(run.machine.round)
            raise StoreError("the server is shutting down", where="database")
        return real(db, run)

    monkeypatch.setattr(round_transactions, "enough", fails_once)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2), tmp_path)
        device = fleet(address, "a")
        device.join()
        for number in (1, 2):
            order = device.order(number)
            assert order.head_version == operator.status(run_id)[0].rounds[number - 1].head_version
            device.send(device.answer(order, 1.0))
        status = tools.finished(operator, run_id)
    assert failed == [1, 2]
    for number in (1, 2):
        version = status.rounds[number].head_version or ""
        assert _moved(sqlite_url(tmp_path / "state/coordinator.db"), plain_bundle, version) == number


def test_a_head_whose_commit_was_not_answered_is_the_one_that_is_trained_from_whatever_noise_was_drawn_since(
    postgres: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    port = postgres.rpartition(":")[2].partition("/")[0]
    proxy = LossyProxy(int(port))
    noisy = '[aggregate]\nweight = []\nnormalise = "none"\n[privacy]\nclip = 1\nnoise = 1\nepsilon = 100\n'
    with tools.served(tmp_path / "state", postgres.replace(f":{port}/", f":{proxy.port}/")) as address:
        device = fleet(address, "a")
        device.join()
        with Operator(address) as operator:
            proxy.lose_next_commit(after=b"INSERT INTO shown")
            run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, more=noisy), tmp_path)
            device.send(device.answer(device.order(1), 1.0))
            order = device.order(2)
            assert proxy.lost == 1
            assert order.head_version == operator.status(run_id)[0].rounds[1].head_version
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
            assert tools.finished(operator, run_id).state == "finished"
    proxy.close()


def test_only_a_taken_key_means_that_a_row_is_there_already(db: Database) -> None:
    started(db)
    row = {"run_id": "run-1", "round": 1, "device_id": "a", "outcome": "ordered", "steps": 1, "bytes_up": 0}
    with pytest.raises(AlreadyThereError), db.writing() as connection:
        connection.execute(orders.insert().values(**row, bytes_down=0))
    for values in ({**row, "device_id": "c"}, {**row, "run_id": "run-none", "bytes_down": 0}):
        with pytest.raises(StoreError, match=r"(?i)null|foreign"), db.writing() as connection:
            connection.execute(orders.insert().values(**values))


def test_what_is_being_written_at_the_deadline_counts(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    real = report_transactions.accept

    def slow(*args: Any) -> Any:
        gate.wait(30)
        return real(*args)

    monkeypatch.setattr(report_transactions, "accept", slow)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=5, quorum=0.8, deadline_s=5), tmp_path)
        devices = [fleet(address, name) for name in "abcde"]
        for device in devices:
            device.join()
        held = [(device, device.order()) for device in devices]
        verdicts: dict[str, Verdict] = {}

        def send(device: Any, order: Any) -> None:
            verdicts[device.card.device_id] = device.send(device.answer(order, 1.0)).verdict

        # Devices that a deadline cuts all report just before it; one does not report at all.
        threads = [threading.Thread(target=send, args=pair) for pair in held[:4]]
        for thread in threads:
            thread.start()
        time.sleep(max(order.deadline_s for _, order in held) + 0.3)
        gate.set()
        for thread in threads:
            thread.join()
        status = tools.finished(operator, run_id)
    assert verdicts == dict.fromkeys("abcd", Verdict.ACCEPTED)
    assert (status.state, status.rounds[1].state) == ("finished", "closed")
    assert {device.device_id: device.outcome for device in status.rounds[1].devices} == {
        **dict.fromkeys("abcd", "accepted"),
        "e": "missing",
    }
    db = Database(sqlite_url(tmp_path / "state/coordinator.db"))
    with db.reading() as connection:
        last = runs.last_round(connection, run_id)
    db.close()
    assert last is not None
    assert last["attempt"] == 1, "nobody had to be asked again"
    assert np.isclose(sum(device.weight for device in status.rounds[1].devices), 1.0)
