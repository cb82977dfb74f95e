"""How much others use, and how often the board is looked at."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from board_tree import BoardTree
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.health.condition import EVERY_S, Watch
from edge_runtime.health.host_load import SMOOTHING_S, HostLoad


class Own:
    def __init__(self) -> None:
        self.cpu_s = 5.0

    def __call__(self) -> float:
        return self.cpu_s


@pytest.fixture
def tree(tmp_path: Path) -> BoardTree:
    return BoardTree(tmp_path)


def test_own_work_is_no_load_of_others(tree: BoardTree) -> None:
    own = Own()
    load = HostLoad(tree.root / "proc", own, tick_hz=100.0)
    assert load.read(0.0) is None
    # Two cores for a second; this process used one whole core, another program half of one.
    own.cpu_s += 1.0
    tree.stat(busy=150, idle=50)
    assert load.read(1.0) == pytest.approx(0.25)


def test_waiting_for_a_disk_is_no_work(tree: BoardTree) -> None:
    load = HostLoad(tree.root / "proc", Own(), tick_hz=100.0)
    load.read(0.0)
    tree.stat(idle=20, waiting=180)
    assert load.read(1.0) == 0.0


def test_a_short_burst_hardly_counts_and_a_lasting_one_does(tree: BoardTree) -> None:
    load = HostLoad(tree.root / "proc", Own(), tick_hz=100.0)
    load.read(0.0)
    tree.stat(idle=100)
    load.read(1.0)
    tree.stat(busy=100)
    short = load.read(2.0)
    assert short is not None
    assert 0.1 < short < 0.25
    for second in range(3, 3 + int(4 * SMOOTHING_S)):
        tree.stat(busy=100)
        lasting = load.read(float(second))
    assert lasting is not None
    assert lasting > 0.95


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(0, 8)), min_size=1, max_size=20))
def test_the_share_is_always_a_share(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int, float]]
) -> None:
    tree, own = BoardTree(tmp_path_factory.mktemp("load")), Own()
    load = HostLoad(tree.root / "proc", own, tick_hz=100.0)
    load.read(0.0)
    for number, (busy, idle, own_s) in enumerate(turns):
        own.cpu_s += own_s
        tree.stat(busy=busy, idle=idle)
        share = load.read(number + 1.0)
        assert share is None or 0.0 <= share <= 1.0


def test_a_file_that_vanishes_or_is_something_else_is_unknown(tree: BoardTree) -> None:
    load = HostLoad(tree.root / "proc", Own(), tick_hz=100.0)
    load.read(0.0)
    tree.stat(busy=10, idle=10)
    assert load.read(1.0) is not None
    tree.write("proc/stat", "cpu 1 2")
    assert load.read(2.0) is None
    (tree.root / "proc" / "stat").unlink()
    assert load.read(3.0) is None


def test_this_machines_own_file_is_understood() -> None:
    load = HostLoad(Path("/proc"), lambda: sum(os.times()[:2]))
    load.read(0.0)
    while (share := load.read(1.0)) is None:
        sum(range(200_000))
    assert 0.0 <= share <= 1.0


def test_a_real_program_that_burns_a_core_is_seen_and_this_one_is_not() -> None:
    """On the real files: what a child uses is load, and what is used here is none, however busy the machine is."""
    begin_s = time.monotonic()
    load = HostLoad(Path("/proc"), time.process_time)
    load.read(0.0)
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as child:
        try:
            share = 0.0
            while share < 0.1 and time.monotonic() - begin_s < 60.0:
                time.sleep(0.2)
                share = load.read(time.monotonic() - begin_s) or 0.0
        finally:
            child.kill()
    assert share >= 0.1
    # The same file, once with this process's own use and once with twice as much left out.
    honest, doubled = (
        HostLoad(Path("/proc"), time.process_time),
        HostLoad(Path("/proc"), lambda: 2 * time.process_time()),
    )
    honest.read(0.0)
    doubled.read(0.0)
    worked_s = time.process_time()
    while time.process_time() - worked_s < 0.5:
        sum(range(10_000))
    with_own, without_twice = honest.read(1.0), doubled.read(1.0)
    assert with_own is not None
    assert without_twice is not None
    assert without_twice < with_own or with_own == 0.0


def test_the_board_is_looked_at_once_a_second_however_often_one_asks(tree: BoardTree) -> None:
    now_s = [50.0]
    tree.zone(50.0)
    watch = Watch(tree.root, now_s=lambda: now_s[0], own_cpu_s=Own())
    for _ in range(1000):
        assert watch.look().temperature_c == 50.0
    tree.zone(60.0)
    now_s[0] += EVERY_S - 0.001
    assert watch.look().temperature_c == 50.0
    assert watch.looks == 1
    now_s[0] += 0.001
    assert watch.look().temperature_c == 60.0
    assert watch.looks == 2


def test_other_programs_are_not_looked_at_unless_that_is_asked_for(tree: BoardTree) -> None:
    def never() -> float:
        raise AssertionError("asked for processor time")

    now_s = [0.0]
    watch = Watch(tree.root, now_s=lambda: now_s[0], own_cpu_s=never, load=False)
    watch.look()
    now_s[0] += 2.0
    tree.stat(busy=100)
    assert watch.look().others_share is None
