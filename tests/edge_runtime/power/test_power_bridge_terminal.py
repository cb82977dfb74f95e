"""The whole path on the real clock: simulated bridge, real pseudo-terminal, pyserial, meter, joules by phase."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from edge_runtime.power.sensor_factory import open_meter
from firmware_tools.bridge.simulator.loads import ProcessLoad
from protos.energy.boards import board
from protos.energy.trace import Phase

CPU_S = 0.3
WORK = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)


@pytest.fixture
def metered(plug_in):
    """Start a bridge and open a meter on it; closes both."""
    meters = []

    def start(query: str = "", **options):
        bridge = plug_in(**options)
        meters.append(open_meter(f"serial:{bridge.spec.link}{query}"))
        meters[-1].start()
        return bridge, meters[-1]

    yield start
    for meter in meters:
        meter.close()


def test_joules_of_a_phase_come_over_a_real_terminal(metered):
    _, meter = metered(seed=5)
    meter.mark(Phase.TRAIN)
    time.sleep(0.3)
    meter.mark(Phase.IDLE)
    (train,) = [part for part in meter.settle() if part.phase is Phase.TRAIN]
    # The power is constant: how long the phase was, only this computer knows.
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.01)
    assert train.flags == ()
    assert meter.identity.quality == "calibrated"


def test_a_busy_process_shows_in_the_joules_and_a_vanished_one_is_idle(metered, tmp_path, until):
    pid_file = tmp_path / "worker.pid"
    load = ProcessLoad(board("pi4"), pid_file=pid_file)
    bridge, meter = metered(load_object=load, profile="energy")
    pi4 = bridge.board

    def above_idle_j(from_s, to_s):
        return bridge.truth_j(from_s, to_s) - pi4.idle_w * (to_s - from_s)

    meter.mark(Phase.EMBED)
    time.sleep(0.3)
    worker = subprocess.Popen(
        [sys.executable, "-c", "print('x', flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    try:
        worker.stdout.read(1)
        pid_file.write_text(f"{worker.pid}\n")
        until(lambda: load._clock_id is not None)
        meter.mark(Phase.TRAIN)
        train_s = time.monotonic()
        # How long the worker takes to get this much CPU is the machine's affair.
        until(lambda: above_idle_j(train_s, time.monotonic()) > CPU_S * pi4.cpu_w)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    meter.mark(Phase.SEND)
    send_s = time.monotonic()
    until(lambda: load._clock_id is None)
    time.sleep(0.3)
    meter.mark(Phase.IDLE)
    parts = {part.phase: part for part in meter.settle()}
    mean_w = {phase: part.energy_j / part.covered_s for phase, part in parts.items()}
    assert mean_w[Phase.EMBED] == pytest.approx(pi4.idle_w, rel=0.01)
    assert mean_w[Phase.SEND] == pytest.approx(pi4.idle_w, rel=0.05)
    truth_j = bridge.truth_j(train_s, send_s)
    train = parts[Phase.TRAIN]
    assert train.energy_j - pi4.idle_w * train.covered_s > 0.9 * CPU_S * pi4.cpu_w
    assert parts[Phase.TRAIN].energy_j == pytest.approx(truth_j, abs=train.uncertainty_j + 0.05)


def test_closing_ends_the_thread_and_frees_the_port(metered):
    bridge, meter = metered()
    meter.close()
    meter.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power:")]
    again = open_meter(f"serial:{bridge.spec.link}")
    assert again.has_samples
    again.close()
