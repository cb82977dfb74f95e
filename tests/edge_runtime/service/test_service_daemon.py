"""The daemon as systemd sees it: ready, fed by what it does, and gone when it should be."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order

from edge_runtime.config import Settings
from edge_runtime.daemon import process as daemon
from edge_runtime.daemon.link import Interrupted, Link
from edge_runtime.daemon.memory_guard import SHARE, resident_bytes
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.systemd.journal import FIELDS, NativeJournal
from edge_runtime.systemd.logging_setup import log
from edge_runtime.systemd.notify import Notifier
from protos.errors import CheckFailed, RefusedError
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.orders import StopReason

Make = Callable[..., Settings]
# So short that every progress is told.
ALWAYS_S = 1e-9


class Served:
    """A daemon in a thread that tells a listener what it does."""

    def __init__(self, settings: Settings, address: str) -> None:
        self.stopping, self.error = Stopping(), None
        self._notifier = Notifier(address, ALWAYS_S)
        self._thread = threading.Thread(target=self._run, args=(settings,))
        self._thread.start()

    def _run(self, settings: Settings) -> None:
        try:
            daemon.run(settings, stopping=self.stopping, notifier=self._notifier)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(90.0)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def serve(settings: Make, peer: PeerCoordinator, listener) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []
    listener.keep_reading()

    def start(**changes: Any) -> Served:
        started.append(Served(settings(coordinator=peer.address, **changes), listener.address))
        return started[-1]

    yield start
    for served in started:
        served.stopping.request("end of test")
        served._thread.join(90.0)
        served.stopping.close()


def test_ready_comes_first_stopping_last_and_the_status_follows_the_work(
    peer: PeerCoordinator, serve, listener, bundle: Bundle
) -> None:
    peer.orders.append(order(bundle, 1))
    serve(max_rounds=1).end()
    said = [one.decode() for one in listener.take() if one != b"WATCHDOG=1"]
    assert said[0].startswith("READY=1\nSTATUS=")
    assert "xnnpack" in said[0]
    assert said[-1] == "STOPPING=1\nSTATUS=done"
    assert [one for one in said if "round 1" in one] == [
        "STATUS=round 1 of run run-1: 12 steps", "STATUS=round 1 of run run-1 is done, waiting for an order",
    ]  # fmt: skip


def test_every_step_is_progress(peer: PeerCoordinator, settings: Make, bundle: Bundle) -> None:
    told: list[None] = []

    class Counting(Notifier):
        def progress(self) -> None:
            told.append(None)

    peer.orders.append(order(bundle, 1, steps=400))
    daemon.run(settings(coordinator=peer.address, max_rounds=1), notifier=Counting(None))
    # Blocks of embeddings and calls come on top.
    assert len(told) >= 400


def test_a_step_that_hangs_feeds_nothing(
    peer: PeerCoordinator, serve, listener, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, released = threading.Event(), threading.Event()
    real = Head.train_step

    def hang(self: Head, *arguments: Any, **inputs: float) -> float:
        inside.set()
        assert released.wait(60.0)
        return real(self, *arguments, **inputs)

    monkeypatch.setattr(Head, "train_step", hang)
    peer.orders.append(order(bundle, 1, steps=3))
    served = serve(max_rounds=1)
    try:
        assert inside.wait(60.0)
        assert b"WATCHDOG=1" in listener.take()
        # Nothing may come now, however long one listens; a timer or a thread would show itself.
        assert not released.wait(1.0)
        assert listener.take() == []
    finally:
        released.set()
    served.end()
    assert b"WATCHDOG=1" in listener.take()


def test_too_much_memory_ends_the_round_sends_what_was_trained_and_fails_for_a_restart(
    peer: PeerCoordinator, serve, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    resident = resident_bytes()
    assert resident is not None
    held: list[Any] = []
    real = Head.train_step

    def greedy(self: Head, *arguments: Any, **inputs: float) -> float:
        if not held:
            held.append(np.ones(400 << 20, np.uint8))
        return real(self, *arguments, **inputs)

    monkeypatch.setattr(Head, "train_step", greedy)
    peer.orders.append(order(bundle, 1, steps=10_000_000, deadline_s=900.0))
    served = serve(memory_max_mb=int(((resident >> 20) + 200) / SHARE))
    with pytest.raises(CheckFailed, match="memory_max_mb"):
        served.end()
    report = peer.read()
    assert (report.round, report.stop_reason) == (1, StopReason.SHUTDOWN)
    assert 0 < report.steps_done < 10_000_000
    assert peer.leaves == ["memory limit"]
    held.clear()


def test_a_delegate_that_is_required_and_absent_stops_the_start(settings: Make, peer: PeerCoordinator) -> None:
    wanted = dataclasses.replace(settings(coordinator=peer.address), require_delegate="edgetpu")
    with pytest.raises(RefusedError, match=r"require_delegate: the engine runs with \w+ kernels.*ProcSubset"):
        daemon.run(wanted)


def test_the_delegate_that_is_there_may_be_required(serve, listener) -> None:
    served = serve(require_delegate="xnnpack", exit_when_idle_s=0.0)
    served.end()
    assert listener.take()[0].startswith(b"READY=1")


def test_a_call_that_grpc_never_ends_is_progress_until_its_deadline_and_not_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock_s, fed_s = [0.0], []

    class Patient(Stopping):
        def nap(self, timeout_s: float) -> None:
            clock_s[0] += timeout_s
            if clock_s[0] >= 1000.0:
                self.request("enough")

    class Endless:
        def future(self, request: object, timeout: float) -> Endless:
            return self

        def add_done_callback(self, callback: object) -> None: ...
        def cancel(self) -> None: ...
        def done(self) -> bool:
            return False

    monkeypatch.setattr("edge_runtime.daemon.link.time.monotonic", lambda: clock_s[0])
    stopping = Patient()
    stopping.tell_progress(lambda: fed_s.append(clock_s[0]))
    link = Link("127.0.0.1:1", stopping)
    with pytest.raises(Interrupted):
        link._call(Endless(), None, 15.0)
    link.close()
    stopping.close()
    assert 15.0 <= fed_s[-1] < 60.0


@pytest.mark.processes
def test_the_program_itself_tells_systemd_that_it_is_ready_and_that_it_ends(
    peer: PeerCoordinator, listener, data: Path, tmp_path: Path, bundle: Bundle
) -> None:
    peer.orders.append(order(bundle, 1))
    listener.keep_reading()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}
    environ |= {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "1", "STATE_DIRECTORY": str(tmp_path / "state")}
    arguments = ("--coordinator", peer.address, "--device-id", "pi-1", "--data", str(data))
    command = [sys.executable, "-m", "edge_runtime.cli", "run", *arguments]
    child = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        peer.until(lambda: len(peer.reports) >= 1)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    said = listener.take()
    assert said[0].startswith(b"READY=1\nSTATUS=")
    assert b"WATCHDOG=1" in said
    assert b"STOPPING=1\nSTATUS=SIGTERM" in said


def test_a_round_is_in_the_journal_with_run_round_phases_and_joules(
    peer: PeerCoordinator, settings: Make, short_folder, listener, bundle: Bundle
) -> None:
    journal = type(listener)(str(short_folder / "journal"))
    journal.keep_reading()
    handler = NativeJournal(journal.address)
    log().addHandler(handler)
    level = log().level
    log().setLevel("INFO")
    peer.orders.append(order(bundle, 4))
    try:
        daemon.run(settings(coordinator=peer.address, max_rounds=1), notifier=Notifier(None))
    finally:
        log().removeHandler(handler)
        log().setLevel(level)
        handler.close()
    entries = [dict(line.split("=", 1) for line in one.decode().splitlines()) for one in journal.take()]
    journal.close()
    phases = {entry[FIELDS["phase"]]: entry for entry in entries if FIELDS["phase"] in entry}
    assert {"embed", "train", "encode", "send"} <= phases.keys()
    assert {(phase[FIELDS["run"]], phase[FIELDS["round"]]) for phase in phases.values()} == {("run-1", "4")}
    assert float(phases["train"][FIELDS["joules"]]) > 0
    assert not any(FIELDS["run"] in entry for entry in entries if entry["MESSAGE"].startswith(("ready", "joined")))
