"""The daemon as a process: signals, death, locks, exit codes, and what it imports."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order
from striped_data import write_data

from protos.energy import Phase
from protos.model.bundle import Bundle
from protos.orders import CodecOrder, StopReason
from protos.v1 import edgejoule_pb2 as pb

pytestmark = pytest.mark.processes
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}

Start = Callable[..., "subprocess.Popen[str]"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRON, timeout=120, check=False)


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
    assert [one.suffix for one in memory.iterdir()] == [".next"]
    # The coordinator had taken it: the same bytes again are a duplicate.
    peer.before_verdict, peer.verdict = lambda context: None, pb.VERDICT_DUPLICATE
    peer.orders.append(orders[1])
    _, errors = start(peer, "--max-rounds", "1").communicate(timeout=60)
    assert [peer.read(0).update, peer.read().update] == undisturbed, errors
    assert [one.suffix for one in memory.iterdir()] == [".tree"]


def test_a_report_that_cannot_be_stored_is_sent_from_memory_and_the_daemon_goes_on(
    peer: PeerCoordinator, start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    def told(round: int) -> list[float | None]:
        records = [one for settled in peer.settled if settled.round == round for one in settled.energy]
        return [one.energy_j for one in records if one.phase is Phase.SEND]

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
    (line,) = [one for one in errors.splitlines() if "round 3:" in one]
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


def one_line(done: subprocess.CompletedProcess[str], code: int, *needles: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edge-runtime: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for needle in needles:
        assert needle in lines[0]


def test_every_bad_input_is_one_line_with_its_own_exit_code(tmp_path: Path, data: Path, bundle_path: Path) -> None:
    def with_file(name: str, **changes: Any) -> Path:
        return write_data(tmp_path / name, **changes)

    def with_bundle(name: str, change: Callable[[Path], object]) -> Path:
        target = tmp_path / name
        shutil.copytree(bundle_path, target)
        change(target)
        return target

    state = tmp_path / "state"

    def outcome(code: int, *needles: str, **options: object) -> None:
        given = {"data": data, "state": state, "coordinator": "127.0.0.1:9", "wait-for-coordinator": 0, **options}
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        one_line(run("run", *flags), code, *needles)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-7])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    nan = np.zeros((90, 8, 8, 1), np.float32)
    nan[17] = np.nan
    outcome(5, "127.0.0.1:9", "coordinator serve")
    outcome(13, "nowhere.npz", data=tmp_path / "nowhere.npz")
    outcome(10, "example 17", data=with_file("nan.npz", x=nan))
    outcome(9, "label 5", data=with_file("label.npz", y=np.full(90, 5)), bundle=bundle_path)
    outcome(11, "ghost", data=with_file("own.npz", device=np.array(["a", "b"] * 45)), shard="ghost")
    outcome(11, data=with_file("test.npz", is_test=np.ones(90, np.bool_)))
    outcome(8, "[9, 8, 1]", data=with_file("shape.npz", x=np.zeros((90, 9, 8, 1), np.uint8)), bundle=bundle_path)
    outcome(7, "head.tflite", bundle=with_bundle("cut", lambda path: cut(path / "head.tflite")))
    outcome(7, "backbone.tflite", bundle=with_bundle("flip", lambda path: flip(path / "backbone.tflite")))
    outcome(6, "manifest", bundle=with_bundle("json", lambda path: cut(path / "manifest.json")))
    outcome(6, "no such bundle", bundle=tmp_path / "no-bundle")
    outcome(14, "/dev/ttyNOWHERE", sensor="serial:/dev/ttyNOWHERE")
    outcome(2, "volts", sensor="volts")
    outcome(16, "certificates", coordinator="10.0.0.1:50461")
    outcome(4, "threads", threads="many")
    bad = tmp_path / "bad.toml"
    bad.write_text("devise_id = 'x'")
    one_line(run("run", "--config", bad), 4, "device_id")
    one_line(run("run", "--state", state), 4, "--data")
    assert [one.name for one in (state / "outbox").iterdir()] == []


def test_the_daemon_imports_only_what_a_device_has() -> None:
    heavy = ["tensorflow", "keras", "rich", "sqlalchemy", "PIL", "sklearn", "scipy", "matplotlib", "coordinator"]
    code = (
        "import sys, edge_runtime.daemon, edge_runtime.cli, edge_runtime.doctor.examination; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_answers_without_numpy_or_grpc() -> None:
    code = "import sys, edge_runtime.cli; print([n for n in ('numpy', 'grpc', 'google.protobuf') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doctor_measures_a_fresh_process(tmp_path: Path, data: Path, bundle_path: Path) -> None:
    done = run("doctor", "--json", "--data", data, "--bundle", bundle_path, "--state", tmp_path / "state",
               "--sensor", "estimate:pi4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ready_s"] > 0
    assert 0 < found["rss_ready_mb"] <= found["rss_mb"] < 120.0
    assert (found["steps"], found["embedded"], found["error"]) == (20, 81, None)
    assert (found["ready_limit_s"], found["rss_limit_mb"]) == (2.0, 120.0)
    assert found["ok"]
    assert all(bool(one["fix"]) == (one["verdict"] != "ok") for one in found["checks"])
    assert done.stderr == ""
    assert {one["verdict"] for one in found["checks"]} <= {"ok", "warn"}
    assert not (tmp_path / "state").exists()


def test_the_doctor_fails_with_the_way_to_mend_it(tmp_path: Path) -> None:
    broken = ("--sensor", "serial:/dev/ttyNOWHERE", "--data", tmp_path / "no.npz", "--state", tmp_path / "state")
    done = run("doctor", *broken)
    assert done.returncode == 3
    assert "FAIL  sensor: /dev/ttyNOWHERE is not there" in done.stdout
    assert "FAIL  fresh start:" in done.stdout
    assert "no such file" in done.stdout
    assert "\033[" not in done.stdout
