"""Live, recorded and replayed: the same joules to the last bit, because it is the same code on the same events."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from fake_machine import hwmon_tree

from edge_runtime.measure.measure_opening import opened
from edge_runtime.measure.period import HeldClock, PeriodMeter
from edge_runtime.measure.replayed_period import CUT, DAMAGED, replay_periods
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.events import Block, Greeting, Trouble
from edge_runtime.power.host.hwmon import hwmon_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.entries import Note, Worked
from edge_runtime.power.recording.replay_sensor import ReplaySensor
from edge_runtime.power.recording.writer import Recorder
from protos.energy.trace import PowerTrace
from protos.errors import SensorError

MEASURE = [sys.executable, "-m", "edge_runtime.cli", "measure"]


def run(*options: str) -> str:
    return subprocess.run([*MEASURE, *options], capture_output=True, text=True, timeout=60, check=True).stdout


def test_periods_of_a_live_bridge_replay_to_the_last_bit(plug_in, tmp_path):
    bridge = plug_in(load="square:2.0,5.0,0.13", profile="transient", seed=5)
    path = tmp_path / "run.ejr"
    live = []
    with opened(f"serial:{bridge.spec.link}", record=path) as meter:
        for name in ("one", "two", "three"):
            meter.begin(name)
            time.sleep(0.3)
            live.append(meter.end())
        meter.fact({"colour": "green"})
        identity = meter.meter.identity
    replayed = replay_periods(path)
    assert list(replayed.periods) == live
    assert replayed.identity == identity
    assert replayed.facts == {"colour": "green"}
    assert not replayed.damage
    assert all(period.energy.energy_j and period.energy.coverage >= 0.99 for period in live)


def test_an_unplugged_cable_and_a_restart_replay_with_their_flags_and_gaps(plug_in, tmp_path, until):
    bridge = plug_in(seed=9)
    path = tmp_path / "run.ejr"
    live = []
    with opened(f"serial:{bridge.spec.link}", record=path) as meter:
        sensor = meter.meter.sensor
        end_s = time.monotonic() + 60
        # On a busy machine the clock of a bridge that was restarted is not known well at once, which is flagged, too.
        while len(live) < 3 or (live[-1].energy.flags == ("degraded",) and time.monotonic() < end_s):
            what = ("unplugged", "restarted", "well")[min(len(live), 2)]
            meter.begin(what)
            time.sleep(0.2)
            if what == "unplugged":
                bridge.unplug()
                time.sleep(0.3)
                bridge.plug()
            elif what == "restarted":
                bridge.reboot()
            now_s = time.monotonic()
            until(lambda: sensor.covered_to_s > now_s + 0.2)  # noqa: B023
            live.append(meter.end())
    assert list(replay_periods(path).periods) == live
    assert "reconnected" in live[0].energy.flags
    assert "bridge-restarted" in live[1].energy.flags
    assert live[1].energy.uncovered_s > 0.2
    assert live[-1].energy.flags == ()


def test_the_command_prints_the_same_figures_for_a_recording(plug_in, tmp_path):
    bridge = plug_in(load="square:2.0,5.0,0.13")
    path = tmp_path / "run.ejr"
    options = ["--sensor", f"serial:{bridge.spec.link}", "--record", str(path), "--json", "--", "sleep", "0.4"]
    live = json.loads(run(*options))
    figures = json.loads(run("--sensor", f"replay:{path}", "--json"))
    assert figures.pop("recording")["file"] == str(path)
    assert figures == live
    assert figures["command"] == ["sleep", "0.4"]
    assert figures["ended_by"] == "command"


@pytest.mark.parametrize(("lose", "reboot"), [(0, None), (9, None), (0, 4.0)])
def test_losses_and_restarts_replay_as_they_were(lose, reboot, bridge_events, write_file, clock):
    """The track of the live sensor and that of the replay are given the same events."""
    from edge_runtime.power.bridge.track import RegisterTrack

    events = bridge_events(8.0, lose=lose, reboot_after_s=reboot)
    live = RegisterTrack()
    for event in events:
        live.take(event)
    sensor = ReplaySensor(write_file(*[events[at : at + 50] for at in range(0, len(events), 50)]))
    sensor.open()
    while not sensor.ended:
        sensor.wait_for_news(0.0)
    truth, trace = live.trace(), sensor.trace()
    for name in ("start_s", "stop_s", "power_w", "flags"):
        assert getattr(trace, name).tobytes() == getattr(truth, name).tobytes()
    assert len(truth) > 1000
    assert sensor.errors() == live.errors()
    assert (live.lost_batches > 0) == bool(lose)


def test_a_measurement_longer_than_the_store_folds_at_the_same_places(bridge_events, write_file):
    """With a small store the early sums depend on when samples were worked on; the recording knows when."""
    events = bridge_events(12.0)
    entries: list = []
    for n, event in enumerate(events):
        entries.append(event)
        if n % 7 == 3:
            entries.append(Worked())
    entries.insert(40, Note(1001.0, "begin", {"name": "p"}))
    path = write_file(*[entries[at : at + 64] for at in range(0, len(entries), 64)])
    results = []
    for _ in range(2):
        sensor = ReplaySensor(path, capacity=512)
        sensor.start()
        meter = SensorMeter(sensor, sensor.clock)
        while (note := sensor.next_note()) is not None:
            assert note.word == "begin"
            period = PeriodMeter(meter, HeldClock(sensor.clock))
            period.begin("p")
        results.append(period.end())
    assert results[0] == results[1]
    assert results[0].energy.energy_j == pytest.approx(2.5 * results[0].energy.covered_s, rel=0.05)
    # Between two early sums the clock fit has moved a little.
    assert results[0].energy.coverage > 0.9999
    assert results[0].energy.covered_s > 10


def test_a_recording_that_breaks_off_ends_with_its_last_sample_and_says_so(plug_in, tmp_path):
    bridge = plug_in(profile="transient")
    path = tmp_path / "run.ejr"
    with opened(f"serial:{bridge.spec.link}", record=path) as meter:
        meter.begin("cut")
        time.sleep(0.3)
        done = meter.end()
    data = path.read_bytes()
    lengths = []
    for cut in range(len(data) - 1, len(data) // 2, -max(1, len(data) // 40)):
        path.write_bytes(data[:cut])
        try:
            (period,) = replay_periods(path).periods
        except SensorError:
            continue
        lengths.append(period.stop_s - period.start_s)
        if period.name == "cut":
            assert CUT in period.energy.flags
            assert period.stop_s <= done.stop_s + 0.2
    assert not lengths or max(lengths) <= done.stop_s - done.start_s + 0.5


def test_a_recording_without_marks_is_one_period_and_damage_is_flagged(bridge_events, write_file):
    events = bridge_events(3.0)
    path = write_file(*[events[at : at + 20] for at in range(0, len(events), 20)])
    (period,) = replay_periods(path).periods
    assert period.energy.energy_j == pytest.approx(2.5 * period.energy.covered_s, rel=0.1)
    assert period.energy.flags == ()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (damaged,) = replay_periods(path).periods
    assert DAMAGED in damaged.energy.flags
    assert damaged.energy.uncovered_s > 0


def test_a_sensor_without_registers_replays_to_a_microwatt(write_file, header):
    from dataclasses import replace

    from edge_runtime.power.sensor import Capabilities

    of = replace(header, capabilities=Capabilities(100.0, "kernel"))
    pieces = [PowerTrace.of([10 + k], [11 + k], [2.0 + k / 7]) for k in range(6)]
    blocks = [Note(11.0, "begin", {"name": "p"}), *map(Block, pieces), Trouble(14.0, "sensor-lost"), Note(15.5, "end"),
              Note(15.6, "read")]  # fmt: skip
    (period,) = replay_periods(write_file(blocks[:4], blocks[4:], of=of)).periods
    wanted = sum(2.0 + k / 7 for k in (1, 2, 3, 4)) + (2.0 + 5 / 7) / 2
    assert period.energy.energy_j == pytest.approx(wanted, abs=0.5e-6 * 4.5)
    assert period.peak_w == pytest.approx(2.0 + 5 / 7, abs=1e-6)
    assert period.energy.flags == ("sensor-lost",)
    assert period.energy.coverage == 1.0


def test_a_live_sensor_without_registers_replays_to_half_a_microwatt(tmp_path):
    """The kernel's hwmon files as the source; a thread polls them."""
    device = hwmon_tree(tmp_path)
    sensor = hwmon_sensor("ina219", {"shunt": "0.02", "rate": "200"}, SystemClock(), sysfs_root=tmp_path)
    recorder = Recorder(tmp_path / "run.ejr", sensor)
    sensor.open()
    clock = HeldClock(SystemClock())
    meter = PeriodMeter(SensorMeter(sensor, clock), clock, recorder)
    recorder.begin(clock.monotonic())
    meter.begin("p")
    for current_ma in (811, 433, 1207):
        # Whole at once, as the kernel gives it.
        (tmp_path / "next").write_text(f"{current_ma}\n")
        (tmp_path / "next").replace(device / "curr1_input")
        time.sleep(0.1)
    live = meter.end()
    recorder.close()
    sensor.close()
    (replayed,) = replay_periods(tmp_path / "run.ejr").periods
    assert live.energy.energy_j is not None
    assert 1.0 < live.energy.energy_j < 2.0
    # Rounding of times moves energy between neighbours only, but for the two ends.
    assert replayed.energy.energy_j == pytest.approx(live.energy.energy_j, abs=0.5e-6 * 0.4 + 1e-6 * 6)
    assert replayed.energy.uncertainty_j == pytest.approx(live.energy.uncertainty_j, rel=1e-3)
    assert (replayed.energy.flags, replayed.energy.method) == (live.energy.flags, live.energy.method)
    assert replayed.peak_w == pytest.approx(live.peak_w, abs=1e-6)


