"""The real server process: killed in the middle of a round, stopped, started twice, asked for too much."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.operator.client import Operator
from protos.orders import RejoinOrder, Verdict

pytestmark = pytest.mark.processes
Fleet = Callable[..., Any]
Serve = Callable[..., tuple[subprocess.Popen[bytes], str]]


@pytest.fixture
def start_server(tmp_path: Path, tools: Any) -> Iterator[Serve]:
    """`start_server(state)`: a server process and its address; killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(state: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
        ready = tmp_path / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(state),
                   "--listen", "127.0.0.1:0", "--ready-file", str(ready), *options]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=_root())
        running.append(process)
        tools.until(lambda: ready.exists() or process.poll() is not None, "the server")
        assert process.poll() is None, process.communicate()[1].decode()
        return process, ready.read_text().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate()


def _root() -> str:
    return str(Path(__file__).parents[2])


def _serve(state: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(state), *options]
    return subprocess.run(command, capture_output=True, cwd=_root(), check=False, timeout=60)


def _play(
    bundle: Path, start_server: Serve, fleet: Fleet, tools: Any, state: Path, kill_after: int | None, more: str = ""
) -> tuple[list[str], list[Verdict]]:
    """Three devices, two rounds; the server is killed once ``kill_after`` reports are acknowledged.

    Gives the head after each round, and what the server said to the acknowledged reports when they came again.
    """
    process, address = start_server(state)
    changes = {"a": 0.125, "b": -0.7, "c": 3.3}
    devices = {
        name: fleet(address, name, train_examples=count) for name, count in zip("abc", (40, 8, 120), strict=True)
    }
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(bundle, rounds=2, devices=3, quorum=1.0, more=more), bundle.parent)
    again: list[Verdict] = []
    acknowledged = 0
    for device in devices.values():
        device.join()
    for number in (1, 2):
        sent = []
        for name in "abc":
            report = devices[name].answer(devices[name].order(round=number), changes[name] / number)
            assert devices[name].send(report).verdict is Verdict.ACCEPTED
            sent.append((name, report))
            acknowledged += 1
            if acknowledged == kill_after:
                process.kill()
                process.wait()
                process, address = start_server(state)
                devices = {
                    key: fleet(address, key, train_examples=device.card.train_examples)
                    for key, device in devices.items()
                }
                again += [devices[key].send(one).verdict for key, one in sent]
                for device in devices.values():
                    assert isinstance(device.ask(), RejoinOrder)
                    device.join()
    with Operator(address) as operator:
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        status = operator.status(run_id)[0]
    assert status.state == "finished"
    assert all(device.outcome == "accepted" for number in (1, 2) for device in status.rounds[number].devices)
    return [this_round.head_version for this_round in status.rounds], again


@pytest.mark.parametrize("kill_after", [1, 2, 3, 4, 6])
def test_killed_after_an_acknowledgement_the_run_ends_with_the_same_head_bit_for_bit(
    plain_bundle: Path, start_server: Serve, fleet: Fleet, tools: Any, tmp_path: Path, kill_after: int
) -> None:
    with tools.served(tmp_path / "calm") as address:
        undisturbed = _calm(address, plain_bundle, fleet, tools)
    disturbed, again = _play(plain_bundle, start_server, fleet, tools, tmp_path / "state", kill_after)
    assert disturbed == undisturbed
    assert again
    assert set(again) == {Verdict.DUPLICATE}, "what was acknowledged is held"


@pytest.mark.parametrize("kill_after", [2, 3, 4])
def test_killed_anywhere_devices_are_shown_the_same_coded_heads(
    start_server: Serve, fleet: Fleet, tools: Any, tmp_path: Path, kill_after: int
) -> None:
    bundle = tools.bundle(tmp_path / "wide", width=60, classes=5)
    coded = '[downlink]\ncodec = "uniform_stochastic"\nbits = 2\n'
    with tools.served(tmp_path / "calm") as address:
        undisturbed = _calm(address, bundle, fleet, tools, coded)
    with tools.served(tmp_path / "whole") as address:
        whole = _calm(address, bundle, fleet, tools)
    disturbed, _ = _play(bundle, start_server, fleet, tools, tmp_path / "state", kill_after, coded)
    assert disturbed == undisturbed
    assert disturbed[:2] == whole[:2], "the coordinator's own head is not coded"


