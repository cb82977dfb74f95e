"""``bridge info`` in words, and ``bridge ports``."""

from __future__ import annotations

import grp
import json
import os
from dataclasses import replace

import pytest
from answering_port import AnsweringPort, hello, run
from hypothesis import given
from hypothesis import strategies as st
from serial.tools.list_ports_common import ListPortInfo

from firmware_tools.bridge.client.ports import list_ports
from firmware_tools.bridge.client.wiretap import describe
from firmware_tools.bridge.commands.info import hello_lines
from protos.bridge.hello import Feature, ResetCause, SensorRecord
from protos.energy.ina219 import Calibration, Config


def lines(said, known=()):
    fields = describe(said) | {"reset": [cause.name for cause in ResetCause if said.reset & cause]}
    return [f"{name} {text}".strip() for name, text in hello_lines(fields, dict.fromkeys(known, "atmega328p"))]


def test_info_says_what_the_numbers_mean():
    sensor = replace(
        hello().sensors[0], config=Config(pga=2, bus_adc=1, shunt_adc=3).register(), state=2,
        calibration=Calibration(0x1234, 20_000, -12_340, 1500, 20_000),
    )  # fmt: skip
    said = hello(
        sensors=(hello().sensors[0], sensor), build=b"8 bytes.", uid=b"\x01" * 8,
        features=Feature.MARKER | Feature.DITHER, reset=ResetCause.WATCHDOG | ResetCause.EXTERNAL,
        tick=7_300_000_000, profile=0, flags=3,
    )  # fmt: skip
    assert lines(said, [b"8 bytes.".hex()]) == [
        "bridge ATmega328P, firmware 0.2.0, protocol 1.1",
        "build 382062797465732e, the image that comes with this program, from changed sources",
        "serial 0101010101010101",
        "boot number 3, 1 counted; last reset: external, watchdog; up for 2.0 h",
        "can marker input, dithers",
        "profile a setting of its own, forced",
        "sensor 0 address 40h, working; shunt 100 mohm, up to 0.80 A in the 80 mV range",
        "111 samples/s: current mean of 16 in 8.51 ms, voltage 12 bits in 0.532 ms, current seen 94% of the time",
        "never calibrated: the tolerances of shunt and chip apply",
        "sensor 1 address 40h, failing; shunt 20 mohm, up to 8.01 A in the 160 mV range",
        "1471 samples/s: current 12 bits in 0.532 ms, voltage 10 bits in 0.148 ms, current seen 78% of the time",
        "calibration 00001234 of 2024-10-04: offset -12.34 uV, gain +1500 ppm",
    ]
    assert "build 382062797465732e, not from this program" in lines(replace(said, flags=0))


def test_info_about_a_bridge_that_tells_little():
    said = lines(hello(reset=0))
    assert {"build none", "serial not set", "can nothing beyond protocol 1.0"} <= set(said)
    assert any("last reset: unknown" in line for line in said)
    assert lines(hello(protocol=(2, 7))) == ["bridge speaks protocol 2.7; this program speaks 1.1"]


@given(
    st.builds(
        SensorRecord, st.integers(0x40, 0x4F), st.integers(0, 0xFFFF), st.integers(0, 255),
        st.builds(
            Calibration, st.integers(0, 0xFFFFFFFF), st.integers(1, 0xFFFFFFFF), st.integers(-(1 << 31), (1 << 31) - 1),
            st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 0xFFFF),
        ),
    ),
    st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, (1 << 64) - 1), st.integers(0, 255),
)  # fmt: skip
def test_info_has_words_for_whatever_a_bridge_may_say(sensor, byte, features, tick, reset):
    said = lines(
        hello(
            sensors=(sensor,) * 4, board=byte, flags=byte, profile=byte, features=features, tick=tick, reset=reset & 0xF
        )
    )
    assert len(said) == 6 + 4 * 3


def test_info_prints_lines_that_a_person_can_read(tmp_path):
    with AnsweringPort(tmp_path / "tty", hello) as port:
        done = run("info", "--port", port.link)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bridge    ATmega328P, firmware 0.2.0")
    assert "[" not in done.stdout


