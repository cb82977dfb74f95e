"""What an order costs to receive: metered by a real device on a slow line, charged, and no news for older releases."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_versions_together import landed_code
from version_rig import PLAN, Programs

__all__ = ["landed_code"]

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
LANDED = Path(__file__).parent / "landed"
ROUNDS = 2
WORK = ("receive", "embed", "train", "encode", "send")
_BYTES_A_S = 40_000.0


class SlowLine:
    """A TCP line whose bytes towards the device come slowly, as on a weak link."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = [self._listener]
        self._threads[0].start()

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += [near, far]
            for source, sink, rate in ((near, far, None), (far, near, _BYTES_A_S)):
                thread = threading.Thread(target=_pass_on, args=(source, sink, rate))
                self._threads.append(thread)
                thread.start()


def _pass_on(source: socket.socket, sink: socket.socket, rate: float | None) -> None:
    try:
        while data := source.recv(1024):
            sink.sendall(data)
            if rate is not None:
                time.sleep(len(data) / rate)
    except OSError:
        pass
    finally:
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def slow() -> Iterator[Any]:
    """`slow(address)`: the address of a slow line there."""
    lines: list[SlowLine] = []

    def line(address: str) -> str:
        lines.append(SlowLine(address))
        return lines[-1].address

    yield line
    for one in lines:
        one.close()


def _plan(programs: Programs, address: str, more: str = "") -> str:
    plan = programs.folder / "plan.toml"
    text = PLAN.format(bundle=LANDED / "bundle", data=LANDED / "data.npz", rounds=ROUNDS, codec="sign")
    plan.write_text(text.replace('codec = "entropy_coded_mmse"\nbits = 4', 'codec = "float32"') + more)
    started = programs.answer("coordinator.cli", "start", str(plan), "--coordinator", address, "--json")
    return str(started["run_id"])


def test_what_comes_in_slowly_is_metered_charged_and_taken_off_the_budget(
    tmp_path: Path, landed_code: Path, slow: Any
) -> None:
    programs = Programs(ROOT, tmp_path, tmp_path / "coordinator")
    try:
        address = programs.serve()
        run_id = _plan(programs, address, "[budget]\nper_round_j = 500.0\ntotal_j = 900.0\n")
        told = programs.device(
            "pi-1", slow(address), tmp_path / "state", LANDED / "data.npz", "--max-rounds", str(ROUNDS)
        )
        status = programs.answer("coordinator.cli", "status", run_id, "--coordinator", address, "--json")
        books = programs.answer("coordinator.cli", "budgets", run_id, "--coordinator", address, "--json")
        (tmp_path / "old").mkdir()
        operator = Programs(landed_code, tmp_path / "old", tmp_path / "none")
        seen = operator.answer("coordinator.cli", "status", run_id, "--coordinator", address, "--json")
    finally:
        programs.close()
    bundle_bytes = sum(path.stat().st_size for path in (LANDED / "bundle").iterdir())
    spent_j, came = 0.0, []
    for said, kept in zip(told, status["rounds"][1:], strict=True):
        (device,) = kept["devices"]
        energy = device["energy"]
        assert set(WORK) <= set(energy)
        assert energy["receive"]["energy_j"] == said["joules"]["receive"] > 0
        came.append(energy["receive"])
        spent_j += sum(energy[phase]["energy_j"] for phase in WORK)
    # A bundle and a head at that rate take so long at least; the estimate is of an idle board's watts or more.
    assert came[0]["covered_s"] > 0.5 * bundle_bytes / _BYTES_A_S
    assert came[0]["energy_j"] > 2.0 * came[0]["covered_s"]
    assert came[1]["covered_s"] < came[0]["covered_s"], "a bundle comes in once"
    known = {"idle", "embed", "train", "encode", "send"}
    assert [set(this_round["devices"][0]["energy"]) for this_round in seen["rounds"][1:]] == [known] * ROUNDS
    (book,) = books["devices"]
    assert book["spent_j"] == pytest.approx(spent_j), "the ledger charges what came in"
    assert book["uncertain_j"] == 0.0


def test_a_coordinator_that_does_not_know_of_it_is_told_idle_time(tmp_path: Path, landed_code: Path, slow: Any) -> None:
    folders = tmp_path / "old", tmp_path / "new"
    for folder in folders:
        folder.mkdir()
    old, new = Programs(landed_code, folders[0], tmp_path / "coordinator"), Programs(ROOT, folders[1], tmp_path / "x")
    try:
        address = old.serve()
        run_id = _plan(old, address)
        told = new.device("pi-1", slow(address), tmp_path / "state", LANDED / "data.npz", "--max-rounds", str(ROUNDS))
        status = old.answer("coordinator.cli", "status", run_id, "--coordinator", address, "--json")
    finally:
        new.close()
        old.close()
    assert status["state"] == "finished"
    for said, kept in zip(told, status["rounds"][1:], strict=True):
        assert said["verdict"] == "accepted"
        assert "receive" not in said["joules"]
        assert set(kept["devices"][0]["energy"]) == {"idle", "embed", "train", "encode", "send"}