def _calm(address: str, bundle: Path, fleet: Fleet, tools: Any, more: str = "") -> list[str]:
    class Running:
        """Stands for a server that is there already and is never killed."""

    heads, _ = _play(bundle, lambda state: (Running(), address), fleet, tools, Path(), None, more)  # type: ignore[arg-type,return-value]
    return heads


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_code_0_and_the_run_goes_on_at_the_next_start(
    plain_bundle: Path, start_server: Serve, fleet: Fleet, tools: Any, tmp_path: Path, number: int
) -> None:
    process, address = start_server(tmp_path / "state")
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
    device = fleet(address, "a")
    device.join()
    report = device.answer(device.order(), 1.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err.decode()
    assert out.decode().startswith(f"coordinator: listening on {address}")
    assert len(out.decode().splitlines()) == 1
    assert b"Traceback" not in err
    with pytest.raises(grpc.RpcError):
        device.send(report)
    _, address = start_server(tmp_path / "state")
    later = fleet(address, "a")
    assert later.send(report).verdict is Verdict.ACCEPTED, "a finished round is not trained again"
    with Operator(address) as operator:
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        assert operator.status(run_id)[0].state == "finished"


def test_a_full_disk_refuses_for_now_and_loses_nothing(
    plain_bundle: Path, start_server: Serve, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    process, address = start_server(tmp_path / "state")
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        first, second = a.answer(a.order(), 1.0), b.answer(b.order(), 2.0)
        assert a.send(first).verdict is Verdict.ACCEPTED
        # No file may grow past what the smallest one has now: every write fails, as on a full disk.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as failure:
                b.send(second)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "2 reports" in operator.status(run_id)[0].reason, "looking still works"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert b.send(second).verdict is Verdict.ACCEPTED
        assert a.send(first).verdict is Verdict.DUPLICATE
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        assert operator.status(run_id)[0].state == "finished"


def test_a_state_directory_has_one_server(start_server: Serve, tmp_path: Path) -> None:
    start_server(tmp_path / "state")
    second = _serve(tmp_path / "state", "--listen", "127.0.0.1:0")
    assert second.returncode == 16
    assert "another coordinator uses this state directory" in second.stderr.decode()


@pytest.mark.parametrize(
    ("listen", "code", "words"),
    [
        ("0.0.0.0:50461", 16, "not a loopback address"),
        ("192.0.2.7:1", 16, "without certificates"),
        ("[::]:1", 16, "not a loopback address"),
        ("example.org:1", 16, "not a loopback address"),
        ("127.0.0.1", 2, "not HOST:PORT"),
        ("127.0.0.1:99999", 2, "not HOST:PORT"),
    ],
)
def test_only_loopback_is_listened_on(tmp_path: Path, listen: str, code: int, words: str) -> None:
    done = _serve(tmp_path / "state", "--listen", listen)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert not (tmp_path / "state").exists(), "nothing is made for a refused start"


def test_a_port_in_use_is_one_line(start_server: Serve, tmp_path: Path) -> None:
    _, address = start_server(tmp_path / "one")
    done = _serve(tmp_path / "two", "--listen", address)
    assert done.returncode == 2
    assert f"cannot listen on {address}" in done.stderr.decode()


def test_a_state_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _serve(tmp_path / "file" / "state", "--listen", "127.0.0.1:0")
    assert done.returncode == 15
    assert len(done.stderr.decode().splitlines()) == 1
    assert os.listdir(tmp_path) == ["file"]
