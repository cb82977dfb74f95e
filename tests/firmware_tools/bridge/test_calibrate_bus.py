"""The bus voltage against a voltmeter: what is found, what it does to joules and their interval, what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from client_worlds import twin, twin_client

from edge_runtime.power.bridge.session import BridgeRequest, BridgeSession
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.recording.columns import Cursor
from edge_runtime.power.recording.sections import READERS, WRITERS
from firmware_tools.bridge.calibrate.bus import compare_bus
from firmware_tools.bridge.calibrate.calibration import MeterError
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from firmware_tools.bridge.simulator.sensor import SensorErrors
from protos.energy.ina219 import PROFILES, Calibration, Config, watts
from protos.energy.interval import combine
from protos.energy.uncertainty import ErrorModel, IntervalSummary
from protos.errors import CheckFailed, UsageError

VOLTMETER = MeterError(5e-4, 1e-3)


@pytest.mark.parametrize("bus_gain", [-0.0045, 0.0, 0.0031])
def test_the_correction_takes_the_error_of_the_bus_voltage_away(bus_gain):
    line = twin(errors=SensorErrors(bus_gain=bus_gain, noise_v=5e-6))
    before = line.device.channels[0].sensor.config
    found = compare_bus(twin_client(line), 0, 5.0, 4.0, VOLTMETER)
    assert found.bus_ppm == pytest.approx((1 / (1 + bus_gain) - 1) * 1e6, abs=found.limit_ppm)
    assert 500 < found.limit_ppm < 1500
    assert line.device.channels[0].sensor.config == before


def test_joules_follow_the_correction_and_their_interval_is_narrower():
    shunt, bus = np.array([1000], np.int16), np.array([1245 << 3], np.uint16)
    known = Calibration(7, 20_000)
    right = Calibration(7, 20_000, bus_ppm=4016)
    assert watts(shunt, bus, known)[0] == pytest.approx(2.49)
    assert watts(shunt, bus, right)[0] == pytest.approx(2.5, rel=1e-6)
    stretch = IntervalSummary(100.0, 40.0)
    halves = [
        combine(calibration.errors(PROFILES["energy"].config, 5.0).terms(stretch)).expanded_j
        for calibration in (known, right)
    ]
    assert halves[1] < 0.6 * halves[0]


@pytest.mark.parametrize(("ppm", "power_w"), [(None, 2.5 * 0.996), (4016, 2.5)])
def test_the_option_reaches_the_joules_through_the_line_and_through_a_recording(ppm, power_w):
    line, track = twin(errors=SensorErrors(bus_gain=-0.004)), RegisterTrack()
    session = BridgeSession(0, track.take, BridgeRequest(bus_ppm=ppm))
    for _ in range(1500):
        session.receive(line.read(), line.now_s)
        line.write(session.due(line.now_s))
    trace = track.trace()
    assert len(trace) > 300
    assert np.mean(trace.power_w) == pytest.approx(power_w, rel=1e-3)
    (again,) = READERS[0](Cursor(WRITERS[0]([session.greeting])), 1)
    assert again == session.greeting
    assert again.bus_ppm == ppm


def test_a_voltage_that_cannot_be_this_sensors_is_refused():
    line = twin(errors=SensorErrors(noise_v=5e-6))
    with pytest.raises(CheckFailed, match=r"the sensor reads 5\.0.. V, the voltmeter 5\.200 V"):
        compare_bus(twin_client(line), 0, 5.2, 2.0, VOLTMETER)
    with pytest.raises(UsageError, match="1 to 32 V"):
        compare_bus(twin_client(line), 0, 50.0, 2.0, VOLTMETER)
    with pytest.raises(UsageError, match="no number 3"):
        compare_bus(twin_client(line), 3, 5.0, 2.0, VOLTMETER)


def test_the_command_prints_the_option(tmp_path):
    bridge = SimulatedBridge(BridgeSpec(link=tmp_path / "tty", load="constant:3"))
    words = [sys.executable, "-m", "firmware_tools.cli", "bridge", "calibrate", "--port", str(bridge.spec.link)]
    with Bench([bridge]):
        done = subprocess.run(
            [*words, "--bus", "5.11V", "--seconds", "2"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "?bus_ppm=19" in done.stdout
        both = subprocess.run(
            [*words, "--bus", "5V", "--zero"], capture_output=True, text=True, timeout=60, check=False
        )
        assert both.returncode != 0
        assert "compare it by itself" in both.stderr


@pytest.mark.parametrize(("amperes", "percent"), [(0.5, 0.0225), (1.5, 0.2025), (3.0, 0.81)])
def test_a_shunt_of_a_tenth_of_an_ohm_heats_itself_by_the_square_of_its_current(amperes, percent):
    errors = Calibration(3, 100_000).errors(Config(), 5.0)
    cold = ErrorModel(supply_v=5.0, shunt_relative=errors.shunt_relative)
    stretch = IntervalSummary(5.0 * amperes * 10.0, 10.0)
    limits = [next(term.limit_j for term in model.terms(stretch) if term.name == "shunt") for model in (errors, cold)]
    assert (limits[0] - limits[1]) / stretch.energy_j * 100 == pytest.approx(percent)
