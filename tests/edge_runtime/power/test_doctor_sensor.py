"""What the doctor says about the sensor, on a machine made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_machine import hwmon_tree, write_files

from edge_runtime.doctor.sensor import check_sensor


@pytest.fixture
def port():
    """A pseudo-terminal as a serial port; its path."""
    master, slave = os.openpty()
    yield Path(os.ttyname(slave))
    os.close(master)
    os.close(slave)


def verdicts(findings):
    return [(finding.check, finding.verdict) for finding in findings]


def test_a_port_that_holds_bytes_back_is_told_with_both_ways_to_mend_it(port, tmp_path):
    timer = write_files(tmp_path / "bus" / "usb-serial" / "devices" / port.name, latency_timer=16) / "latency_timer"
    found = check_sensor(f"serial:{port}", sysfs_root=tmp_path)
    assert verdicts(found) == [("sensor", "ok"), ("sensor line", "warn")]
    assert "16 ms" in found[1].what
    assert f"echo 1 | sudo tee {timer}" in found[1].fix
    assert 'ATTR{latency_timer}="1"' in found[1].fix
    timer.write_text("1\n")
    assert verdicts(check_sensor(f"serial:{port}", sysfs_root=tmp_path)) == [("sensor", "ok"), ("sensor line", "ok")]


def test_a_port_without_a_latency_timer_has_one_line(port, tmp_path):
    assert verdicts(check_sensor(f"serial:{port}", sysfs_root=tmp_path)) == [("sensor", "ok")]


def test_a_missing_port_names_those_that_are_there(tmp_path):
    write_files(tmp_path, ttyUSB3="", ttyACM0="", tty1="")
    (found,) = check_sensor(f"serial:{tmp_path}/ttyUSB9", dev_root=tmp_path)
    assert found.verdict == "fail"
    assert found.fix == f"plug it in; ports here: {tmp_path}/ttyACM0, {tmp_path}/ttyUSB3"


def test_a_port_of_another_group_names_the_group(port, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (found,) = check_sensor(f"serial:{port}")
    assert found.verdict == "fail"
    assert f"usermod -aG {port.group()}" in found.fix


@pytest.mark.parametrize("spec", ["serial:/dev/x?range=1V", "magic:1", "i2c:1:0x40", "hwmon:"])
def test_a_text_that_makes_no_sense_fails_with_its_fix(spec):
    (found,) = check_sensor(spec)
    assert (found.verdict, bool(found.fix)) == ("fail", True)


def test_a_bus_that_is_not_there_is_told(tmp_path):
    (found,) = check_sensor("i2c:1:0x40?shunt=0.1", dev_root=tmp_path)
    assert (found.verdict, f"{tmp_path}/i2c-1 is not there") == ("fail", found.what)


def test_a_bus_whose_sensor_a_driver_holds_is_told(tmp_path):
    write_files(tmp_path, **{"i2c-1": ""})
    write_files(tmp_path / "bus" / "i2c" / "devices" / "1-0040", driver__name="ina219")
    (found,) = check_sensor("i2c:1:0x40?shunt=0.1", dev_root=tmp_path, sysfs_root=tmp_path)
    assert found.verdict == "fail"
    assert "a driver of the kernel holds 1-0040" in found.what


def test_a_sensor_of_the_kernel_is_read_once(tmp_path):
    device = hwmon_tree(tmp_path)
    (found,) = check_sensor(f"hwmon:{device}?shunt=0.02")
    assert (found.verdict, found.what) == ("ok", f"hwmon:{device}: 4 W now, uncalibrated")
    (found,) = check_sensor(f"hwmon:{device}?shunt=0.1")
    assert found.verdict == "fail"
    assert "sudo tee" in found.fix


def test_no_sensor_and_a_model_are_what_they_are():
    assert verdicts(check_sensor("none")) == [("sensor", "warn")]
    assert verdicts(check_sensor("estimate:pi4")) == [("sensor", "ok")]
