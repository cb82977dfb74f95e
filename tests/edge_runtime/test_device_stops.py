"""A stop is obeyed wherever it finds the daemon: on the real process, long work is cut short at the next file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from device_command import ENVIRON, command
from peer_coordinator import PeerCoordinator, order

from edge_runtime.daemon.stopping import STOP_S, Interrupted, Stopping
from protos.model.bundle import Bundle
from protos.progress import heard_by, progressed, run_child

Start = Callable[..., "subprocess.Popen[str]"]
PHOTOS = 60


@pytest.fixture
def photos(tmp_path: Path, bundle: Bundle) -> Path:
    """Photographs of 12 megapixels; each takes a good part of a second to decode."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    original = tmp_path / "original.png"
    image.fromarray(np.zeros((3000, 4000), np.uint8)).save(original)
    for number in range(PHOTOS):
        path = folder / bundle.manifest.classes[number % len(bundle.manifest.classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, path)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start_process(address: str, data: Path, *more: object, **environ: str) -> subprocess.Popen[str]:
        basics = ("--device-id", "pi-1", "--data", data, "--sensor", "none", "--state", tmp_path / "state")
        words = command("run", "--coordinator", address, *basics, *more)
        children.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**ENVIRON, **environ}))
        return children[-1]

    yield start_process
    for child in children:
        child.kill()
        child.communicate()


def opened_below(pid: int, folder: Path) -> bool:
    """Whether a process has a file of this folder open."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}").startswith(str(folder)):
                return True
        except OSError:
            continue
    return False


def until(condition: Callable[[], object], give_up_s: float = 60.0) -> None:
    end = time.monotonic() + give_up_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.002)


@pytest.mark.processes
def test_sigterm_while_photographs_are_read_at_the_start_ends_it_at_the_next_one(
    start: Start, photos: Path, bundle_path: Path
) -> None:
    child = start("127.0.0.1:9", photos, "--bundle", bundle_path)
    until(lambda: opened_below(child.pid, photos))
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert "stopped by SIGTERM before it was ready" in errors
    assert "ready:" not in errors
    assert "Traceback" not in errors


@pytest.mark.processes
def test_sigterm_while_an_order_has_photographs_read_says_goodbye(
    start: Start, photos: Path, peer: PeerCoordinator, bundle: Bundle
) -> None:
    peer.orders.append(order(bundle, 1))
    child = start(peer.address, photos)
    until(lambda: len(peer.joins) == 1)
    until(lambda: opened_below(child.pid, photos))
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert peer.leaves == ["SIGTERM"]
    assert "cannot be done" not in errors
    assert "Traceback" not in errors
    assert not peer.reports


@pytest.mark.processes
def test_each_photograph_of_an_order_feeds_the_watchdog(
    start: Start, photos: Path, peer: PeerCoordinator, bundle: Bundle, tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(60.0)
    peer.orders.append(order(bundle, 1))
    child = start(peer.address, photos, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000")
    while not listener.recv(4096).startswith(b"READY=1"):
        pass
    until(lambda: opened_below(child.pid, photos))
    fed = 0
    while fed < 5:
        fed += listener.recv(4096) == b"WATCHDOG=1"
        # All of this while the photographs are read: nothing is embedded yet.
        assert not list((tmp_path / "state" / "embeddings").glob("*/embeddings.npy"))
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)
    listener.close()


@pytest.mark.processes
def test_a_goodbye_leaves_time_to_end_within_the_promise(start: Start, peer: PeerCoordinator, data: Path) -> None:
    child = start(peer.address, data)
    peer.until(lambda: len(peer.joins) == 1)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    # The end of the interpreter took half a second of a busy machine, after a goodbye that nobody answered.
    (left_s,) = peer.goodbyes_s
    assert left_s <= STOP_S - 1.0


def test_a_child_that_runs_long_is_progress_and_is_killed_by_a_stop(tmp_path: Path) -> None:
    stopping, told, pid = Stopping(), [], tmp_path / "pid"

    def note() -> None:
        told.append(None)
        if len(told) == 3:
            stopping.request("SIGTERM")

    stopping.tell_progress(note)
    script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with stopping.loading(), pytest.raises(Interrupted):
        run_child([sys.executable, "-c", script], timeout_s=600.0, env=ENVIRON)
    assert len(told) >= 3
    if pid.exists():
        assert not Path(f"/proc/{pid.read_text()}").exists()
    stopping.close()


def test_a_child_that_ends_gives_what_it_said_and_one_that_does_not_is_given_up() -> None:
    done = run_child(
        [sys.executable, "-c", "import sys; print(sys.stdin.read()[::-1])"], timeout_s=60.0, env=ENVIRON, input=b"abc"
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"cba")
    with pytest.raises(subprocess.TimeoutExpired):
        run_child([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3, env=ENVIRON)


def test_nobody_listens_outside() -> None:
    told: list[int] = []
    progressed()
    with heard_by(lambda: told.append(1)):
        progressed()
        with heard_by(lambda: told.append(2)):
            progressed()
        progressed()
    progressed()
    assert told == [1, 2, 1]


def test_the_time_to_stop_is_shared_by_what_is_left_to_say() -> None:
    stopping = Stopping()
    assert stopping.left_s() == STOP_S
    stopping.request("SIGTERM")
    assert stopping.left_s(keep_s=0.5) <= STOP_S - 0.5
    assert stopping.left_s(keep_s=60.0) == 0.1
    stopping.close()
