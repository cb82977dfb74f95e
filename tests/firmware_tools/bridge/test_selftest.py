"""``bridge selftest`` fails with each fault, says which, and passes without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from client_worlds import NEEDS_MACHINE, machine_client, sensor, twin, twin_client

from firmware_tools.bridge.client.clock_line import ClockLine, fit_clock
from firmware_tools.bridge.client.observation import Observation
from firmware_tools.bridge.client.selftest import Heard, examine, failed, nominal_rates
from firmware_tools.bridge.commands.selftest import selftest
from firmware_tools.bridge.simulator.sensor import SensorErrors
from protos.bridge.commands import Command, calibration_command, command
from protos.bridge.exchange import Exchange
from protos.bridge.hello import PROTOCOL, Hello, SensorRecord
from protos.bridge.messages import Samples, Stats
from protos.energy.ina219 import PROFILES, Calibration, Config
from protos.errors import RefusedError, SensorError

DAY = 20_100
KNOWN = Calibration(7, 20_000, 0, 0, DAY - 30)


def verdicts(findings) -> dict[str, str]:
    """The worst verdict of each check."""
    order = ("PASS", "WARN", "FAIL")
    worst: dict[str, str] = {}
    for finding in findings:
        worst[finding.check] = max(worst.get(finding.check, "PASS"), finding.verdict, key=order.index)
    return worst


def complaints(findings) -> set[str]:
    return {finding.check for finding in findings if finding.verdict != "PASS"}


# ---- the real firmware ----


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("oscillator", [-0.1, 0.0, 0.1])
@NEEDS_MACHINE
def test_a_sound_bridge_passes_in_every_profile(profile, oscillator):
    with machine_client(sensor("constant:7+square:0,0.1,0.017", oscillator=oscillator)) as (_, client):
        client.tell(calibration_command(0, KNOWN))
        client.tell(command(Command.SET_PROFILE, PROFILES[profile].code))
        found = selftest(client, 3.0, today=DAY)
        assert complaints(found) == set(), found


MachineFault = Callable[..., None]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (lambda machine: machine.fault("absent"), "rate"),
        (lambda machine: machine.fault("sensor-brown-out"), "config"),
        (lambda machine: machine.fault("to-host-flip", on=2e-3), "line"),
        (lambda machine: machine.fault("to-host-drop", on=2e-3), "line"),
        (lambda machine: machine.fault("to-mcu-flip", on=0.05), "line"),
        (lambda machine: machine.fault("data-nack", on=30), "sums"),
        (lambda machine: machine.fault("sda-stuck"), "sums"),
        (lambda machine: machine.set_load("constant:30", at_s=machine.now_s), "values"),
        (lambda machine: machine.reset("brown-out"), "no restart"),
    ],
    ids=["absent", "sensor-brown-out", "flip", "drop", "commands", "nack", "sda", "clipped", "brown-out"],
)
@NEEDS_MACHINE
def test_each_fault_while_it_listens_is_found(fault: MachineFault, check):
    with machine_client(sensor("constant:7+square:0,0.1,0.017"), seed=3) as (machine, client):
        client.tell(calibration_command(0, KNOWN))
        began_s, done = machine.now_s, []
        now = client.now

        def strike() -> float:
            if not done and machine.now_s > began_s + 1.0:
                done.append(True)
                fault(machine)
            return now()

        client.now = strike
        found = selftest(client, 4.0, today=DAY)
    assert verdicts(found)[check] == "FAIL", found
    assert all(finding.fix for finding in failed(found, strict=True))


@NEEDS_MACHINE
def test_a_sensor_that_is_missing_or_out_of_its_data_sheet_is_found():
    with machine_client(sensor("constant:7+square:0,0.1,0.017", oscillator=0.3)) as (_, client):
        client.tell(calibration_command(0, KNOWN))
        assert complaints(selftest(client, 2.0, today=DAY)) == {"rate"}
        assert complaints(selftest(client, 2.0, today=DAY, sensors=2)) == {"rate", "sensors"}
    with machine_client(sensor(absent=True)) as (_, client):
        assert verdicts(selftest(client, 2.0, today=DAY))["sensors"] == "FAIL"


@NEEDS_MACHINE
def test_a_bridge_without_calibration_fails_unless_that_is_allowed():
    with machine_client(sensor("constant:7+square:0,0.1,0.017")) as (_, client):
        assert complaints(selftest(client, 2.0, today=DAY)) == {"calibration"}
        assert complaints(selftest(client, 2.0, today=DAY, uncalibrated=True)) == set()


@NEEDS_MACHINE
def test_a_setting_that_sees_half_of_the_time_is_warned_of():
    with machine_client(sensor("constant:7+square:0,0.1,0.017")) as (_, client):
        client.tell(calibration_command(0, KNOWN))
        client.tell(command(Command.SET_CONFIG, 0, 0x099F, 1))
        found = selftest(client, 2.0, today=DAY)
        assert verdicts(found)["handshake"] == "WARN"
        assert failed(found, strict=False) == []
        assert failed(found, strict=True)


# ---- its twin ----


def test_the_twin_passes():
    line = twin()
    found = selftest(twin_client(line), 3.0, today=DAY)
    assert complaints(found) == set(), found


def test_a_quiet_value_is_a_warning_and_no_supply_a_failure():
    found = selftest(twin_client(twin(errors=SensorErrors())), 3.0, today=DAY)
    assert [finding.check for finding in found if finding.verdict == "WARN"] == ["values"]
    line = twin()
    line.device.channels[0].sensor.errors = SensorErrors(bus_gain=-0.95, noise_v=5e-6)
    assert complaints(selftest(twin_client(line), 3.0, today=DAY)) == {"bus voltage"}


@pytest.mark.parametrize(
    ("wiring", "check", "word"),
    [
        ("swapped", "direction", "reversed"),
        ("open-minus", "bus voltage", "bus-low"),
        ("low-side", "bus voltage", "bus-low"),
    ],
)
def test_a_wrong_wire_is_a_failure_with_the_flag_of_the_meter(wiring, check, word):
    line = twin()
    line.device.channels[0].sensor.wiring = wiring
    found = {
        finding.check: finding for finding in selftest(twin_client(line), 3.0, today=DAY) if finding.verdict == "FAIL"
    }
    assert set(found) == {check}
    assert word in found[check].detail
    assert found[check].fix


def test_a_supply_beyond_16_volts_fails_with_the_setting_that_holds_it():
    line = twin()
    line.device.channels[0].sensor.supply_v = 24.0
    found = {
        finding.check: finding for finding in selftest(twin_client(line), 3.0, today=DAY) if finding.verdict == "FAIL"
    }
    assert set(found) == {"bus voltage"}
    assert "bus-full" in found["bus voltage"].detail
    register = PROFILES["balanced"].config.wide().register()
    assert f"0x{register:04x}" in found["bus voltage"].fix
    line.device.channels[0].sensor.configure(
        PROFILES["balanced"].config.wide(), line.device.channels[0].sensor._taken_s
    )
    assert complaints(selftest(twin_client(line), 3.0, today=DAY)) <= {"config", "rate"}


def test_lost_bytes_are_found():
    line, rng = twin(), np.random.default_rng(2)
    client = twin_client(line)
    client.hello()
    line.spoil = lambda data: bytes(b for b in data if rng.random() > 2e-3)
    assert verdicts(selftest(client, 5.0, today=DAY))["line"] == "FAIL"


def test_another_major_protocol_and_silence_are_errors():
    line = twin()
    line.device._protocol = (2, 0)
    with pytest.raises(RefusedError, match=r"protocol 2\.0"):
        selftest(twin_client(line), 1.0, today=DAY)
    line = twin()
    line.spoil = lambda data: b""
    with pytest.raises(SensorError, match="no bridge answered"):
        selftest(twin_client(line), 1.0, today=DAY)


# ---- the examination alone ----


def batch(seq: int, shunt: list[int], bus: int = 1250 << 3, boot: int = 1) -> Samples:
    count = len(shunt)
    return Samples(
        0, boot, seq, 0, 2, 0, np.full(count, 4792, np.int64), np.array(shunt, np.int16), np.full(count, bus, np.uint16)
    )  # fmt: skip


def stats(seq: int, batches: list[Samples], **more: int) -> Stats:
    dt = sum(int(b.dt_us.sum()) for b in batches)
    charge = sum(int(b.shunt.astype(np.int64) @ b.dt_us) for b in batches)
    voltage = sum(int((b.bus >> 3).astype(np.int64) @ b.dt_us) for b in batches)
    energy = sum(int((b.shunt.astype(np.int64) * (b.bus >> 3)) @ b.dt_us) for b in batches)
    count = sum(len(b.shunt) for b in batches)
    return Stats(0, 1, seq, dt, dt, count, dt, charge, voltage, energy, **more)


def heard(batches: list[Samples], *more: object, closing: dict[str, int] | None = None, **fields) -> Heard:
    config = PROFILES["balanced"].config.register()
    hello = Hello((0, 2, 0), 1, 0, 2, (SensorRecord(0x40, config, 0, KNOWN),), PROTOCOL, features=2)
    seen = Observation()
    seen(0.0, stats(0, []))
    for message in [*batches, *more]:
        seen(0.0, message)
    seen(0.0, stats(len(batches), batches, **closing or {}))
    clock = ClockLine(20.0, 10.0, 1e-4, 9)
    return Heard(**{"before": hello, "after": hello, "seen": seen, "damaged": 0, "seconds": 1.0, "clock": clock,
                    "today": DAY} | fields)  # fmt: skip


GOOD = [batch(k, [1000 + k, 1001, 999, 1002]) for k in range(5)]


def test_sound_messages_pass():
    assert complaints(examine(heard(GOOD))) == set()


@pytest.mark.parametrize(
    ("one", "check", "verdict"),
    [
        (heard(GOOD, closing={"i2c_errors": 1}), "sums", "FAIL"),
        (heard(GOOD, closing={"restores": 1}), "config", "FAIL"),
        (heard(GOOD, closing={"tx_dropped": 2}), "line", "FAIL"),
        (heard(GOOD, closing={"rx_errors": 2}), "line", "FAIL"),
        (heard(GOOD, damaged=1), "line", "FAIL"),
        (heard([*GOOD[:2], replace(GOOD[2], flags=1), *GOOD[3:]]), "line", "FAIL"),
        (heard([]), "rate", "FAIL"),
        (heard([*GOOD[:4], batch(4, [0, 0, 0, 0], bus=0)]), "values", "FAIL"),
        (heard([*GOOD[:4], batch(4, [-1, -1, -1, -1], bus=0xFFFF)]), "values", "FAIL"),
        (heard([*GOOD[:4], batch(4, [8000] * 4)]), "values", "FAIL"),
        (heard([batch(k, [1000] * 4) for k in range(5)]), "values", "WARN"),
        (heard(GOOD, clock=None), "clock", "FAIL"),
        (heard(GOOD, clock=ClockLine(0.0, 10.0, 8e-3, 9)), "clock", "FAIL"),
        (heard(GOOD, clock=ClockLine(-9000.0, 10.0, 1e-4, 9)), "clock", "FAIL"),
        (heard(GOOD, today=DAY + 700), "calibration", "WARN"),
        (heard(GOOD, today=DAY - 700), "calibration", "WARN"),
    ],
)
def test_each_sign_of_trouble_has_its_finding(one, check, verdict):
    found = examine(one)
    assert verdicts(found)[check] == verdict
    assert complaints(found) - {"rate", "sums"} <= {check}


def test_sums_that_differ_by_one_are_noticed():
    good = heard(GOOD)
    log = good.seen.log(0)
    assert log.sums_agree() is True
    log.stats[-1] = replace(log.stats[-1], energy=log.stats[-1].energy + 1)
    assert log.sums_agree() is False
    assert verdicts(examine(good))["sums"] == "FAIL"


def test_sums_are_compared_over_the_wrap_of_every_counter():
    seen, last = Observation(), 2**63 - 5
    seen(0.0, Stats(0, 1, 0xFFFF, 0, 0, 0, last, last, last, last))
    for samples in (batch(0xFFFF, [7]), batch(0, [-3])):
        seen(0.0, samples)
    dt = 2 * 4792
    wrapped = [(last + more + 2**63) % 2**64 - 2**63 for more in (dt, 4792 * 4, dt * 1250, 4792 * 4 * 1250)]
    seen(0.0, Stats(0, 1, 1, 0, 0, 2, *wrapped))
    assert seen.log(0).sums_agree() is True
    assert seen.log(0).lost == 0


def test_lost_batches_and_restarts_are_counted():
    seen = Observation()
    for samples in (batch(0xFFFE, [1]), batch(1, [1]), batch(2, [1])):
        seen(0.0, samples)
    assert seen.log(0).lost == 2
    seen(0.0, batch(0, [1], boot=2))
    assert (seen.restarts, seen.log(0).lost, len(seen.log(0).batches)) == (1, 0, 1)


def test_the_clock_line_finds_drift_within_its_limit():
    rng = np.random.default_rng(8)
    exchanges = []
    for sent_s in np.arange(0, 20, 0.5):
        there, back = rng.uniform(1e-4, 2e-3, 2)
        tick = round((sent_s + there) * 1e6 * (1 + 300e-6)) + 12345
        exchanges.append(Exchange(sent_s, tick, tick, sent_s + there + back))
    line = fit_clock(exchanges)
    assert line is not None
    assert abs(line.drift_ppm - 300) <= line.drift_limit_ppm < 150
    assert 1e-4 <= line.limit_s <= 1e-3
    assert fit_clock(exchanges[:1]) is None


def test_nominal_rates_without_dither_are_one_figure():
    assert nominal_rates(Config(bus_adc=3, shunt_adc=12), dithered=False) == (pytest.approx(110.6, abs=0.1),) * 2
    slow, fast = nominal_rates(Config(bus_adc=1, shunt_adc=3), dithered=True)
    assert 1200 < slow < fast < 1471
