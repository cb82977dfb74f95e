"""A sensor that does not see the board says so, and gives no joules: each wrong wire on a real pseudo-terminal."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from fake_machine import FakeBus, hwmon_tree, iio_tree, write_files

from edge_runtime.power.clock import SystemClock
from edge_runtime.power.host.hwmon import hwmon_sensor
from edge_runtime.power.host.i2c import i2c_sensor
from edge_runtime.power.host.iio import iio_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.sensor_factory import open_meter
from edge_runtime.power.wiring import FIXES, WiringWatch
from firmware_tools.bridge.simulator.loads import ConstantLoad
from protos.energy.attribution import attribute
from protos.energy.ina219 import Calibration, Config, bus_flags, sample_flags
from protos.energy.trace import UNUSABLE, Mark, Phase, PowerTrace, SampleFlag
from protos.energy.uncertainty import ErrorModel
from protos.energy.windows import Window, window_energies
from protos.errors import SensorError

WRONG = {
    "swapped": ("reversed", {"wiring": "swapped"}),
    "open IN-": ("bus-low", {"wiring": "open-minus"}),
    "low side": ("bus-low", {"wiring": "low-side"}),
    "current flows past": ("no-current", {"wiring": "bypassed"}),
}


def worked(meter, until):
    """One phase of work, as the device has it: what was charged meanwhile, and the figure."""
    meter.start()
    meter.mark(Phase.TRAIN)
    begin_s = meter.sensor.covered_to_s
    until(lambda: meter.sensor.covered_to_s > begin_s + 0.4)
    charged_j = meter.spent_j()
    meter.mark(Phase.IDLE)
    return charged_j, {part.phase: part for part in meter.settle()}[Phase.TRAIN]


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_wire_gives_no_joules_and_nothing_to_spend(plug_in, until, fault):
    flag, spec = WRONG[fault]
    bridge = plug_in(load_object=ConstantLoad(4.0), **spec)
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        until(lambda: meter.fault is not None)
        assert (meter.identity.method, meter.identity.quality) == ("unknown", flag)
        charged_j, part = worked(meter, until)
        assert charged_j is None
        assert (part.energy_j, part.uncertainty_j, part.method) == (None, None, "unknown")
        assert flag in part.flags
    finally:
        meter.close()


@pytest.mark.parametrize("fault", WRONG)
def test_a_phase_too_short_for_a_sample_tells_the_fault_as_well(plug_in, until, fault):
    flag, spec = WRONG[fault]
    bridge = plug_in(load_object=ConstantLoad(4.0), **spec)
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        until(lambda: meter.fault is not None)
        for waits_s in (0.0, 2.0):
            meter.mark(Phase.ENCODE)
            meter.mark(Phase.SEND)
            meter.mark(Phase.IDLE)
            parts = meter.settle(waits_s)
            assert {part.phase for part in parts} >= {Phase.ENCODE, Phase.SEND}
            assert all(flag in part.flags for part in parts if part.energy_j is None)
    finally:
        meter.close()


def test_a_wire_that_is_put_right_is_believed_again(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(4.0), wiring="swapped")
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        until(lambda: meter.fault == "reversed")
        bridge.device.channels[0].sensor.wiring = "right"
        until(lambda: meter.fault is None)
        assert meter.identity.method == "measured"
        charged_j, part = worked(meter, until)
        assert charged_j == pytest.approx(4.0 * (part.covered_s + part.uncovered_s), rel=0.3)
        assert part.energy_j == pytest.approx(4.0 * part.covered_s, rel=0.02)
    finally:
        meter.close()


def test_a_wire_that_comes_off_in_the_middle_is_charged_at_the_power_from_before(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(4.0))
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        meter.start()
        meter.mark(Phase.TRAIN)
        begin_s = meter.sensor.covered_to_s
        until(lambda: meter.sensor.covered_to_s > begin_s + 0.5)
        bridge.device.channels[0].sensor.wiring = "open-minus"
        until(lambda: meter.sensor.covered_to_s > begin_s + 2.0)
        assert meter.spent_j() > 4.0 * 1.8
        meter.mark(Phase.IDLE)
        part = {phase_energy.phase: phase_energy for phase_energy in meter.settle()}[Phase.TRAIN]
        assert part.energy_j is None
        assert {"bus-low", "degraded"} <= set(part.flags)
        # The covered part is the part before, at its power.
        assert 0.4 < part.covered_s < 1.2
    finally:
        meter.close()


def test_a_supply_of_24_volts_is_measured_in_the_32_volt_range(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(24.0), supply_v=24.0)
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        _, part = worked(meter, until)
        assert bridge.device.channels[0].sensor.config.bus_range_32v
        assert part.energy_j == pytest.approx(24.0 * part.covered_s, rel=0.01)
        assert part.flags == ()
    finally:
        meter.close()


def test_a_bridge_that_takes_no_setting_is_flagged_where_its_16_volts_end(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(24.0), supply_v=24.0, protocol=(1, 0))
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        until(lambda: meter.fault is not None)
        assert meter.identity.quality == "bus-full"
        charged_j, part = worked(meter, until)
        assert (charged_j, part.energy_j) == (None, None)
        assert "bus-full" in part.flags
    finally:
        meter.close()


def test_a_shunt_that_nobody_named_is_refused_and_a_named_one_is_used(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(4.0), calibrated=False, shunt_ohm=0.02)
    with pytest.raises(SensorError, match=r"nobody has told the bridge its shunt.*shunt=0\.1, or calibrate"):
        open_meter(f"serial:{bridge.spec.link}")
    meter = open_meter(f"serial:{bridge.spec.link}?shunt=0.02")
    try:
        _, part = worked(meter, until)
        assert part.energy_j == pytest.approx(4.0 * part.covered_s, rel=0.03)
    finally:
        meter.close()


def test_another_bridge_without_a_shunt_in_the_place_of_ours_gives_no_joules(plug_in, until):
    bridge = plug_in(load_object=ConstantLoad(4.0))
    meter = open_meter(f"serial:{bridge.spec.link}")
    try:
        with bridge.lock:
            bridge.device._uid = b"another!"
            bridge.device.channels[0].calibration = Calibration()
        bridge.reboot()
        until(lambda: meter.fault == "shunt-unknown")
        charged_j, part = worked(meter, until)
        assert (charged_j, part.energy_j) == (None, None)
        assert "shunt-unknown" in part.flags
    finally:
        meter.close()


def test_measure_says_what_is_wrong_and_what_to_do(plug_in):
    bridge = plug_in(load_object=ConstantLoad(4.0), wiring="swapped")
    words = [sys.executable, "-m", "edge_runtime.cli", "measure", "--sensor", f"serial:{bridge.spec.link}"]
    ended = subprocess.run(
        [*words, "--for", "1500ms", "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert (figures["energy_j"], figures["method"], figures["quality"]) == (None, "unknown", "reversed")
    assert "reversed" in figures["flags"]
    assert "does not see the load: reversed: swap VIN+ and VIN-" in ended.stderr


class TestOtherSensors:
    def fault_of(self, sensor, until):
        sensor.open()
        meter = SensorMeter(sensor, SystemClock(), own_board=True)
        try:
            until(lambda: meter.fault is not None)
            return meter.fault
        finally:
            meter.close()

    @pytest.mark.parametrize(("bus_mv", "flag"), [(32_000, "bus-full"), (12, "bus-low")])
    def test_hwmon(self, tmp_path, until, bus_mv, flag):
        device = hwmon_tree(tmp_path)
        (device / "in1_input").write_text(f"{bus_mv}\n")
        sensor = hwmon_sensor("ina219", {"shunt": "0.02"}, SystemClock(), sysfs_root=tmp_path)
        assert self.fault_of(sensor, until) == flag

    def test_hwmon_reversed(self, tmp_path, until):
        device = hwmon_tree(tmp_path)
        (device / "curr1_input").write_text("-800\n")
        sensor = hwmon_sensor("ina219", {"shunt": "0.02"}, SystemClock(), sysfs_root=tmp_path)
        assert self.fault_of(sensor, until) == "reversed"

    @pytest.mark.parametrize(("raw", "flag"), [("8000", "bus-full"), ("3", "bus-low")])
    def test_iio(self, tmp_path, until, raw, flag):
        write_files(iio_tree(tmp_path), in_voltage1_raw=raw)
        sensor = iio_sensor("ina219", {"shunt": "0.02", "mode": "poll"}, SystemClock(), sysfs_root=tmp_path)
        assert self.fault_of(sensor, until) == flag

    @pytest.mark.parametrize(("watts", "flag"), [(-4.0, "reversed"), (0.0, "no-current")])
    def test_i2c(self, until, watts, flag):
        sensor = i2c_sensor("1:0x40", {"shunt": "0.02"}, SystemClock(), bus=FakeBus(ConstantLoad(watts)))
        assert self.fault_of(sensor, until) == flag


def test_registers_at_the_ends_of_the_bus_range_are_flagged_in_either_range():
    shunt = np.full(4, 100, np.int16)
    bus = np.array([3999 << 3, 4000 << 3, 7999 << 3, 8000 << 3], np.uint16)
    narrow, wide = sample_flags(shunt, bus, Config()), sample_flags(shunt, bus, Config().wide())
    assert narrow.tolist() == [0, SampleFlag.BUS_FULL, SampleFlag.BUS_FULL, SampleFlag.BUS_FULL]
    assert wide.tolist() == [0, 0, 0, SampleFlag.BUS_FULL]
    assert bus_flags(np.array([2.49, 2.5]), 32.0).tolist() == [SampleFlag.BUS_LOW, 0]


def test_unusable_samples_cover_no_time_and_leave_their_flag():
    flags = [0, 0, 0, 0, 0, 0, 0, 0, 0, SampleFlag.BUS_LOW]
    trace = PowerTrace.of(np.arange(10), np.arange(10) + 1, [2.0] * 9 + [0.0], flags)
    (part,) = attribute(trace, [Mark(0.0, Phase.TRAIN)], 10.0)
    assert (part.energy_j, part.covered_s, part.uncovered_s) == (18.0, 9.0, 1.0)
    assert set(part.flags) == {"degraded", "bus-low"}
    two = window_energies(trace, [Window("good", 0.0, 9.0), Window("bad", 5.0, 10.0)])
    assert [(window_energy.gross_j, window_energy.flags) for window_energy in two] == [
        (18.0, ()),
        (None, ("degraded", "bus-low")),
    ]


def test_a_sum_below_zero_is_unknown_beyond_the_error_of_the_zero_only():
    errors = ErrorModel(supply_v=5.0, offset_a=0.01)
    for watts, known in ((-0.04, True), (-0.06, False)):
        trace = PowerTrace.of([0.0, 1.0], [1.0, 2.0], [watts, watts])
        (part,) = attribute(trace, [Mark(0.0, Phase.TRAIN)], 2.0, errors=errors)
        assert (part.energy_j is not None) == known
        assert ("reversed" in part.flags) != known
        (window,) = window_energies(trace, [Window("all", 0.0, 2.0)], errors=errors)
        assert (window.gross_j is not None) == known


def test_one_bad_second_does_not_make_a_fault_of_a_good_sensor_for_longer_than_it_lasts():
    watch = WiringWatch(own_board=True)
    good, bad = ([0.1] * 10, [0] * 10), ([0.1] * 10, [int(SampleFlag.BUS_LOW)] * 10)
    told = []
    for number, (widths, flags) in enumerate((good, good, bad, good)):
        ends = number + np.cumsum(widths)
        watch.see(PowerTrace.of(ends - widths, ends, [4.0] * 10, flags), 0.03)
        told.append(watch.fault)
    assert told == [None, None, "bus-low", None]
    assert {"bus-full", "bus-low", "shunt-unknown", "reversed", "no-current"} == FIXES.keys()
    assert int(UNUSABLE) == 8 | 16 | 32
