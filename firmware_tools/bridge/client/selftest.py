"""What a self-test of a bridge looks at, and where it draws the lines. No port: messages in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from firmware_tools.bridge.client.clock_line import ClockLine
from firmware_tools.bridge.client.observation import Observation, SensorLog
from firmware_tools.bridge.client.settings import expected_config, profile_name
from protos.bridge.hello import PROTOCOL, Feature, Hello, SensorRecord
from protos.energy.ina219 import (
    BUS_STEP_V,
    CONVERSION_S,
    LEAST_BOARD_V,
    SHUNT_STEP_V,
    Config,
    Mode,
    sample_flags,
)
from protos.energy.trace import SampleFlag

__all__ = ["Finding", "Heard", "examine", "failed", "nominal_rates"]

Verdict = Literal["PASS", "WARN", "FAIL"]

RATE_TOLERANCE = 0.12
"""The sensor's clock is within 10 % of nominal (data sheet); the rest is polling."""
RESTART_S = 1e-4
LONG_SAMPLE_S = 3e-3
DRIFT_LIMIT_PPM = 5000.0
"""Ceramic resonators of Uno boards are within 0.5 %."""
SYNC_LIMIT_S = 5e-3
OLD_DAYS = 365
STATES = {0: "working", 1: "absent", 2: "failing"}
FLAG_CHANGED, FLAG_FORCED = 1, 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result; ``sensor`` None is the bridge as a whole, ``fix`` is empty when all is well."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""
    sensor: int | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What the examination was fed.

    Args:
        before, after: HELLO at the begin and the end.
        seen: everything between.
        damaged: frames that the check threw away, with messages that made no sense.
        seconds: of listening.
        clock: line through the exchanges; None when too few came back.
        today: days since 1970-01-01.
        sensors: how many there should be; None: at least one.
        uncalibrated: a sensor without calibration is no failure.
    """

    before: Hello
    after: Hello
    seen: Observation
    damaged: int
    seconds: float
    clock: ClockLine | None
    today: int
    sensors: int | None = None
    uncalibrated: bool = False


def examine(heard: Heard) -> list[Finding]:
    """Every finding, the bridge's first, then those of each sensor."""
    findings = [_handshake(heard), *_sensors(heard), _restarts(heard), _line(heard), _clock(heard)]
    for number, sensor in enumerate(heard.before.sensors):
        log = heard.seen.log(number)
        findings += [_readback(heard, number), _calibration(heard, number, sensor)]
        if sensor.state == 0:
            findings.append(_rate(heard, number, log))
        if len(log.shunt):
            findings += [*_values(number, sensor, log), _sums(number, log)]
            findings += [_bus(number, Config.of(sensor.config), log), _direction(number, sensor, log)]
    return findings


def _handshake(heard: Heard) -> Finding:
    hello = heard.before
    spoken, firmware = ".".join(map(str, hello.protocol)), ".".join(map(str, hello.firmware))
    detail = f"protocol {spoken}, firmware {firmware}, uid {hello.uid.hex()}"
    if hello.flags & FLAG_FORCED:
        fix = "firmware-tools bridge config --profile balanced"
        return Finding("handshake", "WARN", "a setting that sees half of the time is forced", fix)
    if hello.flags & FLAG_CHANGED:
        return Finding("handshake", "WARN", f"{detail}; built from changed sources", "firmware-tools bridge flash")
    if hello.protocol[1] < PROTOCOL[1]:
        return Finding("handshake", "WARN", f"{detail}; older than {PROTOCOL[0]}.{PROTOCOL[1]}", "bridge flash")
    return Finding("handshake", "PASS", detail)


def _sensors(heard: Heard) -> Iterator[Finding]:
    found = heard.before.sensors
    places = ", ".join(f"{s.address:02x}h {STATES.get(s.state, s.state)}" for s in found)
    working = sum(s.state == 0 for s in found)
    wanted = len(found) if heard.sensors is None else heard.sensors
    if working and working >= wanted and working == len(found):
        yield Finding("sensors", "PASS", places)
        return
    what = places if wanted == len(found) else f"{places}; {wanted} wanted"
    yield Finding("sensors", "FAIL", what, "check supply, SDA, SCL and address of the sensor; then restart the bridge")


def _restarts(heard: Heard) -> Finding:
    if heard.before.boot == heard.after.boot and not heard.seen.restarts:
        return Finding("no restart", "PASS", f"boot {heard.before.boot}")
    return Finding("no restart", "FAIL", "the bridge restarted meanwhile", "check its supply and the USB cable")


def _line(heard: Heard) -> Finding:
    lost = sum(log.lost for log in heard.seen.sensors.values())
    dropped = sum(log.dropped + log.increase("tx_dropped") for log in heard.seen.sensors.values())
    errors = max((log.increase("rx_errors") for log in heard.seen.sensors.values()), default=0)
    detail = f"{heard.damaged} damaged frames, {lost} batches lost, {dropped} dropped, {errors} damaged commands"
    if heard.damaged or lost or dropped or errors:
        return Finding("line", "FAIL", detail, "use a shorter or better USB cable, no hub; look at the host's load")
    return Finding("line", "PASS", f"{detail} in {heard.seconds:.1f} s")