def test_a_recording_is_a_sensor_like_any_other(bridge_events, write_file, header):
    sensor = ReplaySensor(write_file(bridge_events(2.0)))
    sensor.open()
    assert sensor.identity == header.identity
    assert sensor.capabilities == header.capabilities
    first_s = sensor.covered_to_s
    told: list = []
    leave = sensor.subscribe(told.append)
    assert isinstance(told[0], Greeting)
    while not sensor.ended:
        sensor.request()
        sensor.wait_for_news(0.01)
    blocks = [event.trace for event in told if isinstance(event, Block)]
    assert all(after.start_s[0] >= before.stop_s[-1] - 1e-3 for before, after in pairwise(blocks))
    assert sensor.covered_to_s == float(blocks[-1].stop_s[-1]) > first_s
    now_s = sensor.clock.monotonic()
    sensor.wait_for_news(3.0)
    assert sensor.clock.monotonic() == now_s + 3.0
    leave()
    sensor.close()
    sensor.close()
    assert len(sensor.trace()) > 300
    sensor.forget_before(sensor.covered_to_s)
    assert len(sensor.trace()) == 0


def test_the_clock_of_a_measurement_can_be_held():
    clock = HeldClock(SystemClock())
    with clock.held() as now_s:
        assert clock.monotonic() == now_s == clock.monotonic()
    assert clock.monotonic() >= now_s


def test_waiting_for_news_of_a_recording_plays_the_next_sample_and_no_more(bridge_events, write_file):
    path = write_file(bridge_events(2.0))
    steps = []
    played = ReplaySensor(path)
    played.open()
    while not played.ended:
        before_s = played.covered_to_s
        played.play()
        if played.covered_to_s != before_s:
            steps.append(played.covered_to_s)
    waited = ReplaySensor(path)
    waited.open()
    seen = []
    while not waited.ended:
        before_s = waited.covered_to_s
        waited.wait_for_news(0.01)
        if waited.covered_to_s != before_s:
            seen.append(waited.covered_to_s)
    assert len(steps) > 3
    assert seen == steps
