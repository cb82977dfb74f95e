"""An INA219 on the machine's own bus, behind an object like smbus2's."""

from __future__ import annotations

import errno
import time

import numpy as np
import pytest
from fake_machine import FakeBus, write_files

from edge_runtime.power.clock import SystemClock
from edge_runtime.power.host.i2c import Ina219Source, i2c_sensor
from edge_runtime.power.sensor_factory import make_sensor
from firmware_tools.bridge.simulator.loads import ConstantLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors
from protos.energy.ina219 import PROFILES, Calibration
from protos.errors import SensorError, UsageError


def source_on(bus, *, root=None, calibration=None, address=0x40):
    chain = calibration or Calibration(0, 20_000)
    return Ina219Source(1, address, PROFILES["balanced"].config, chain, bus, *([root] if root else []))


def samples(source, count):
    """The powers of the next ``count`` conversions."""
    powers = []
    while len(powers) < count:
        powers += source.take(time.monotonic()).power_w.tolist()
        time.sleep(5e-4)
    return powers


def test_each_conversion_is_read_once(monkeypatch):
    bus = FakeBus(ConstantLoad(4.0))
    source = source_on(bus)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    source.open(now[0])
    taken = 0
    for _ in range(400):
        now[0] += 1e-3
        taken += len(source.take(now[0]))
    assert taken == pytest.approx(0.4 / PROFILES["balanced"].config.period_s, abs=2)


def test_offset_and_gain_of_the_calibration_are_taken_out_and_it_is_called_calibrated():
    errors = SensorErrors(offset_v=150e-6, gain=0.01)
    bus = FakeBus(ConstantLoad(4.0), errors=errors)
    source = source_on(bus, calibration=errors.calibrated(0xABCD, 0.02, day=0))
    source.open(time.monotonic())
    assert np.mean(samples(source, 5)) == pytest.approx(4.0, rel=2e-3)
    assert (source.identity.quality, source.identity.calibration_id) == ("calibrated", "0000abcd")
    plain = source_on(FakeBus(ConstantLoad(4.0), errors=errors))
    plain.open(time.monotonic())
    assert np.mean(samples(plain, 5)) > 4.06


def test_a_sensor_that_lost_its_setting_gets_it_again_and_is_flagged():
    bus = FakeBus(ConstantLoad(4.0))
    source = source_on(bus)
    source.open(time.monotonic())
    samples(source, 2)
    bus.reset()
    assert not len(source.take(time.monotonic() + 1.5))
    assert source.flags() == ("sensor-restarted",)
    assert source.flags() == ()
    assert bus.read_word_data(0x40, 0) == int.from_bytes(
        PROFILES["balanced"].config.register().to_bytes(2, "big"), "little"
    )
    assert samples(source, 1) == pytest.approx([4.0], rel=1e-3)


def test_a_sensor_that_a_driver_holds_is_refused_with_its_name(tmp_path):
    write_files(tmp_path / "bus" / "i2c" / "devices" / "1-0040", name="ina219")
    bus = FakeBus(ConstantLoad(4.0))
    bus.failing = OSError(errno.EBUSY, "Device or resource busy")
    with pytest.raises(SensorError, match=r"a driver \(ina219\) holds this sensor; use hwmon: or iio: .*unbind"):
        source_on(bus, root=tmp_path).open(0.0)
    assert bus.closed == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "usermod -aG i2c"), (errno.ENOENT, "no /dev/i2c-1"), (errno.EREMOTEIO, "i2cdetect -y 1")],
)
def test_each_failure_of_the_bus_has_its_own_way_out(number, words):
    bus = FakeBus(ConstantLoad(4.0))
    bus.failing = OSError(number, "failed")
    with pytest.raises(SensorError, match=words):
        source_on(bus).open(0.0)


def test_something_else_at_the_address_is_no_ina219(monkeypatch):
    bus = FakeBus(ConstantLoad(4.0))
    monkeypatch.setattr(bus, "_configure", lambda register: None)
    with pytest.raises(SensorError, match="does not keep an INA219's configuration"):
        source_on(bus).open(0.0)


@pytest.mark.parametrize(
    "spec",
    ["i2c:1", "i2c:1:0x40", "i2c:1:0x20?shunt=0.1", "i2c:x:0x40?shunt=0.1", "i2c:1:0x40:2?shunt=0.1",
     "i2c:1:0x40?shunt=0.1&profile=best", "i2c:1:0x40?shunt=0.1&range=1V", "i2c:1:0x40?shunt=0.1&calibration=0"],
)  # fmt: skip
def test_texts_that_make_no_sense_are_refused(spec):
    with pytest.raises(UsageError):
        make_sensor(spec)


def test_the_bus_of_this_machine_is_told_when_it_is_not_there():
    sensor = i2c_sensor("250:0x40", {"shunt": "0.1"}, SystemClock())
    with pytest.raises(SensorError, match="there is no /dev/i2c-250"):
        sensor.open()


def test_range_and_profile_make_the_setting():
    bus = FakeBus(ConstantLoad(4.0))
    sensor = i2c_sensor("1:0x40", {"shunt": "0.02", "profile": "energy", "range": "320mV"}, SystemClock(), bus=bus)
    sensor.open()
    sensor.close()
    kept = int.from_bytes(bus.read_word_data(0x40, 0).to_bytes(2, "little"), "big")
    assert kept == PROFILES["energy"].config.wide().register() | 3 << 11