def _clock(heard: Heard) -> Finding:
    clock = heard.clock
    if clock is None:
        return Finding("clock", "FAIL", "SYNC is not answered", "firmware-tools bridge flash")
    detail = (
        f"within {clock.limit_s * 1e3:.2f} ms, drift {clock.drift_ppm:+.0f} +-{clock.drift_limit_ppm:.0f} ppm, "
        f"{clock.exchanges} exchanges"
    )
    if clock.limit_s > SYNC_LIMIT_S:
        fix = "FTDI: echo 1 | sudo tee /sys/bus/usb-serial/devices/ttyUSB0/latency_timer"
        return Finding("clock", "FAIL", detail, fix)
    if abs(clock.drift_ppm) > DRIFT_LIMIT_PPM + clock.drift_limit_ppm:
        return Finding("clock", "FAIL", detail, "the board's oscillator is bad, or not of 16 MHz: change the board")
    return Finding("clock", "PASS", detail)


def _readback(heard: Heard, number: int) -> Finding:
    sensor = heard.after.sensors[number] if number < len(heard.after.sensors) else heard.before.sensors[number]
    restores = heard.seen.log(number).increase("restores")
    wanted = expected_config(heard.after, sensor)
    found = Config.of(sensor.config)
    detail = f"{sensor.config:04x}h, profile {profile_name(heard.after.profile)}"
    if sensor.state:
        detail = f"{detail}; {STATES.get(sensor.state, 'failing')}"
        return Finding("config", "FAIL", detail, "check the wires of the sensor", number)
    if restores:
        what = f"{detail}; the sensor forgot its setting {restores} times"
        return Finding("config", "FAIL", what, "check the sensor's supply: 100 nF at VCC, short wires", number)
    if found.mode is not Mode.BOTH_CONTINUOUS or (wanted is not None and found != wanted):
        should = "" if wanted is None else f", not {wanted.register():04x}h"
        return Finding("config", "FAIL", f"{detail}{should}", "firmware-tools bridge config --profile balanced", number)
    return Finding("config", "PASS", detail, sensor=number)


def _calibration(heard: Heard, number: int, sensor: SensorRecord) -> Finding:
    calibration, fix = sensor.calibration, f"firmware-tools bridge calibrate --sensor {number}"
    if not calibration.id:
        verdict: Verdict = "PASS" if heard.uncalibrated else "FAIL"
        what = f"none; shunt {calibration.shunt_uohm} uohm"
        if calibration.is_default:
            what = f"{what}, the firmware's default, which nobody has confirmed"
            fix = f"{fix}; or say ?shunt=OHM wherever this sensor is opened"
        return Finding("calibration", verdict, what, fix, number)
    age = heard.today - calibration.day
    when = "day unknown" if not calibration.day else f"{age} days old"
    detail = f"{calibration.id:08x}, {when}, {calibration.offset_nv} nV, {calibration.gain_ppm:+d} ppm"
    if not heard.before.features & Feature.PERSISTENT:
        return Finding("calibration", "WARN", f"{detail}; lost at a power cut", "bridge flash", number)
    if not calibration.day or age > OLD_DAYS or age < 0:
        return Finding("calibration", "WARN", detail, fix, number)
    return Finding("calibration", "PASS", detail, sensor=number)


def nominal_rates(config: Config, *, dithered: bool) -> tuple[float, float]:
    """Slowest and fastest rate of a sensor whose clock is right, Hz; one figure without dither.

    With dither the bus resolution is 11 or 12 bits by turns, or 10 and 11, and restarts take time: after each sample
    over 3 ms a pause of up to a fifteenth of it, 1/30 on average, and 0.1 ms of the I2C bus.
    """
    if not dithered:
        return 1 / config.period_s, 1 / config.period_s
    codes = {1: (1, 2), 2: (2, 3), 3: (2, 3)}.get(config.bus_adc, (config.bus_adc,) * 2)
    fast_s, slow_s = (config.shunt_s + CONVERSION_S[code] for code in codes)
    pause_s = slow_s / 30 + RESTART_S if slow_s > LONG_SAMPLE_S else 0.0
    return 1 / (slow_s + pause_s), 1 / fast_s


