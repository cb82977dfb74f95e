"""Loads of the simulated bridge: exact integrals, and a real process's CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_tools.bridge.simulator.loads import ConstantLoad, ProcessLoad, SquareLoad, parse_load
from protos.energy.boards import board
from protos.errors import UsageError


@given(st.floats(0, 10), st.floats(0, 10), st.floats(1e-3, 2), st.floats(0.05, 0.95), st.floats(0, 50), st.floats(0, 5))
def test_energy_of_a_square_load_is_the_integral_of_its_power(low_w, high_w, period_s, duty, begin_s, length_s):
    load = SquareLoad(low_w, high_w, period_s, duty)
    t = np.linspace(begin_s, begin_s + length_s, 20_001)
    middle = (t[1:] + t[:-1]) / 2
    power = np.where(middle % period_s < duty * period_s, high_w, low_w)
    numeric_j = float((power * np.diff(t)).sum())
    exact_j = float(np.diff(load.energy_j(t[[0, -1]]))[0])
    edges = 2 * (length_s / period_s + 2)
    assert exact_j == pytest.approx(numeric_j, abs=edges * abs(high_w - low_w) * length_s / 20_000 + 1e-9)


def test_constant_load_draws_its_watts():
    assert np.diff(ConstantLoad(3.85).energy_j([10.0, 14.0]))[0] == pytest.approx(15.4)


def test_a_process_load_integrates_exactly_the_cpu_time_that_the_kernel_counts():
    pi4 = board("pi4")
    load = ProcessLoad(pi4, pid=os.getpid())
    begin_s, cpu_s = load._times[0], time.process_time()
    for _ in range(40):
        sum(range(60_000))
        load.poll(time.monotonic())
    end_s, cpu_s = time.monotonic(), time.process_time() - cpu_s
    load.poll(end_s)
    joules = float(np.diff(load.energy_j([begin_s, end_s]))[0])
    assert joules == pytest.approx(pi4.idle_w * (end_s - begin_s) + pi4.cpu_w * cpu_s, rel=0.02)


def test_a_process_that_ends_leaves_idle_power_and_the_pid_file_may_name_the_next(tmp_path):
    pi4, pid_file = board("pi4"), tmp_path / "pid"
    load = ProcessLoad(pi4, pid_file=pid_file, now_s=0.0)
    load.poll(1.0)
    assert float(load.energy_j(1.0)) == pytest.approx(pi4.idle_w)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    pid_file.write_text(str(child.pid))
    load.poll(2.0)
    load.poll(3.0)
    assert float(np.diff(load.energy_j([1.0, 3.0]))[0]) == pytest.approx(2 * pi4.idle_w)
    pid_file.write_text(f"{os.getpid()}\n")
    load.poll(4.0)
    sum(range(2_000_000))
    load.poll(4.001 + 1.0)
    assert float(np.diff(load.energy_j([4.0, 5.001]))[0]) > pi4.idle_w * 1.001 + 0.005


def test_a_long_history_is_bounded_and_its_recent_part_is_exact():
    load = ProcessLoad(board("pi4"), now_s=0.0)
    for number in range(1, 3 * ProcessLoad.KEEP):
        load.poll(number * 0.01)
    assert len(load._times) <= ProcessLoad.KEEP
    assert load.known_from_s > 0.0
    last = load._times[-1]
    assert np.diff(load.energy_j([last - 10.0, last]))[0] == pytest.approx(10.0 * board("pi4").idle_w)


@pytest.mark.parametrize(
    ("text", "kind"), [("constant:2.5", ConstantLoad), ("idle", ConstantLoad), ("square:1,2,0.5", SquareLoad)]
)
def test_loads_are_named_by_text(text, kind):
    assert isinstance(parse_load(text, board("pi4"), pid=None, pid_file=None), kind)


@pytest.mark.parametrize(
    "text", ["", "cpu", "constant", "constant:x", "constant:-1", "square:1,2", "square:1,2,0", "sine:1"]
)
def test_a_load_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        parse_load(text, board("pi4"), pid=None, pid_file=None)
