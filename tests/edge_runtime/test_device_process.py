"""The daemon as a process: signals, death, locks, and the lines that it writes."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from device_command import ENVIRON, command
from peer_coordinator import PeerCoordinator, order

from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import CodecOrder, StopReason
from protos.v1 import edgejoule_pb2 as pb

pytestmark = pytest.mark.processes
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, data: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start_process(peer: PeerCoordinator, *more: object) -> subprocess.Popen[str]:
        basics = ("--device-id", "pi-1", "--data", data, "--sensor", "estimate:pi4", "--state", tmp_path / "state")
        children.append(
            subprocess.Popen(
                command("run", "--coordinator", peer.address, *basics, *more),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRON,
            )
        )
        return children[-1]

    yield start_process
    for child in children:
        child.kill()
        child.communicate()


def test_sigterm_in_training_sends_what_was_trained_leaves_and_ends_with_0(
    peer: PeerCoordinator, start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.extend([order(bundle, 1), order(bundle, 2, steps=10_000_000, deadline_s=900.0)])
    pid_file = tmp_path / "pid"
    child = start(peer, "--pid-file", pid_file)
    peer.until(lambda: len(peer.settled) >= 1)  # the energy of round 1 comes with the question that gets round 2
    time.sleep(1.0)
    assert int(pid_file.read_text()) == child.pid
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    last = peer.read()
    assert (last.round, last.stop_reason) == (2, StopReason.SHUTDOWN)
    assert 0 < last.steps_done < 10_000_000
    assert peer.leaves == ["SIGTERM"]
    assert not pid_file.exists()


def test_sigint_while_waiting_leaves_and_ends_with_0(peer: PeerCoordinator, start: Start) -> None:
    child = start(peer)
    peer.until(lambda: len(peer.joins) == 1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    assert peer.leaves == ["SIGINT"]


def test_a_report_without_an_answer_survives_kill_9_and_is_sent_by_the_next_start(
    peer: PeerCoordinator, start: Start, bundle: Bundle
) -> None:
    def no_answer(context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no answer")

    peer.before_verdict = no_answer
    peer.orders.append(order(bundle, 1))
    child = start(peer)
    peer.until(lambda: len(peer.reports) >= 1)
    child.kill()
    child.communicate()
    sent = peer.reports[0]
    before = len(peer.reports)
    peer.before_verdict = lambda context: None
    peer.orders.append(order(bundle, 2))
    again = start(peer, "--max-rounds", "1", "--json")
    printed, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert peer.reports[before] == sent
    assert [peer.read(index).round for index in range(before, len(peer.reports))] == [1, 2]
    row = json.loads(printed)
    assert (row["round"], row["embedded"], row["verdict"]) == (2, 0, "accepted")
    (send,) = [one for settled in peer.settled if settled.round == 1 for one in settled.energy]
    assert (send.phase, send.energy_j, send.flags) == (Phase.SEND, None, ("interrupted",))


def test_kill_9_before_the_answer_moves_the_memory_of_a_codec_just_once(
    peer: PeerCoordinator, start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    orders = [order(bundle, number, codec=CodecOrder("sign", {})) for number in (1, 2)]
    peer.orders.extend(orders)
    calm = start(peer, "--max-rounds", "2", "--state", tmp_path / "calm")
    _, errors = calm.communicate(timeout=60)
    assert calm.returncode == 0, errors
    undisturbed = [peer.read(index).update for index in range(2)]
    peer.reports.clear()
    peer.before_verdict = lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "no answer")
    peer.orders.append(orders[0])
    child = start(peer)
    peer.until(lambda: len(peer.reports) >= 1)
    child.kill()
    child.communicate()
    memory = tmp_path / "state" / "memory"
    assert [path.suffix for path in memory.iterdir()] == [".next"]
    # The coordinator had taken it: the same bytes again are a duplicate.
    peer.before_verdict, peer.verdict = lambda context: None, pb.VERDICT_DUPLICATE
    peer.orders.append(orders[1])
    _, errors = start(peer, "--max-rounds", "1").communicate(timeout=60)
    assert [peer.read(0).update, peer.read().update] == undisturbed, errors
    assert [path.suffix for path in memory.iterdir()] == [".tree"]


def test_a_report_that_cannot_be_stored_is_sent_from_memory_and_the_daemon_goes_on(
    peer: PeerCoordinator, start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    def told(round: int) -> list[float | None]:
        records = [one for settled in peer.settled if settled.round == round for one in settled.energy]
        return [record.energy_j for record in records if record.phase is Phase.SEND]

    outbox = tmp_path / "state" / "outbox"
    peer.orders.append(order(bundle, 1))
    child = start(peer)
    peer.until(lambda: bool(told(1)))
    # From here on no file may grow: to the daemon that is the same as a disk without space.
    soft, hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, hard))
    peer.orders.append(order(bundle, 2))
    peer.until(lambda: bool(told(2)))
    assert list(outbox.iterdir()) == []
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (soft, hard))
    kept: list[list[Path]] = []
    peer.before_verdict = lambda context: kept.append(list(outbox.glob("*.report")))
    peer.orders.append(order(bundle, 3))
    peer.until(lambda: bool(told(3)))
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 2, 3]
    assert None not in (told(1) + told(2) + told(3))
    assert [len(files) for files in kept] == [1], "stored again as soon as there is space"
    (line,) = [line for line in errors.splitlines() if "in memory only" in line]
    for part in ("round 2", "outbox", "cannot be written"):
        assert part in line


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(
    peer: PeerCoordinator, start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    first = start(peer, "--pid-file", pid_file)
    peer.until(lambda: len(peer.joins) == 1)
    second = start(peer, "--pid-file", pid_file)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 16
    assert f"process {first.pid}" in errors
    assert pid_file.exists()
    assert first.poll() is None


def test_the_lines_of_a_round_say_steps_joules_and_bytes(peer: PeerCoordinator, start: Start, bundle: Bundle) -> None:
    peer.orders.append(order(bundle, 3))
    _, errors = start(peer, "--max-rounds", "1").communicate(timeout=60)
    (line,) = [text for text in errors.splitlines() if "round 3:" in text]
    assert "12/12 steps (completed)" in line
    assert "J (estimated, coverage 1.00)" in line
    assert line.endswith(" B up")


def test_lines_carry_a_priority_for_the_journal(
    peer: PeerCoordinator, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRON, "JOURNAL_STREAM", "8:1")
    _, errors = start(peer, "--exit-when-idle", "0.1").communicate(timeout=60)
    ours = [line for line in errors.splitlines() if "joined" in line]
    assert ours
    assert all(line.startswith("<6>") for line in ours)
