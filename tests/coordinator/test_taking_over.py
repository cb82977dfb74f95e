"""A lock that is lost with its connection: the coordinator that comes after writes, and the one before no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from stored_runs import started

from coordinator.operator.client import Operator
from coordinator.store import reading
from coordinator.store.database import Database, FencedError
from protos.errors import RefusedError
from protos.orders import Verdict

Fleet = Callable[..., Any]


def end_all_connections(database: str) -> None:
    """What a restart of the server, a failover, or a firewall does to a lock."""
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def test_who_lost_the_lock_writes_no_more_once_another_has_come(postgres: str) -> None:
    first = Database(postgres)
    end_all_connections(postgres)
    started(first, "run-1")
    second = Database(postgres)
    fenced: list[bool] = []
    first.on_fenced = lambda: fenced.append(True)
    for _ in range(2):
        with pytest.raises(FencedError, match="another coordinator has taken over"):
            started(first, "run-2")
    assert fenced == [True, True]
    started(second, "run-3")
    with second.reading() as connection:
        assert reading.run_ids(connection) == ["run-1", "run-3"]
    first.close()
    second.close()


@pytest.mark.processes
def test_a_coordinator_that_was_taken_over_ends_and_its_run_goes_on_in_the_other_one(
    postgres: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    one, two, ready = tmp_path / "one", tmp_path / "two", tmp_path / "ready"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(one), "--database", postgres,
               "--listen", "127.0.0.1:0", "--ready-file", str(ready)]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        tools.until(lambda: ready.exists() or process.poll() is not None, "the server")
        address = ready.read_text().strip()
        with Operator(address) as operator:
            run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        report = device.answer(device.order(), 1.0)
        end_all_connections(postgres)
        with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
            # As of a run that was started by a version that kept no copies there.
            connection.execute("DELETE FROM shared_files")
        with tools.served(two, postgres) as other, Operator(other) as operator:
            tools.until(lambda: "is held here" in operator.status(run_id)[0].reason, "the wait for the bundle")
            with pytest.raises(grpc.RpcError) as caught:
                device.send(report)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert process.wait(60) == RefusedError.exit_code
            assert "another coordinator has taken over the database" in (tmp_path / "log").read_text()
            assert not operator.status(run_id)[0].is_over, "a bundle that is elsewhere fails no run"
            shutil.copytree(one / "bundles", two / "bundles", dirs_exist_ok=True)
            again = fleet(other, "a")
            again.join()
            tools.until(lambda: operator.status(run_id)[0].reason.startswith("round 1"), "the run")
            assert again.send(report).verdict is Verdict.ACCEPTED
            assert tools.finished(operator, run_id).state == "finished"
    finally:
        process.kill()
        process.wait()


def test_a_run_whose_bundle_comes_from_the_database_needs_room_in_the_state_folder_alone_and_waits_for_it(
    postgres: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with tools.served(one, postgres) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
    # The other's folder for temporary files cannot be used, and its bundles have no place either, at first.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    two.mkdir()
    (two / "bundles").write_bytes(b"no folder")
    with tools.served(two, postgres) as address, Operator(address) as operator:
        tools.until(lambda: "cannot be opened now" in operator.status(run_id)[0].reason, "the wait for room")
        assert "free space in the state directory" in operator.status(run_id)[0].reason
        (two / "bundles").unlink()
        device = fleet(address, "a")
        device.join()
        assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