@pytest.fixture
def system(tmp_path):
    """Device nodes and sysfs with an FTDI chip at ttyUSB0 and an Arduino at ttyACM0."""
    dev, sysfs = tmp_path / "dev", tmp_path / "sys"
    by_id, driver = dev / "serial" / "by-id", sysfs / "bus" / "usb-serial" / "devices" / "ttyUSB0"
    for folder in (by_id, driver):
        folder.mkdir(parents=True)
    (driver / "latency_timer").write_text("16\n")
    infos = []
    for name, product in (("ttyUSB0", "FT232R USB UART"), ("ttyACM0", "Arduino Uno"), ("ttyS0", None)):
        (dev / name).write_text("")
        info = ListPortInfo(str(dev / name))
        if product is not None:
            info.vid, info.pid, info.product, info.hwid, info.serial_number = 0x0403, 0x6001, product, "USB", "A1"
            (by_id / f"usb-{product.replace(' ', '_')}").symlink_to(f"../../{name}")
        infos.append(info)
    return dev, sysfs, infos


def test_ports_have_stable_names_and_hints(system):
    dev, sysfs, infos = system
    arduino, ftdi = list_ports(found=infos, dev=dev, sysfs=sysfs)
    assert arduino.path == str(dev / "ttyACM0")
    assert arduino.stable == str(dev / "serial/by-id/usb-Arduino_Uno")
    assert (arduino.usb, arduino.product, arduino.serial_number) == ("0403:6001", "Arduino Uno", "A1")
    assert (arduino.latency_ms, arduino.hints) == (None, ())
    assert ftdi.latency_ms == 16
    assert ftdi.hints == (
        f"holds bytes back for 16 ms: echo 1 | sudo tee {sysfs}/bus/usb-serial/devices/ttyUSB0/latency_timer",
    )
    (sysfs / "bus/usb-serial/devices/ttyUSB0/latency_timer").write_text("1\n")
    assert list_ports(found=infos, dev=dev, sysfs=sysfs)[1].hints == ()


def test_ports_without_a_device_are_listed_on_demand(system):
    dev, sysfs, infos = system
    assert len(list_ports(found=infos, dev=dev, sysfs=sysfs)) == 2
    assert [port.usb for port in list_ports(found=infos, dev=dev, sysfs=sysfs, every=True)][1] is None


@pytest.mark.parametrize(("group", "said"), [("uucp", "usermod -aG uucp "), ("root", "chgrp dialout ")])
def test_the_group_that_owns_the_port_is_the_one_to_join(system, monkeypatch, group, said):
    dev, sysfs, infos = system
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((group, "x", gid, [])))
    assert said in list_ports(found=infos, dev=dev, sysfs=sysfs)[0].hints[0]


def test_ports_that_may_not_be_opened_or_are_gone(system, monkeypatch):
    dev, sysfs, infos = system
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    arduino, _ = list_ports(found=infos, dev=dev, sysfs=sysfs)
    (hint,) = arduino.hints
    assert hint.startswith("not yours to open")
    (gone,) = list_ports([str(dev / "ttyUSB9")], found=[], dev=dev, sysfs=sysfs)
    assert gone.hints == ("no such port: plug the bridge in",)


def test_a_probe_finds_the_port_on_which_a_bridge_answers(tmp_path):
    silent = tmp_path / "silent"
    with AnsweringPort(tmp_path / "tty", hello) as port, AnsweringPort(silent, lambda: None):
        words = ("ports", "--probe", "--wait", "3", port.link, silent, tmp_path / "gone")
        done = run(*words, "--json")
        assert done.returncode == 0, done.stderr
        *_, first, second, third = json.loads(done.stdout)["ports"]
        said = run("ports", "--probe", port.link).stdout
    assert first["hello"]["firmware"] == [0, 2, 0]
    assert second["hello"] is None
    assert "no bridge answered" in second["silence"]
    assert "no such serial port" in third["silence"]
    assert "bridge: firmware 0.2.0, protocol 1.1" in said


def test_without_probe_no_port_is_opened(tmp_path):
    asked = []
    with AnsweringPort(tmp_path / "tty", lambda: asked.append(1)) as port:
        done = run("ports", port.link, "--json")
    assert done.returncode == 0
    assert "hello" not in json.loads(done.stdout)["ports"][-1]
    assert not asked
