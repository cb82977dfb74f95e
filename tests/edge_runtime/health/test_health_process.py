"""The daemon as a process, on a board made of files: it pauses, says so, goes on, or ends with what is there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board_tree import BoardTree
from device_command import ENVIRON
from peer_coordinator import PeerCoordinator, order

from edge_runtime.health.limits import LEAST_PAUSE_S
from protos.convert.reports import parse_report
from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import StopReason
from protos.v1 import edgejoule_pb2 as pb

pytestmark = pytest.mark.processes
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def tree(tmp_path: Path) -> BoardTree:
    tree = BoardTree(tmp_path / "machine")
    tree.zone(50.0)
    tree.firmware(0)
    return tree


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    """The socket of a service manager; its path must be short."""
    with tempfile.TemporaryDirectory(prefix="ej-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        path = f"{folder}/notify"
        end.bind(path)
        end.settimeout(60.0)
        yield end, path


@pytest.fixture
def start(tmp_path: Path, data: Path, tree: BoardTree) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start_process(peer: PeerCoordinator, *more: str, **environ: str) -> subprocess.Popen[str]:
        basics = ("run", "--json", "--coordinator", peer.address, "--device-id", "pi-1", "--data", str(data),
                  "--sensor", "estimate:pi4", "--state", str(tmp_path / "state"), "--machine-root", str(tree.root),
                  "--max-rounds", "1", "--pause-above", "80")  # fmt: skip
        command = [sys.executable, "-m", "edge_runtime.cli", *basics, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        children.append(subprocess.Popen(command, **pipes, text=True, env={**ENVIRON, **environ}))
        return children[-1]

    yield start_process
    for child in children:
        child.kill()
        child.communicate()


def test_a_hot_board_waits_feeds_its_watchdog_and_goes_on_when_it_is_cool(
    peer: PeerCoordinator, start: Start, tree: BoardTree, bundle: Bundle, manager: tuple[socket.socket, str]
) -> None:
    tree.zone(85.2)
    peer.orders.append(order(bundle, 1, deadline_s=600.0))
    end, path = manager
    # A quarter of two seconds: each turn of the wait is told.
    child = start(peer, NOTIFY_SOCKET=path, WATCHDOG_USEC="2000000")
    paused = "STATUS=paused: too hot, 85.2 degrees; goes on below 75 degrees"
    while end.recv(4096).decode() != paused:
        pass
    assert end.recv(4096) == b"WATCHDOG=1"
    assert end.recv(4096) == b"WATCHDOG=1"
    assert peer.reports == []
    tree.zone(60.0)
    while end.recv(4096).decode() != "STATUS=round 1 of run run-1: 12 steps":
        pass
    printed, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert "paused for at most" in errors
    report = peer.read()
    assert (report.steps_done, report.stop_reason) == (12, StopReason.COMPLETED)
    assert report.strain is not None
    assert report.strain.heat_s >= LEAST_PAUSE_S - 0.1
    assert report.strain.hottest_c == 85.2
    assert report.strain.typical
    assert report.train_s < report.strain.heat_s
    idle_s = sum(
        phase_energy.covered_s + phase_energy.uncovered_s
        for phase_energy in report.energy
        if phase_energy.phase is Phase.IDLE
    )
    assert idle_s >= report.strain.heat_s
    assert json.loads(printed)["strain"]["heat_s"] == pytest.approx(report.strain.heat_s)


def test_a_board_that_stays_hot_ends_its_round_and_older_readers_take_the_report(
    peer: PeerCoordinator, start: Start, tree: BoardTree, bundle: Bundle
) -> None:
    tree.zone(85.0)
    tree.firmware(0x60006)
    peer.orders.append(order(bundle, 1))
    child = start(peer, "--max-pause", "1")
    printed, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    assert "training ends after a pause of 1 s: too hot, 85.0 degrees, its clock is held down" in errors
    report = peer.read()
    assert (report.steps_done, report.stop_reason) == (0, StopReason.HEAT)
    assert json.loads(printed)["stop_reason"] == "heat"
    # What a reader from before sees, and what it makes of it.
    message = pb.DeviceReport.FromString(peer.reports[-1])
    assert message.stop_reason == pb.STOP_REASON_DEADLINE
    message.ClearField("ended_in_pause")
    message.ClearField("strain")
    assert parse_report(message.SerializeToString()).stop_reason is StopReason.DEADLINE


def test_limits_that_contradict_each_other_are_refused_in_one_line(peer: PeerCoordinator, start: Start) -> None:
    child = start(peer, "--resume-below", "80")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 4
    assert errors.count("\n") == 1
    assert "resume_below_c" in errors
    assert "80 degrees are not below" in errors


def test_a_device_whose_coordinator_is_gone_tells_its_manager_what_does_not_answer(
    peer: PeerCoordinator, start: Start, manager: tuple[socket.socket, str]
) -> None:
    end, path = manager
    child = start(peer, "--max-rounds", "2", NOTIFY_SOCKET=path)
    peer.until(lambda: len(peer.joins) == 1)
    peer.stop()
    while end.recv(4096).decode() != f"STATUS=coordinator {peer.address} does not answer":
        pass
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 0
