"""hwmon and IIO: found by name, in the right unit, with the right shunt, the right sign, and an honest uncertainty."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fake_machine import hwmon_tree, iio_tree, write_files
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.power.host.hwmon import HwmonSource
from edge_runtime.power.host.iio import IioSource
from edge_runtime.power.host.iio_buffer import Channel, IioBuffer, layout
from edge_runtime.power.host.source import Instants
from protos.energy.attribution import attribute
from protos.energy.trace import Mark, Phase, PowerTrace
from protos.errors import SensorError


def traces(parts):
    parts = [part for part in parts if len(part)]
    columns = ("start_s", "stop_s", "power_w", "flags")
    return PowerTrace(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def hwmon_source(root, *, name="ina219", shunt_ohm=0.02, rate_hz=50.0):
    source = HwmonSource(name, shunt_ohm, rate_hz, root)
    source.open(0.0)
    return source


def poll_iio(root, *, shunt_ohm=0.02):
    source = IioSource("ina219", shunt_ohm, "poll", 50.0, root, root / "dev")
    source.open(0.0)
    return source


@given(st.lists(st.floats(1e-3, 0.4), min_size=2, max_size=30), st.integers(0, 20))
def test_readings_stand_for_the_nearest_time_and_leave_no_time_out(steps, seed):
    power_w = np.random.default_rng(seed).uniform(0, 10, len(steps))
    times = np.cumsum(steps)
    instants = Instants(0.1)
    trace = traces([instants.add(float(at), float(watts)) for at, watts in zip(times, power_w, strict=True)])
    assert trace.start_s[0] == times[0]
    assert trace.stop_s[-1] == pytest.approx((times[-2] + times[-1]) / 2)
    assert np.array_equal(trace.start_s[1:], trace.stop_s[:-1])
    assert np.array_equal(trace.power_w, power_w[:-1])


def test_a_pause_between_readings_is_covered_by_neither():
    instants = Instants(0.02)
    trace = traces([instants.add(at, 5.0) for at in (0.0, 0.02, 0.04, 1.0, 1.02)])
    assert trace.stop_s.tolist() == pytest.approx([0.01, 0.03, 0.04, 1.01])
    assert trace.start_s.tolist() == pytest.approx([0.0, 0.01, 0.03, 1.0])


def test_hwmon_is_milliamperes_times_millivolts_of_the_device_with_the_name(tmp_path):
    hwmon_tree(tmp_path, number=0, name="cpu_thermal")
    hwmon_tree(tmp_path, number=7, current_ma=-312)
    source = hwmon_source(tmp_path)
    trace = traces([source.take(0.02 * step) for step in range(4)])
    assert trace.power_w == pytest.approx([-0.312 * 5.0] * 3)
    source.close()
    source.close()


def test_two_devices_of_one_name_are_told_apart_by_their_paths_only(tmp_path):
    hwmon_tree(tmp_path, number=2)
    other = hwmon_tree(tmp_path, number=5, current_ma=100)
    with pytest.raises(SensorError, match=r"2 devices have this name; give the path of one: .*hwmon2, .*hwmon5"):
        hwmon_source(tmp_path)
    assert hwmon_source(tmp_path, name=str(other)).take(0.0) is not None


def test_a_driver_with_another_shunt_is_refused_with_the_command_that_tells_it(tmp_path):
    device = hwmon_tree(tmp_path, shunt_uohm=10_000)
    with pytest.raises(SensorError, match=r"reckons with 0\.01 ohm, not 0\.02 ohm; tell it: echo 20000 \| sudo tee"):
        hwmon_source(tmp_path)
    write_files(device, shunt_resistor=20_000)
    hwmon_source(tmp_path)


def test_the_drivers_default_shunt_is_believed_only_where_the_user_says_the_same(tmp_path):
    hwmon_tree(tmp_path, shunt_uohm=10_000)
    with pytest.raises(SensorError, match=r"0\.01 ohm, its default.*say which it is: \.\.\.\?shunt=0\.01"):
        hwmon_source(tmp_path, shunt_ohm=None)
    hwmon_source(tmp_path, shunt_ohm=0.01)


def test_a_chip_without_known_limits_of_error_is_refused(tmp_path):
    hwmon_tree(tmp_path, name="nvme")
    with pytest.raises(SensorError, match="chip 'nvme' has no known limits of error; use one of ina219"):
        hwmon_source(tmp_path, name="nvme")


def test_a_current_at_the_end_of_the_range_is_clipped(tmp_path):
    hwmon_tree(tmp_path, current_ma=16_000)  # 320 mV at 0.02 ohm
    source = hwmon_source(tmp_path)
    trace = traces([source.take(0.02 * step) for step in range(5)])
    (part,) = attribute(trace, [Mark(0.0, Phase.TRAIN)], 0.06, errors=source.errors())
    assert "clipped" in part.flags
    assert part.uncertainty_j is None


def test_a_jumping_load_is_stated_with_what_hwmon_does_not_see_of_it(tmp_path):
    """Seeded study: truth lies in the interval, though 0.5 ms of each 20 ms are looked at."""
    file = os.open(hwmon_tree(tmp_path) / "curr1_input", os.O_WRONLY)
    outside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        source = hwmon_source(tmp_path)
        period_s, low_ma, high_ma = rng.uniform(3e-3, 0.7), rng.uniform(300, 500), rng.uniform(600, 2500)
        at_s, parts, duty = 0.0, [], rng.uniform(0.2, 0.8)
        while at_s < 3.0:
            current_ma = high_ma if at_s / period_s % 1 < duty else low_ma
            os.pwrite(file, f"{round(current_ma):05d}\n".encode(), 0)
            parts.append(source.take(at_s))
            at_s += source.poll_s * rng.uniform(0.5, 1.5)
        trace = traces(parts)
        (part,) = attribute(trace, [Mark(0.5, Phase.TRAIN)], 2.5, errors=source.errors())
        whole, rest = divmod(np.array([0.5, 2.5]), period_s)
        high_s = np.diff(whole * duty * period_s + np.minimum(rest, duty * period_s))[0]
        truth_j = 5e-3 * (high_ma * high_s + low_ma * (2.0 - high_s))
        outside += abs(part.energy_j - truth_j) > part.uncertainty_j
        source.close()
    os.close(file)
    assert outside <= 4


@pytest.mark.parametrize("raw", [-312, 65536 - 312])
def test_iio_reads_a_negative_shunt_also_from_a_driver_that_calls_it_unsigned(tmp_path, raw):
    iio_tree(tmp_path, shunt_raw=raw)
    source = poll_iio(tmp_path)
    trace = traces([source.take(0.02 * step) for step in range(3)])
    assert trace.power_w == pytest.approx([-312e-5 / 0.02 * 5.0] * 2)


@pytest.mark.parametrize("text", ["0.010000000", "10000"])
def test_iio_refuses_the_drivers_default_shunt_unless_the_user_says_the_same(tmp_path, text):
    write_files(iio_tree(tmp_path), in_shunt_resistor=text)
    with pytest.raises(SensorError, match=r"0\.01 ohm, its default.*say which it is: \.\.\.\?shunt=0\.01"):
        poll_iio(tmp_path, shunt_ohm=None)
    poll_iio(tmp_path, shunt_ohm=0.01)


@pytest.mark.parametrize(("text", "ohm"), [("0.020000000", 0.02), ("20000", 0.02), ("0.100000000", 0.1)])
def test_iio_takes_the_drivers_shunt_only_without_another(tmp_path, text, ohm):
    write_files(iio_tree(tmp_path), in_shunt_resistor=text)
    source = poll_iio(tmp_path, shunt_ohm=None)
    trace = traces([source.take(0.02 * step) for step in range(2)])
    assert trace.power_w == pytest.approx([0.016 / ohm * 5.0])


def test_iio_without_permission_for_the_buffer_polls_and_says_so(tmp_path):
    iio_tree(tmp_path)
    source = IioSource("ina219", 0.02, None, 50.0, tmp_path, tmp_path / "no-dev")
    source.open(0.0)
    assert source.identity.sensor == "iio:ina219/poll"
    asked = IioSource("ina219", 0.02, "buffer", 50.0, tmp_path, tmp_path / "no-dev")
    with pytest.raises(SensorError, match="cannot be used"):
        asked.open(0.0)


def test_iio_conversions_that_were_missed_are_not_covered(tmp_path):
    device = iio_tree(tmp_path)
    node = tmp_path / "dev" / "iio:device0"
    node.parent.mkdir()
    stamps = [1_000_000_000 + 1_064_000 * step for step in (0, 1, 2, 40, 41)]
    record = np.dtype(
        {"names": ["v", "b", "t"], "formats": ["<u2", "<u2", "<i8"], "offsets": [0, 2, 8], "itemsize": 16}
    )
    node.write_bytes(np.array([(1600, 1250 << 3, stamp) for stamp in stamps], record).tobytes() + b"\1\2\3")
    source = IioSource("ina219", 0.02, "buffer", 50.0, tmp_path, tmp_path / "dev")
    source.open(0.0)
    trace = source.take(5.0)
    assert trace.power_w == pytest.approx([4.0] * 5)
    assert (trace.stop_s - trace.start_s) == pytest.approx([1.064e-3] * 5)
    assert (device / "buffer" / "enable").read_text().strip() == "1"
    source.close()
    assert (device / "buffer" / "enable").read_text().strip() == "0"


@pytest.mark.parametrize("text", ["", "u16", "le:u16/17>>0", "le:x16/16>>0"])
def test_a_channel_type_that_is_not_understood_is_an_error(tmp_path, text):
    folder = write_files(tmp_path, in_v_type=text, in_v_index=0)
    with pytest.raises(ValueError, match="type"):
        Channel.read(folder, "in_v")


def test_records_are_laid_out_as_the_kernel_does(tmp_path):
    device = iio_tree(tmp_path)
    names = ("in_voltage0", "in_voltage1", "in_power2", "in_current3", "in_timestamp")
    channels = [Channel.read(device / "scan_elements", name) for name in names]
    record = layout(channels)
    assert record.itemsize == 16
    assert [record.fields[name][1] for name in names] == [0, 2, 4, 6, 8]
    assert channels[1].values(np.array([1250 << 3 | 3], "<u2"), signed=False).tolist() == [1250]
    assert channels[0].values(np.array([0xFFFF], "<u2"), signed=True).tolist() == [-1]


def test_a_device_without_a_buffer_leaves_no_file_open(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        IioBuffer(iio_tree(tmp_path), tmp_path / "none", ("in_voltage0",))
