"""A standby: a second coordinator of the same database waits, and goes on in the same round when the first is gone;
devices know both addresses, and move by themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports
from scripted_device import NOTHING, ScriptedDevice
from sqlalchemy import select
from test_taking_over import end_all_connections

from coordinator.operator.client import Operator
from coordinator.store.database import Database
from coordinator.store.tables import events, orders, shared_files
from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Stopping
from protos.convert.reports import serialise_report
from protos.errors import RefusedError, UsageError
from protos.orders import Receipt, RejoinOrder, TrainOrder, Verdict

SERVE = [sys.executable, "-m", "coordinator.cli", "serve"]


@contextmanager
def coordinator(folder: Path, port: int, database: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real process with a state folder of its own."""
    command = [*SERVE, "--state", str(folder), "--database", database, "--listen", f"127.0.0.1:{port}"]
    command += ["--ready-file", str(folder.with_suffix(".ready")), *more]
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


class Board:
    """A device behind the real link of the daemon; what it trains is given."""

    def __init__(self, name: str, addresses: str) -> None:
        self._scripted = ScriptedDevice("127.0.0.1:1", name)
        self.card = self._scripted.card
        self.link = Link(addresses, Stopping())
        self.link.join(self.card)

    def close(self) -> None:
        self.link.close()
        self._scripted.close()

    def order(self, tools: Any) -> TrainOrder:
        def asked() -> TrainOrder | None:
            try:
                order, _ = self.link.next_order(
                    self.card.device_id, self.card.session, [], bundle_id="", holding=NOTHING, waits_s=1.0
                )
                if isinstance(order, RejoinOrder):
                    self.link.join(self.card)
            except Away:
                return None
            return order if isinstance(order, TrainOrder) else None

        found: TrainOrder = tools.until(asked, f"an order for {self.card.device_id}")
        return found

    def send(self, order: TrainOrder, tools: Any) -> Receipt:
        data = serialise_report(self._scripted.answer(order, 1.0))

        def sent() -> Receipt | None:
            try:
                return self.link.report(self.card.device_id, order.run_id, order.round, data)
            except Away:
                return None

        found: Receipt = tools.until(sent, f"a receipt for {self.card.device_id}")
        return found


@pytest.mark.processes
@pytest.mark.parametrize("end", ["killed", "frozen, with its connections ended"])
def test_a_standby_goes_on_in_the_same_round_and_devices_move_to_it_by_themselves(
    postgres: str, plain_bundle: Path, tools: Any, tmp_path: Path, end: str
) -> None:
    one, two = free_ports(2)
    first, second = tmp_path / "first", tmp_path / "second"
    boards: list[Board] = []
    with coordinator(first, one, postgres) as serving:
        tools.until(first.with_suffix(".ready").exists, "the first coordinator")
        with coordinator(second, two, postgres, "--standby") as standby:
            tools.until(lambda: b"standby" in second.with_suffix(".log").read_bytes(), "the standby")
            with Operator(f"127.0.0.1:{one}") as operator:
                text = tools.plan(plain_bundle, rounds=2, devices=2, quorum=1.0, deadline_s=300)
                run_id = operator.start_run(text, tmp_path)
            boards = [Board(name, f"127.0.0.1:{one},127.0.0.1:{two}") for name in "ab"]
            held = [board.order(tools) for board in boards]
            assert boards[0].send(held[0], tools).verdict is Verdict.ACCEPTED
            assert not second.with_suffix(".ready").exists(), "one coordinator at a time"
            if end == "killed":
                serving.kill()
            else:
                serving.send_signal(signal.SIGSTOP)
                end_all_connections(postgres)
            tools.until(second.with_suffix(".ready").exists, "the standby in its place")
            serving.send_signal(signal.SIGCONT)
            assert serving.wait(60) == (-signal.SIGKILL if end == "killed" else RefusedError.exit_code)
            assert boards[0].send(held[0], tools).verdict is Verdict.DUPLICATE, "what was acknowledged is held"
            assert boards[1].send(held[1], tools).verdict is Verdict.ACCEPTED
            for board in boards:
                # Both are there before the next round opens.
                board.link.join(board.card)
            for board in boards:
                order = board.order(tools)
                assert order.round == 2
                assert board.send(order, tools).verdict is Verdict.ACCEPTED
                assert board.link.address == f"127.0.0.1:{two}"
            with Operator(f"127.0.0.1:{two}") as operator:
                assert tools.finished(operator, run_id).state == "finished"
            standby.terminate()
            assert standby.wait(60) == 0
    for board in boards:
        board.close()
    db = Database(postgres)
    with db.reading() as connection:
        assert set(connection.execute(select(orders.c.attempt)).scalars()) == {1}, "no round was tried again"
        assert "abandoned" not in set(connection.execute(select(events.c.kind)).scalars())
    db.close()


@pytest.mark.processes
def test_a_standby_that_is_told_to_stop_ends_without_having_served(postgres: str, tools: Any, tmp_path: Path) -> None:
    db = Database(postgres)
    folder = tmp_path / "standby"
    with coordinator(folder, 0, postgres, "--standby") as process:
        tools.until(lambda: b"standby" in folder.with_suffix(".log").read_bytes(), "the standby")
        process.terminate()
        assert process.wait(60) == 0
    db.close()
    assert not folder.with_suffix(".ready").exists()


@pytest.mark.processes
def test_a_file_has_no_standby(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SERVE, "--state", str(tmp_path / "state"), "--standby"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == UsageError.exit_code
    assert "a SQLite file has no standby" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_lease_whose_connection_ended_is_taken_again_when_nobody_came(postgres: str) -> None:
    db = Database(postgres)
    end_all_connections(postgres)
    db.keep_lease()
    with pytest.raises(RefusedError):
        Database(postgres)
    db.close()


def test_copies_of_files_go_with_the_last_run_that_names_them(postgres: str, tmp_path: Path) -> None:
    from coordinator.store.models import shared_files as files

    db = Database(postgres)
    path = tmp_path / "model.tflite"
    path.write_bytes(b"model")
    files.share(db, "bundles/aa", [path])
    files.share(db, "bundles/aa", [path])
    files.share(db, "bundles/bb", [path])
    assert files.shared(db, "bundles/aa") == {"model.tflite": b"model"}
    files.forget_all_but(db, {"bb"})
    with db.reading() as connection:
        assert list(connection.execute(select(shared_files.c.folder)).scalars()) == ["bundles/bb"]
    db.close()
