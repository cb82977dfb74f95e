"""The daemon's own limit of memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.daemon.memory_guard import MemoryGuard, resident_bytes
from edge_runtime.daemon.stopping import Stopping
from protos.errors import CheckFailed

MB = 1 << 20


class Machine:
    now_s = 0.0
    resident: int | None = 0
    asked = 0

    def read(self) -> int | None:
        self.asked += 1
        return self.resident

    def guard(self, limit_mb: int | None, stopping: Stopping) -> MemoryGuard:
        return MemoryGuard(limit_mb, stopping, resident=self.read, now_s=lambda: self.now_s)


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    one = Stopping()
    yield one
    one.close()


def test_nine_tenths_of_the_limit_ask_for_a_clean_end(stopping: Stopping) -> None:
    machine = Machine()
    guard = machine.guard(100, stopping)
    machine.resident = 90 * MB - 1
    guard.look()
    assert not stopping.requested
    machine.now_s, machine.resident = 1.0, 90 * MB
    guard.look()
    assert (stopping.requested, stopping.reason) == (True, "memory limit")
    with pytest.raises(CheckFailed, match=r"memory_max_mb: 90 MB were in use.*raise it"):
        guard.verdict()


def test_memory_is_read_once_a_second_at_most(stopping: Stopping) -> None:
    machine = Machine()
    guard = machine.guard(100, stopping)
    for step in range(100):
        machine.now_s = step * 0.05
        guard.look()
    assert machine.asked == 5


@pytest.mark.parametrize(("limit_mb", "resident"), [(None, 10**12), (100, None)])
def test_no_limit_or_no_figure_ends_nothing(stopping: Stopping, limit_mb: int | None, resident: int | None) -> None:
    machine = Machine()
    machine.resident = resident
    guard = machine.guard(limit_mb, stopping)
    guard.look()
    guard.verdict()
    assert not stopping.requested


def test_a_stop_that_somebody_else_asked_for_is_no_error_of_memory(stopping: Stopping) -> None:
    machine = Machine()
    guard = machine.guard(100, stopping)
    stopping.request("SIGTERM")
    machine.resident = 200 * MB
    guard.look()
    guard.verdict()
    assert stopping.reason == "SIGTERM"


_GROW = """
from edge_runtime.daemon.memory_guard import resident_bytes
before = resident_bytes()
held = bytearray(b"x") * (64 << 20)
print(resident_bytes() - before)
"""


def test_the_memory_of_a_process_is_seen_to_grow() -> None:
    # In a process of its own: this one may give memory of earlier tests back at any time.
    grown = subprocess.run([sys.executable, "-c", _GROW], capture_output=True, text=True, timeout=60, check=True)
    assert 60 * MB < int(grown.stdout) < 80 * MB


def test_an_unreadable_table_is_an_unknown_figure(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "none") is None
    (tmp_path / "odd").write_text("12\n")
    assert resident_bytes(tmp_path / "odd") is None
