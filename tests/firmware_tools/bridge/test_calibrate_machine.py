"""``bridge calibrate`` against sensors whose errors are known: the real firmware in virtual time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from client_worlds import NEEDS_MACHINE, machine_client, sensor

from firmware_tools.bridge.calibrate.calibration import MeterError
from firmware_tools.bridge.calibrate.certificate import certificate_id
from firmware_tools.bridge.calibrate.job import Job, Step, calibrate
from protos.bridge.commands import Command, command
from protos.energy.ina219 import PROFILES, Calibration
from protos.errors import CheckFailed, RefusedError, UsageError

pytestmark = NEEDS_MACHINE
DAY = 20_500
EXACT = MeterError(1e-6, 0.0)


def job(*steps: Step, number: int = 0, error: MeterError = EXACT, **fields) -> Job:
    return Job(number, list(steps), error=error, **{"seconds": 2.0, "wall": lambda: DAY * 86_400.0} | fields)


def steps_of(machine, text: str) -> None:
    """Do what the user is asked to."""
    machine.set_load("constant:0" if "Disconnect" in text else "constant:10", at_s=machine.now_s)


@pytest.mark.parametrize("seed", range(4))
def test_zero_and_current_recover_the_sensors_errors(seed):
    offset_v, gain = (-1) ** seed * (10 + 13 * seed) * 1e-6, 0.004 * seed - 0.006
    with machine_client(sensor(offset_v=offset_v, gain=gain), seed=seed) as (machine, client):
        work = job(Step("zero"), Step("current", 2.0), shunt_ohm=0.02, confirm=lambda text: steps_of(machine, text))
        certificate, record, before = calibrate(client, work)
        sure = certificate["uncertainty"]
        assert abs(record.offset_nv - offset_v * 1e9) <= 1.5 * sure["offset_expanded_nv"]
        assert abs(record.gain_ppm - (1 / (1 + gain) - 1) * 1e6) <= 1.5 * sure["gain_expanded_ppm"] + 1
        assert sure["offset_expanded_nv"] < 400
        assert sure["gain_expanded_ppm"] < 50
        assert (record.shunt_uohm, record.day) == (20_000, DAY)
        assert certificate["id"] == f"{record.id:08x}" == f"{certificate_id(certificate):08x}"
        assert json.loads(json.dumps(certificate)) == certificate
        after = client.hello()
        assert after.sensors[0].calibration == record
        assert after.profile == before.profile == PROFILES["balanced"].code
        machine.reset("power-on")
        assert client.hello().sensors[0].calibration == record


def test_an_error_of_the_reference_is_within_what_is_stated():
    with machine_client(sensor(gain=0.01)) as (machine, client):
        work = job(
            Step("zero"), Step("current", 2.0 * 1.0009), error=MeterError(0.001, 0.0), shunt_ohm=0.02,
            confirm=lambda text: steps_of(machine, text),
        )  # fmt: skip
        certificate, record, _ = calibrate(client, work)
    sure = certificate["uncertainty"]
    assert abs(record.gain_ppm - (1 / 1.01 - 1) * 1e6) <= sure["gain_expanded_ppm"]
    assert sure["gain_standard_ppm"] == pytest.approx(0.001 / 3**0.5 * 1e6, rel=0.03)


def test_a_power_takes_the_error_of_the_bus_voltage_into_the_gain():
    with machine_client(sensor(gain=0.01, bus_gain=-0.004)) as (machine, client):
        work = job(Step("zero"), Step("power", 10.0), shunt_ohm=0.02, confirm=lambda text: steps_of(machine, text))
        certificate, record, _ = calibrate(client, work)
    right_ppm = (1 / (1.01 * 0.996) - 1) * 1e6
    assert abs(record.gain_ppm - right_ppm) <= 1.5 * certificate["uncertainty"]["gain_expanded_ppm"]
    assert certificate["points"][1]["unit"] == "W"


def test_two_steps_of_one_run_each_and_a_third_current():
    with machine_client(sensor(offset_v=4e-5, gain=-0.008)) as (machine, client):
        client.tell(command(Command.SET_PROFILE, PROFILES["energy"].code))
        first, zeroed, _ = calibrate(client, job(Step("zero"), restart=False))
        assert (zeroed.id, zeroed.day, zeroed.gain_ppm) == (0, DAY, 0)
        assert first["complete"] is False
        machine.set_load("constant:10", at_s=machine.now_s)
        second, record, _ = calibrate(client, job(Step("current", 2.0), shunt_ohm=0.02))
        assert abs(record.offset_nv - 40_000) <= 300
        assert record.id == int(second["id"], 16) != 0
        assert client.hello().profile == PROFILES["energy"].code
        assert abs(record.gain_ppm - (1 / 0.992 - 1) * 1e6) <= second["uncertainty"]["gain_expanded_ppm"]


def test_current_that_flows_is_noticed_and_nothing_changes():
    with machine_client(sensor("constant:0.1")) as (_, client):
        before = client.hello()
        with pytest.raises(CheckFailed, match="current flows"):
            calibrate(client, job(Step("zero"), shunt_ohm=None))
        after = client.hello()
        assert after.sensors == before.sensors
        assert (after.profile, after.boot) == (before.profile, before.boot)


def test_a_load_that_is_not_steady_is_noticed():
    with machine_client(sensor("square:2,8,0.05")) as (_, client), pytest.raises(CheckFailed, match="not steady"):
        calibrate(client, job(Step("current", 1.0), Step("current", 2.0), shunt_ohm=0.02))


def test_a_gain_without_a_zero_is_refused():
    with machine_client(sensor("constant:10")) as (_, client):
        with pytest.raises(RefusedError, match="zero"):
            calibrate(client, job(Step("current", 2.0)))
        with pytest.raises(RefusedError, match="without a gain"):
            calibrate(client, job(Step("zero"), shunt_ohm=0.05))
        with pytest.raises(UsageError, match="no number 3"):
            calibrate(client, job(Step("zero"), number=3))


def test_only_the_sensor_meant_is_written_and_a_dry_run_writes_nothing():
    parts = (sensor(address=0x40), sensor(address=0x41, offset_v=-2e-5))
    with machine_client(*parts) as (_, client):
        before = client.hello()
        _, record, _ = calibrate(client, job(Step("zero"), number=1, write=False))
        assert client.hello().sensors == before.sensors
        _, record, _ = calibrate(client, job(Step("zero"), number=1))
        after = client.hello()
        assert after.sensors[0] == before.sensors[0]
        assert after.sensors[1].calibration == record == replace(Calibration(), offset_nv=record.offset_nv, day=DAY)
        assert abs(record.offset_nv + 20_000) < 500
