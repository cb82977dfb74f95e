"""The simulated sensor and device, without a wire."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import ConstantLoad, Load, SquareLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.bridge.commands import ALL_SENSORS, REBOOT_KEY, Command, calibration_command, command, sync_command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello, ResetCause
from protos.bridge.messages import Ack, Samples, Stats, Status, SyncReply, decode
from protos.energy.ina219 import PROFILES, Calibration, watts


def make_sensor(load: Load, *, errors: SensorErrors | None = None, profile="balanced", seed=1) -> SimulatedIna219:
    return SimulatedIna219(
        load,
        supply_v=5.0,
        shunt_ohm=0.02,
        errors=errors or SensorErrors(),
        profile=PROFILES[profile],
        rng=np.random.default_rng(seed),
        start_s=0.0,
    )


def make_device(*loads: Load, **options) -> Device:
    channels = [Channel(make_sensor(load), Calibration(9, 20_000), 0x40 + n) for n, load in enumerate(loads)]
    return Device(channels, profile=PROFILES["balanced"], now_s=0.0, uid=b"12345678", **options)


def messages(data: bytes):
    return [decode(payload) for payload in FrameParser().feed(data)]


def run(device: Device, begin_s: float, end_s: float, step_s: float = 0.01):
    out = b""
    for now_s in np.arange(begin_s, end_s, step_s):
        out += device.advance(float(now_s))
    return messages(out)


def ask(device: Device, payload: bytes, now_s: float):
    return messages(device.receive(encode_frame(payload), now_s))


def test_a_sample_is_the_mean_over_its_own_shunt_window():
    load = SquareLoad(0.0, 10.0, 0.008, 0.25)
    sensor = make_sensor(load)
    batch = sensor.take(sensor.ready(1.0))
    measured_w = watts(batch.shunt, batch.bus, Calibration(1, 20_000))
    begins = batch.end_s - sensor.config.period_s
    exact_w = (load.energy_j(begins + sensor.config.shunt_s) - load.energy_j(begins)) / sensor.config.shunt_s
    assert np.abs(measured_w - exact_w).max() <= 5.0 * 0.5 * 10e-6 / 0.02 + 1e-9
    assert measured_w.std() > 0.5


def test_a_calibration_takes_the_sensor_s_own_errors_away():
    errors = SensorErrors(offset_v=53.2e-6, gain=0.011, noise_v=0.0)
    batch = make_sensor(ConstantLoad(4.0), errors=errors).take(50)
    record = errors.calibrated(1, 0.02, day=0)
    assert watts(batch.shunt, batch.bus, Calibration(0, 20_000)).mean() == pytest.approx(4.0, rel=0.02)
    assert watts(batch.shunt, batch.bus, Calibration(0, 20_000)).mean() != pytest.approx(4.0, rel=0.005)
    assert watts(batch.shunt, batch.bus, record).mean() == pytest.approx(4.0, rel=0.001)


@pytest.mark.parametrize("oscillator", [-0.1, 0.0, 0.1])
def test_the_oscillator_sets_the_sample_rate(oscillator):
    sensor = make_sensor(ConstantLoad(1.0), errors=SensorErrors(oscillator=oscillator))
    assert sensor.ready(10.0) == pytest.approx(10 * 208.7 / (1 + oscillator), abs=1)


def test_current_beyond_the_range_is_clipped():
    batch = make_sensor(ConstantLoad(30.0)).take(3)
    assert batch.shunt.tolist() == [8000] * 3


def test_the_device_greets_at_boot_then_streams_and_gives_statistics_each_second():
    device = make_device(ConstantLoad(4.0))
    got = run(device, 0.0, 5.0)
    assert isinstance(got[0], Hello)
    assert got[0].reset == ResetCause.POWER_ON
    batches = [m for m in got if isinstance(m, Samples)]
    assert [m.seq for m in batches] == list(range(len(batches)))
    assert sum(len(m.dt_us) for m in batches) == pytest.approx(4.7 * 208.7, abs=20)
    assert len([m for m in got if isinstance(m, Stats)]) == 4


def test_statistics_are_the_exact_sums_of_the_batches_before_them():
    device = make_device(SquareLoad(1.0, 5.0, 0.013))
    time = charge = voltage = energy = count = end = 0
    for message in run(device, 0.0, 4.5):
        if isinstance(message, Samples):
            shunt, bus = message.shunt.astype(np.int64), (message.bus >> 3).astype(np.int64)
            time += int(message.dt_us.sum())
            charge += int(shunt @ message.dt_us)
            voltage += int(bus @ message.dt_us)
            energy += int((shunt * bus) @ message.dt_us)
            count += len(shunt)
            end = message.t0 + int(message.dt_us.sum())
        if isinstance(message, Stats):
            assert (message.time, message.charge, message.voltage, message.energy) == (time, charge, voltage, energy)
            assert (message.samples, message.end) == (count, end)
    assert count > 700


def test_batches_join_without_a_gap():
    got = [m for m in run(make_device(ConstantLoad(4.0), drift_ppm=90.0), 0.0, 4.0) if isinstance(m, Samples)]
    for before, after in itertools.pairwise(got):
        assert after.t0 == before.t0 + int(before.dt_us.sum())


def test_ticks_run_with_the_drift_of_the_bridge():
    device = make_device(ConstantLoad(4.0), drift_ppm=80.0)
    run(device, 0.0, 0.5)
    (reply,) = ask(device, sync_command(7), 100.0)
    assert isinstance(reply, SyncReply)
    assert reply.nonce == 7
    assert reply.received == 100_008_000


def test_flush_sends_what_is_there_and_the_statistics():
    device = make_device(ConstantLoad(4.0))
    run(device, 0.0, 0.4)
    samples, stats = ask(device, command(Command.FLUSH, 0), 0.45)
    assert isinstance(samples, Samples)
    assert 1 <= len(samples.dt_us) <= 16
    assert isinstance(stats, Stats)
    assert stats.seq == samples.seq + 1


def test_commands_are_answered_as_the_table_says():
    device = make_device(ConstantLoad(4.0), ConstantLoad(2.0))
    run(device, 0.0, 0.5)
    assert [type(m) for m in ask(device, command(Command.GET_HELLO), 0.6)] == [Hello]
    assert [m.sensor for m in ask(device, command(Command.FLUSH, ALL_SENSORS), 0.6) if isinstance(m, Stats)] == [0, 1]
    (refused,) = ask(device, command(Command.FLUSH, 3), 0.6)
    assert (refused.command, refused.status) == (Command.FLUSH, Status.BAD_VALUE)
    (refused,) = ask(device, command(Command.SET_PROFILE, 99), 0.6)
    assert refused.status == Status.BAD_VALUE
    *_, ack, hello = ask(device, command(Command.SET_PROFILE, PROFILES["energy"].code), 0.6)
    assert isinstance(ack, Ack)
    assert hello.profile == PROFILES["energy"].code
    assert hello.sensors[0].config == PROFILES["energy"].config.register()
    ack, hello = ask(device, calibration_command(1, Calibration(5, 10_000, -7, 8, 9)), 0.6)
    assert hello.sensors[1].calibration == Calibration(5, 10_000, -7, 8, 9)
    (unknown,) = ask(device, b"\x99", 0.6)
    assert (unknown.command, unknown.status) == (0x99, Status.UNKNOWN)
    (refused,) = ask(device, command(Command.REBOOT, 1), 0.6)
    assert refused.status == Status.REFUSED


def test_a_reboot_changes_the_boot_number_and_starts_ticks_and_sums_anew():
    device = make_device(ConstantLoad(4.0))
    first = run(device, 0.0, 2.0)[0]
    assert ask(device, command(Command.REBOOT, REBOOT_KEY), 2.0) == []
    assert ask(device, command(Command.GET_HELLO), 2.1) == []
    hello, *rest = run(device, 2.1, 4.0)
    assert (hello.boot, hello.boots) == (first.boot + 1, 2)
    assert hello.tick < 400_000
    assert next(m for m in rest if isinstance(m, Samples)).seq == 0
    assert next(m for m in rest if isinstance(m, Stats)).samples < 250


def test_several_sensors_are_told_apart():
    got = run(make_device(ConstantLoad(4.0), ConstantLoad(1.0)), 0.0, 3.0)
    mean_w = {
        sensor: np.concatenate(
            [
                watts(m.shunt, m.bus, Calibration(1, 20_000))
                for m in got
                if isinstance(m, Samples) and m.sensor == sensor
            ]
        ).mean()
        for sensor in (0, 1)
    }
    assert mean_w == pytest.approx({0: 4.0, 1: 1.0}, rel=1e-3)


def test_one_seed_gives_one_stream():
    def stream(seed: int) -> bytes:
        sensor = make_sensor(ConstantLoad(4.0), errors=SensorErrors(noise_v=2e-5), seed=seed)
        device = Device([Channel(sensor, Calibration(1, 20_000))], profile=PROFILES["balanced"], now_s=0.0)
        return b"".join(device.advance(now_s / 100) for now_s in range(300))

    assert stream(4) == stream(4)
    assert stream(4) != stream(5)
