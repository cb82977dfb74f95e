"""Opening a meter: every text that is accepted, and what is said when something is missing."""

from __future__ import annotations

import errno
import os
import threading
import tty
from dataclasses import replace

import pytest

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.sensor_factory import open_meter
from protos.bridge.line import explain
from protos.bridge.messages import Status
from protos.energy.ina219 import PROFILES
from protos.energy.trace import Phase
from protos.errors import SensorError, UsageError


@pytest.fixture
def silent_port():
    """A pseudo-terminal that nobody answers on; yields (master, path)."""
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    os.close(slave)
    yield master, path
    os.close(master)


def open_quickly(path, **options):
    bridge_sensor(path, options, SystemClock(), hello_wait_s=0.3).open()


def test_a_port_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SensorError, match="ttyUSB7: no such serial port; plug the bridge in") as caught:
        open_meter(f"serial:{tmp_path}/ttyUSB7")
    assert caught.value.exit_code == 14


def test_a_plain_file_is_not_a_serial_port(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SensorError, match="this is not a serial port"):
        open_meter(f"serial:{tmp_path}/file")


def test_a_terminal_device_that_is_no_serial_port_is_refused():
    with pytest.raises(SensorError, match="this is not a serial port"):
        open_meter("serial:/dev/null")


def test_a_port_without_permission_is_named_with_the_group_to_join():
    error = explain("/dev/ttyUSB0", PermissionError(errno.EACCES, "Permission denied"))
    assert "no permission" in str(error)
    assert "dialout" in str(error)


def test_a_port_in_use_is_refused_to_the_second_reader(plug_in):
    bridge = plug_in()
    first = open_meter(f"serial:{bridge.spec.link}")
    try:
        with pytest.raises(SensorError, match="in use by another program"):
            open_meter(f"serial:{bridge.spec.link}")
    finally:
        first.close()


def test_a_silent_port_is_told_after_a_bounded_wait(silent_port):
    _, path = silent_port
    with pytest.raises(SensorError, match=r"no answer within 0\.3 s"):
        open_quickly(path)


def test_something_else_on_the_port_is_told_from_silence(silent_port):
    master, path = silent_port
    done = threading.Event()

    def prompt() -> None:
        while not done.wait(0.02):
            os.write(master, b"login: \r\n")

    thread = threading.Thread(target=prompt)
    thread.start()
    try:
        with pytest.raises(SensorError, match="not the bridge's protocol") as caught:
            open_quickly(path)
    finally:
        done.set()
        thread.join()
    assert "bytes heard" in str(caught.value)


def test_another_major_version_is_refused_with_the_command_to_flash(plug_in):
    bridge = plug_in(protocol=(2, 3))
    with pytest.raises(SensorError, match=r"speaks protocol 2\.3.*firmware-tools bridge flash --port .*ttyINA"):
        open_meter(f"serial:{bridge.spec.link}")


def test_a_sensor_that_the_bridge_does_not_have_is_refused(plug_in):
    bridge = plug_in()
    with pytest.raises(SensorError, match=r"has 1 sensor\(s\), number 2"):
        open_meter(f"serial:{bridge.spec.link}?sensor=2")


def test_options_in_the_text_have_reached_the_bridge_when_it_is_open(plug_in):
    bridge = plug_in(profile="energy")
    meter = open_meter(f"serial:{bridge.spec.link}?sensor=0&shunt=0.04&profile=transient")
    try:
        assert meter.sensor.track.config == PROFILES["transient"].config.wide()
        assert meter.identity.quality == "uncalibrated"
        assert meter.identity.calibration_id == "none"
    finally:
        meter.close()


@pytest.mark.parametrize(
    "query", ["sensor=x", "sensor=4", "shunt=0", "shunt=nan", "shunt=-1", "profile=fast", "colour=red"]
)
def test_options_that_make_no_sense_are_refused_before_the_port_is_touched(query):
    with pytest.raises(UsageError):
        open_meter(f"serial:/dev/does-not-exist?{query}")


@pytest.mark.parametrize("spec", ["", "serial:", "estimate:", "magic", "none:x"])
def test_any_other_text_is_answered_with_what_is_accepted(spec):
    with pytest.raises(UsageError, match=r"use serial:PATH, .*estimate:BOARD or none"):
        open_meter(spec)


def test_an_unknown_board_is_refused():
    with pytest.raises(UsageError, match="pi4"):
        open_meter("estimate:pi17")


def test_without_a_sensor_durations_are_known_and_energy_is_not(clock):
    meter = open_meter("none", clock=clock)
    meter.start()
    clock.advance(1.0)
    meter.mark(Phase.TRAIN)
    clock.advance(2.0)
    meter.mark(Phase.SEND)
    assert meter.spent_j() is None
    idle, train = meter.settle()
    assert (idle.phase, idle.energy_j, idle.method) == (Phase.IDLE, None, "unknown")
    assert train.uncovered_s == pytest.approx(2.0)
    assert train.uncertainty_j is None
    clock.advance(1.0)
    meter.mark(Phase.IDLE)
    (send,) = meter.settle()
    assert send.uncovered_s == pytest.approx(1.0)


def test_an_estimate_is_idle_power_plus_the_process_share_and_says_so(clock):
    meter = open_meter("estimate:pi4", clock=clock)
    meter.start()
    clock.advance(2.0)
    meter.mark(Phase.TRAIN)
    clock.advance(3.0)
    clock.cpu_s += 1.5  # half a core for three seconds
    assert meter.spent_j() == pytest.approx(3 * 2.10 + 1.5 * 1.05)
    meter.mark(Phase.IDLE)
    assert meter.spent_j() == pytest.approx(3 * 2.10 + 1.5 * 1.05)
    idle, train = meter.settle()
    assert idle.energy_j == pytest.approx(2 * 2.10)
    assert train.energy_j == pytest.approx(3 * 2.10 + 1.5 * 1.05)
    assert train.method == "estimated"
    assert train.uncertainty_j >= 0.47 * train.energy_j  # 95 % of a rectangle of 50 %
    assert meter.spent_j() == 0.0
    assert meter.settle() == ()


def test_the_range_asked_for_is_set_and_clipping_is_judged_by_it(plug_in):
    bridge = plug_in()
    meter = open_meter(f"serial:{bridge.spec.link}?range=320mV")
    try:
        assert meter.sensor.track.config.pga == 3
        assert bridge.device.channels[0].sensor.config.pga == 3
        # The offset of the amplifier grows with the range; the budget knows.
        assert meter.sensor.track.config == replace(PROFILES["balanced"].config, pga=3).wide()
    finally:
        meter.close()


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.REFUSED])
def test_a_bridge_that_does_not_take_a_range_is_refused_with_the_command_to_flash(plug_in, monkeypatch, status):
    bridge = plug_in(protocol=(1, 0))
    monkeypatch.setattr(bridge.device, "_keep", lambda kind, values, now_s: bridge.device._ack(kind, status))
    with pytest.raises(SensorError, match=r"does not take range= .*speaks protocol 1\.0.*bridge flash --port"):
        open_meter(f"serial:{bridge.spec.link}?range=320mV")


def test_an_old_bridge_without_new_wishes_is_welcome(plug_in):
    bridge = plug_in(protocol=(1, 0))
    meter = open_meter(f"serial:{bridge.spec.link}")
    assert meter.has_samples
    assert not meter.sensor.capabilities.markers
    meter.close()
