"""The lock of a bench: one session at a time, the other learns who has it, and the dead hold nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hw_tests.bench.lock import BenchLock, lock_path
from protos.errors import RefusedError, StoreError, WaitExpired

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from hw_tests.bench.lock import BenchLock
with BenchLock(Path(sys.argv[1]), what="bench-1"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock; ends with its input."""
    path = tmp_path / "bench.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.communicate()


def test_who_holds_it_is_said_at_once(holder):
    path, process = holder
    with pytest.raises(RefusedError, match=f"bench bench-1 is in use by .*, process {process.pid}, since 20"):
        BenchLock(path, what="bench-1").take()
    told = json.loads(path.read_text())
    assert (told["pid"], told["bench"]) == (process.pid, "bench-1")


def test_waiting_ends_after_the_time_given(holder):
    path, process = holder
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    with pytest.raises(WaitExpired, match=f"process {process.pid}.*waited 30 s"):
        BenchLock(path, what="bench-1", wait_s=30.0, now=lambda: now_s, sleep=sleep).take()
    assert now_s == pytest.approx(30.0, abs=0.3)


def test_one_that_waits_has_it_when_the_other_lets_go(holder):
    path, process = holder

    def sleep(seconds: float) -> None:
        process.communicate()

    lock = BenchLock(path, what="bench-1", wait_s=60.0, sleep=sleep)
    lock.take()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert path.read_text() == ""


def test_the_dead_hold_nothing_whatever_stands_in_the_file(holder):
    path, process = holder
    process.kill()
    process.wait()
    assert json.loads(path.read_text())["pid"] == process.pid
    with BenchLock(path, what="bench-1"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_file_that_cannot_be_is_an_error_of_one_line(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened"):
        BenchLock(tmp_path / "nowhere" / "bench.lock", what="bench-1").take()
    link = tmp_path / "link.lock"
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="cannot be opened"):
        BenchLock(link, what="bench-1").take()
    assert not (tmp_path / "victim").exists(), "somebody else's link is not followed"


def test_another_user_may_take_it_too(tmp_path):
    path = tmp_path / "bench.lock"
    before = os.umask(0o077)
    try:
        with BenchLock(path, what="bench-1"):
            pass
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o666 == 0o666
    assert lock_path("bench-1").name == "edgejoule-bench-bench-1.lock"