def _rate(heard: Heard, number: int, log: SensorLog) -> Finding:
    config = Config.of(heard.before.sensors[number].config)
    span_us, time_us, count = log.increase("tick"), log.increase("time"), log.increase("samples")
    if count <= 0 or span_us <= 0 or not len(log.shunt):
        return Finding("rate", "FAIL", "no samples", "check the wires of the sensor; restart the bridge", number)
    slowest_hz, fastest_hz = nominal_rates(config, dithered=bool(heard.before.features & Feature.DITHER))
    rate_hz, covered = count / (time_us * 1e-6), time_us / span_us
    nominal = f"{slowest_hz:.0f} to {fastest_hz:.0f} Hz" if slowest_hz < fastest_hz else f"{fastest_hz:.0f} Hz"
    detail = f"{rate_hz:.1f} Hz, nominal {nominal}, {covered:.1%} of the time"
    within = slowest_hz * (1 - RATE_TOLERANCE) <= rate_hz <= fastest_hz * (1 + RATE_TOLERANCE)
    if not within or covered < 1 - RATE_TOLERANCE:
        fix = "check the pull-ups and length of SDA and SCL; a sensor outside its data sheet is to be replaced"
        return Finding("rate", "FAIL", detail, fix, number)
    return Finding("rate", "PASS", detail, sensor=number)


def _values(number: int, sensor: SensorRecord, log: SensorLog) -> Iterator[Finding]:
    shunt, bus = log.shunt, log.bus
    clipped = int(np.count_nonzero(sample_flags(shunt, bus, Config.of(sensor.config)) & SampleFlag.CLIPPED))
    words = shunt.view(np.uint16)
    dead = np.isin(words, (0x0000, 0xFFFF)) & np.isin(bus, (0x0000, 0xFFFF))
    if dead.any():
        what = f"{int(dead.sum())} of {len(bus)} samples are all zeros or all ones"
        yield Finding("values", "FAIL", what, "the bus is shorted or open: check SDA and SCL", number)
    elif clipped:
        what = f"{clipped} of {len(bus)} samples are at the end of the range"
        yield Finding("values", "FAIL", what, "firmware-tools bridge config --range 160mV", number)
    elif len(shunt) > 1 and np.ptp(words) == 0 and np.ptp(bus) == 0:
        # A steady load inside one step of the register looks just the same.
        what = f"all {len(bus)} samples are alike"
        yield Finding(
            "values", "WARN", what, "change the load and test again: if they stay, the sensor is stuck", number
        )
    else:
        yield Finding("values", "PASS", f"{len(np.unique(words))} different in {len(words)} samples", sensor=number)


def _sums(number: int, log: SensorLog) -> Finding:
    errors = log.increase("i2c_errors")
    agree = log.sums_agree()
    if agree is False:
        return Finding("sums", "FAIL", "STATS are not the sums of the samples", "firmware-tools bridge flash", number)
    if errors:
        return Finding("sums", "FAIL", f"{errors} errors on I2C", "check SDA, SCL and their pull-ups", number)
    if agree is None:
        return Finding("sums", "FAIL", "no two STATS with all samples between them", "see the line's losses", number)
    return Finding("sums", "PASS", "STATS and samples agree exactly", sensor=number)


def _bus(number: int, config: Config, log: SensorLog) -> Finding:
    bus_v = float(np.mean(log.bus >> 3)) * BUS_STEP_V
    flags = sample_flags(log.shunt, log.bus, config)
    # Single values are the affair of "values": bits that changed on I2C.
    full, low = (np.count_nonzero(flags & bit) > len(flags) / 2 for bit in (SampleFlag.BUS_FULL, SampleFlag.BUS_LOW))
    if full:
        fix = "flash firmware of protocol 1.1, with which the host sets the 32 V range; over 26 V use another sensor"
        if not config.bus_range_32v:
            fix = f"firmware-tools bridge config --register 0x{config.wide().register():04x}; a meter sets it itself"
        return Finding("bus voltage", "FAIL", f"{bus_v:.3f} V is the end of the range: bus-full", fix, number)
    if low:
        fix = "put the sensor in the plus line, connect IN- to the load, and the grounds to each other"
        what = f"{bus_v:.3f} V powers no board (least {LEAST_BOARD_V:g} V): bus-low"
        return Finding("bus voltage", "FAIL", what, fix, number)
    return Finding("bus voltage", "PASS", f"{bus_v:.3f} V", sensor=number)


def _direction(number: int, sensor: SensorRecord, log: SensorLog) -> Finding:
    """Current that flows back, by more than the zero may be wrong, is a sensor connected the wrong way round."""
    calibration, config = sensor.calibration, Config.of(sensor.config)
    mean_v = float(np.mean(log.shunt)) * SHUNT_STEP_V - calibration.offset_nv * 1e-9
    amperes = mean_v * calibration.amperes_per_volt
    if amperes < -calibration.errors(config, 1.0).offset_a:
        return Finding("direction", "FAIL", f"{amperes:.4f} A: reversed", "swap VIN+ and VIN-", number)
    return Finding("direction", "PASS", f"{amperes:.4f} A", sensor=number)


def failed(findings: Sequence[Finding], *, strict: bool) -> list[Finding]:
    """Those that make the test fail."""
    return [finding for finding in findings if finding.verdict == "FAIL" or (strict and finding.verdict == "WARN")]
