"""The whole path: simulated bridge, real pseudo-terminal, pyserial, meter, joules by phase."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.opening import open_meter
from edge_runtime.power.sensor_meter import SensorMeter
from firmware_tools.bridge.simulator.loads import ProcessLoad
from protos.bridge.hello import ResetCause
from protos.energy.boards import board
from protos.energy.trace import Phase

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


def run_phases(meter, seconds=0.15):
    """Mark each phase of work, then idle; returns when each began."""
    begins = []
    for phase in WORK:
        meter.mark(phase)
        begins.append(time.monotonic())
        time.sleep(seconds)
    meter.mark(Phase.IDLE)
    return [*begins, time.monotonic()]


@pytest.mark.parametrize("profile", ["energy", "balanced", "transient"])
def test_joules_of_every_phase_agree_with_the_truth_within_their_uncertainty(metered, profile):
    bridge, meter = metered(profile=profile, seed=5)
    edges = run_phases(meter)
    parts = {part.phase: part for part in meter.settle()}
    assert set(parts) == set(Phase)
    for number, phase in enumerate(WORK):
        part = parts[phase]
        truth_j = bridge.truth_j(edges[number], edges[number + 1])
        # Between a mark and the clock reading beside it some scheduling may pass.
        assert part.energy_j == pytest.approx(truth_j, abs=part.uncertainty_j + 4.0 * 0.005)
        assert part.energy_j / (part.covered_s + part.uncovered_s) == pytest.approx(4.0, rel=0.006)
        assert part.coverage >= 0.99
        assert part.flags == ()
        assert part.method == "measured"
    assert meter.identity.quality == "calibrated"


def test_settling_ends_the_period_at_the_last_mark_and_the_running_phase_goes_on(metered):
    bridge, meter = metered()
    meter.mark(Phase.TRAIN)
    time.sleep(0.1)
    meter.mark(Phase.SEND)
    first = {part.phase: part for part in meter.settle()}
    assert set(first) == {Phase.IDLE, Phase.TRAIN}
    time.sleep(0.1)
    assert meter.settle() == ()
    meter.mark(Phase.IDLE)
    second = {part.phase: part for part in meter.settle()}
    assert set(second) == {Phase.SEND}
    assert second[Phase.SEND].covered_s >= 0.1
    assert second[Phase.SEND].energy_j == pytest.approx(4.0 * second[Phase.SEND].covered_s, rel=0.01)
    assert bridge.attached


def test_spent_joules_are_never_below_the_truth_by_more_than_the_instrument_allows(metered):
    _, meter = metered(seed=2)
    meter.mark(Phase.TRAIN)
    begin_s = time.monotonic()
    for _ in range(30):
        time.sleep(0.01)
        before_s = time.monotonic()
        assert meter.spent_j() >= 4.0 * (before_s - begin_s) * 0.99
    meter.mark(Phase.IDLE)
    spent_j = meter.spent_j()
    time.sleep(0.1)
    assert meter.spent_j() == pytest.approx(spent_j, rel=0.01)
    meter.settle()
    assert meter.spent_j() == pytest.approx(0.0, abs=1e-6)


def test_a_busy_process_shows_in_the_joules_and_a_vanished_one_is_idle(metered, tmp_path, until):
    pid_file = tmp_path / "worker.pid"
    load = ProcessLoad(board("pi4"), pid_file=pid_file)
    bridge, meter = metered(load_object=load, profile="energy")
    pi4 = bridge.board
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
        time.sleep(0.6)
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
    # How much CPU the worker got is the machine's affair; what it got is what was measured.
    truth_j = bridge.truth_j(train_s, send_s)
    assert mean_w[Phase.TRAIN] > pi4.idle_w + 0.2 * pi4.cpu_w
    assert parts[Phase.TRAIN].energy_j == pytest.approx(truth_j, abs=parts[Phase.TRAIN].uncertainty_j + 0.05)


def test_after_unplug_and_replug_metering_goes_on_and_the_bridge_tells_what_was_missed(metered, until):
    bridge, meter = metered()
    meter.mark(Phase.TRAIN)
    time.sleep(0.2)
    bridge.unplug()
    until(lambda: not meter.sensor.link.connected)
    assert meter.spent_j() > 0
    assert not bridge.spec.link.exists()
    time.sleep(0.3)
    bridge.plug()
    until(lambda: meter.sensor.link.connected and meter.sensor.losses.recovered_s > 0)
    meter.mark(Phase.IDLE)
    (_, train) = meter.settle()
    assert train.phase is Phase.TRAIN
    assert "reconnected" in train.flags
    assert "recovered" in train.flags
    # The bridge ran on by itself, so that its accumulators cover the time without a cable.
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.01)
    assert meter.sensor.losses.reconnects == 1
    assert meter.sensor.losses.restarts == 0


def test_a_bridge_that_stays_away_gives_none_and_never_stops_the_caller(metered, until):
    bridge, meter = metered()
    meter.settle()
    meter.mark(Phase.EMBED)
    time.sleep(0.1)
    meter.mark(Phase.TRAIN)
    bridge.unplug()
    until(lambda: not meter.sensor.link.connected)
    time.sleep(0.2)
    assert meter.spent_j() > 0
    meter.mark(Phase.SEND)
    parts = {part.phase: part for part in meter.settle(timeout_s=0.2)}
    assert parts[Phase.TRAIN].energy_j is None
    assert parts[Phase.TRAIN].method == "unknown"
    assert "degraded" in parts[Phase.TRAIN].flags
    time.sleep(0.05)
    meter.mark(Phase.IDLE)
    (send,) = meter.settle(timeout_s=0.1)
    assert (send.energy_j, send.covered_s) == (None, 0.0)
    assert "no-samples" in send.flags
    # Until it is heard again, time is charged at what the work was last seen to draw.
    meter.mark(Phase.TRAIN)
    time.sleep(0.1)
    assert meter.spent_j() >= 0.1 * 4.0 * 0.98
    meter.mark(Phase.IDLE)
    bridge.plug()
    until(lambda: meter.sensor.link.connected)
    meter.settle()
    meter.mark(Phase.TRAIN)
    time.sleep(0.15)
    meter.mark(Phase.IDLE)
    parts = {part.phase: part for part in meter.settle()}
    assert parts[Phase.TRAIN].coverage > 0.9


def test_a_restart_of_the_bridge_is_flagged_and_its_time_is_uncovered(metered, until):
    bridge, meter = metered()
    meter.mark(Phase.TRAIN)
    time.sleep(0.2)
    bridge.reboot(ResetCause.BROWN_OUT)
    until(lambda: meter.sensor.session.epoch == 2)
    assert meter.sensor.session.hello.reset == ResetCause.BROWN_OUT
    time.sleep(0.3)
    meter.mark(Phase.IDLE)
    train = {part.phase: part for part in meter.settle()}[Phase.TRAIN]
    assert "bridge-restarted" in train.flags
    assert train.uncovered_s > 0.2
    assert meter.sensor.losses.restarts == 1


def test_garbage_on_the_line_is_counted_and_costs_no_joules(metered, until):
    bridge, meter = metered()
    meter.mark(Phase.TRAIN)
    for number in range(10):
        bridge.send_raw(bytes([number, 0, 0x55, 0xAA, 0, 7]) * 20)
        time.sleep(0.03)
    until(lambda: meter.sensor.losses.damaged_frames > 0)
    meter.mark(Phase.IDLE)
    train = {part.phase: part for part in meter.settle()}[Phase.TRAIN]
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.01)


def test_lost_and_damaged_bytes_are_made_good_by_the_accumulators(metered, until):
    bridge, meter = metered(profile="transient")
    bridge.faults.drop = bridge.faults.corrupt = 5e-4
    meter.mark(Phase.TRAIN)
    time.sleep(1.5)
    bridge.faults.drop = bridge.faults.corrupt = 0.0
    meter.mark(Phase.IDLE)
    train = {part.phase: part for part in meter.settle()}[Phase.TRAIN]
    assert meter.sensor.losses.damaged_frames > 0
    assert {"batches-lost", "recovered"} <= set(train.flags)
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.01)


def test_a_long_period_is_summed_up_in_a_small_store(plug_in):
    bridge = plug_in(profile="transient")
    sensor = bridge_sensor(str(bridge.spec.link), {}, SystemClock(), capacity=768)
    sensor.open()
    meter = SensorMeter(sensor, SystemClock())
    try:
        meter.start()
        meter.mark(Phase.EMBED)
        time.sleep(0.4)
        meter.mark(Phase.TRAIN)
        begin_s = time.monotonic()
        time.sleep(0.6)
        spent_j = meter.spent_j()
        assert spent_j == pytest.approx(4.0 * (time.monotonic() - begin_s + 0.4), rel=0.03)
        first = {part.phase: part for part in meter.settle()}
        assert set(first) == {Phase.IDLE, Phase.EMBED}
        assert first[Phase.EMBED].energy_j == pytest.approx(4.0 * 0.4, rel=0.03)
        time.sleep(0.2)
        meter.mark(Phase.IDLE)
        second = {part.phase: part for part in meter.settle()}
        assert set(second) == {Phase.TRAIN}
        assert second[Phase.TRAIN].covered_s > 0.8
        assert second[Phase.TRAIN].coverage > 0.99
        assert second[Phase.TRAIN].energy_j == pytest.approx(4.0 * second[Phase.TRAIN].covered_s, rel=0.01)
        assert meter.peak_w == pytest.approx(4.0, rel=0.02)
    finally:
        meter.close()


def test_closing_ends_the_thread_and_frees_the_port(metered):
    bridge, meter = metered()
    meter.close()
    meter.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power:")]
    again = open_meter(f"serial:{bridge.spec.link}")
    assert again.has_samples
    again.close()
