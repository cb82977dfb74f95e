"""A PostgreSQL that stops answering: every wait has an end, and so has the process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from lossy_proxy import LossyProxy
from sqlalchemy import text

from coordinator.operator.client import Operator
from coordinator.store import time_limits
from coordinator.store.database import DamagedError, Database
from protos.errors import StoreError
from protos.orders import Verdict

Fleet = Callable[..., Any]


class StallingProxy(LossyProxy):
    """After :meth:`stall` nothing is passed on, in either direction, and new connections get no answer."""

    def __init__(self, target_port: int) -> None:
        self.flowing = threading.Event()
        self.flowing.set()
        self.held = threading.Event()
        super().__init__(target_port)

    def stall(self) -> None:
        self.flowing.clear()

    def _up(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        self._pass(client, server)

    def _down(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        self._pass(server, client)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.flowing.is_set():
                    self.held.set()
                    self.flowing.wait()
                target.sendall(data)
        for sock in (source, target):
            # So that the thread of the other direction ends too.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def proxy(postgres: str) -> Iterator[StallingProxy]:
    made = StallingProxy(int(postgres.rsplit(":", 1)[1].split("/")[0]))
    yield made
    made.flowing.set()
    made.close()


@pytest.fixture
def through(postgres: str, proxy: StallingProxy) -> str:
    """The URL of an empty database behind the proxy."""
    return f"postgresql+psycopg://edgejoule@127.0.0.1:{proxy.port}/{postgres.rpartition('/')[2]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limits, "CONNECT_S", 2)
    monkeypatch.setattr(time_limits, "STATEMENT_S", 1)
    monkeypatch.setattr(time_limits, "ANSWER_S", 1.5)
    monkeypatch.setattr(time_limits, "PING_S", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_device_is_answered_while_the_database_stalls_and_goes_on_after(
    through: str, proxy: StallingProxy, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with tools.served(tmp_path / "state", through) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device, other = fleet(address, "a"), fleet(address, "b")
        device.join()
        report = device.answer(device.order(), 1.0)
        proxy.stall()
        for call in (other.join, lambda: device.send(report)):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        proxy.flowing.set()
        tools.until(lambda: _taken(device, report), "the report")
        assert tools.finished(operator, run_id).state == "finished"


def _taken(device: Any, report: Any) -> bool:
    try:
        return device.send(report).verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)
    except grpc.RpcError:
        return False


@pytest.mark.usefixtures("impatient")
def test_statements_commits_and_connections_that_stall_are_store_errors(through: str, proxy: StallingProxy) -> None:
    db = Database(through)
    with pytest.raises(StoreError, match="statement timeout"), db.reading() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))

    def stalled_at_commit() -> None:
        with db.writing() as connection:
            connection.execute(text("CREATE TABLE t (x INTEGER)"))
            proxy.stall()

    with pytest.raises(StoreError):
        stalled_at_commit()
    with pytest.raises(StoreError), db.reading():
        pass
    proxy.flowing.set()
    with db.reading() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    db.close()


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_is_lost_in_a_transaction_is_nothing_that_is_stored_badly(
    through: str, proxy: StallingProxy
) -> None:
    db = Database(through)

    def lost_within() -> None:
        with db.writing() as connection:
            connection.execute(text("CREATE TABLE t (x INTEGER)"))
            proxy.stall()
            connection.execute(text("INSERT INTO t VALUES (1)"))

    with pytest.raises(StoreError) as caught:
        lost_within()
    assert not isinstance(caught.value, DamagedError)
    proxy.flowing.set()
    with db.reading() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    db.close()


def _join(device: Any) -> None:
    with suppress(grpc.RpcError):
        device.join()


# The command as it is, whose limits are a fifth of what they are.
_IMPATIENT = """
import sys
from coordinator import cli
from coordinator.store import time_limits
for name in ("CONNECT_S", "STATEMENT_S", "ANSWER_S", "PING_S"):
    setattr(time_limits, name, type(getattr(time_limits, name))(getattr(time_limits, name) / 5))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.processes
@pytest.mark.parametrize("signals", [1, 2])
def test_a_coordinator_whose_database_stalls_ends_when_told_to_and_at_once_when_told_twice(
    through: str, proxy: StallingProxy, fleet: Fleet, tools: Any, tmp_path: Path, signals: int
) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", _IMPATIENT, "serve", "--state", str(tmp_path / "state"), "--database",
               through, "--listen", "127.0.0.1:0", "--ready-file", str(ready)]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        tools.until(lambda: ready.exists() or process.poll() is not None, "the server")
        device = fleet(ready.read_text().strip(), "a")
        proxy.stall()
        threading.Thread(target=_join, args=(device,), daemon=True).start()
        assert proxy.held.wait(20), "the coordinator waits for an answer"
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            tools.until(lambda: "stopping" in (tmp_path / "log").read_text(), "the first signal")
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == (0 if signals == 1 else 128 + signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
