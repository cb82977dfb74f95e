"""One suite over the Python twin, the C core and the board's image: the same commands get the same answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protos.bridge.commands import (
    ALL_SENSORS,
    BOOTLOADER_KEY,
    HANG_KEY,
    REBOOT_KEY,
    Command,
    calibration_command,
    command,
    sync_command,
    uid_command,
)
from protos.bridge.framing import encode_frame
from protos.bridge.hello import PROTOCOL, Feature, Hello
from protos.bridge.messages import Ack, Samples, Stats, Status, SyncReply
from protos.energy.ina219 import PROFILES, Calibration, Config, watts

CALIBRATION = Calibration(5, 10_000, -7, 8, 9)
HALF_BLIND = Config(pga=1, bus_adc=3, shunt_adc=3).register()


def kinds(messages):
    """Messages that answer something: neither samples nor the statistics of each second."""
    return [m for m in messages if not isinstance(m, (Samples, Stats))]


def hello_of(rig) -> Hello:
    (hello,) = kinds(rig.ask(command(Command.GET_HELLO)))
    assert isinstance(hello, Hello)
    return hello


def settle(rig):
    return rig.run(0.5)


def test_it_greets_at_boot_and_on_request(rig):
    first = next(m for m in rig.run(0.5))
    assert isinstance(first, Hello)
    assert first.protocol == PROTOCOL
    assert Feature.CONFIG | Feature.PERSISTENT | Feature.HANG in Feature(first.features)
    assert [(s.address, s.state) for s in first.sensors] == [(0x40, 0), (0x41, 0)]
    again = hello_of(rig)
    assert (again.boot, again.uid, again.sensors) == (first.boot, first.uid, first.sensors)
    assert again.tick > first.tick


def test_after_boot_it_is_balanced_in_the_80_mv_range(rig):
    settle(rig)
    hello = hello_of(rig)
    assert hello.profile == PROFILES["balanced"].code
    assert [s.config for s in hello.sensors] == [PROFILES["balanced"].config.register()] * 2


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_set_and_keeps_the_range(rig, name):
    settle(rig)
    rig.ask(command(Command.SET_RANGE, 1, 2))
    ack, hello = kinds(rig.ask(command(Command.SET_PROFILE, PROFILES[name].code)))
    assert (ack.command, ack.status, hello.profile) == (Command.SET_PROFILE, Status.DONE, PROFILES[name].code)
    assert [Config.of(s.config).pga for s in hello.sensors] == [1, 2]
    assert Config.of(hello.sensors[0].config) == PROFILES[name].config
    batches = [m for m in rig.run(0.4) if isinstance(m, Samples)]
    assert {m.profile for m in batches} == {PROFILES[name].code}


def test_sync_gives_the_nonce_back_with_two_stamps(rig):
    settle(rig)
    (reply,) = kinds(rig.ask(sync_command(0xDEADBEEF)))
    assert isinstance(reply, SyncReply)
    assert reply.nonce == 0xDEADBEEF
    assert 400_000 < reply.received <= reply.sent < 700_000 + 10_000


def test_flush_sends_what_is_there_then_the_sums_up_to_it(rig):
    settle(rig)
    messages = [m for m in rig.ask(command(Command.FLUSH, 0), 0.04) if m.sensor == 0]
    place = next(n for n, m in enumerate(messages) if isinstance(m, Stats))
    samples, stats = messages[place - 1], messages[place]
    assert isinstance(samples, Samples)
    assert stats.seq == samples.seq + 1
    got = rig.ask(command(Command.FLUSH, ALL_SENSORS), 0.04)
    assert {m.sensor for m in got if isinstance(m, Stats)} == {0, 1}


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (command(Command.FLUSH, 2), Status.BAD_VALUE),
        (command(Command.SET_PROFILE, 99), Status.BAD_VALUE),
        (command(Command.SET_PROFILE, 0), Status.BAD_VALUE),
        (command(Command.REBOOT, 1), Status.REFUSED),
        (command(Command.REBOOT, BOOTLOADER_KEY), Status.REFUSED),
        (calibration_command(2, CALIBRATION), Status.BAD_VALUE),
        (calibration_command(ALL_SENSORS, CALIBRATION), Status.BAD_VALUE),
        (calibration_command(0, Calibration(1, 0)), Status.BAD_VALUE),
        (command(Command.SET_CONFIG, 0, HALF_BLIND, 0), Status.REFUSED),
        (command(Command.SET_CONFIG, 0, HALF_BLIND, 2), Status.BAD_VALUE),
        (command(Command.SET_CONFIG, 0, HALF_BLIND | 0x8000, 1), Status.BAD_VALUE),
        (command(Command.SET_CONFIG, 0, HALF_BLIND & ~7 | 5, 1), Status.BAD_VALUE),
        (command(Command.SET_CONFIG, 0, HALF_BLIND & ~7 | 3, 1), Status.BAD_VALUE),
        (command(Command.SET_CONFIG, 7, PROFILES["energy"].config.register(), 0), Status.BAD_VALUE),
        (command(Command.SET_RANGE, 0, 4), Status.BAD_VALUE),
        (command(Command.SET_RANGE, 3, 0), Status.BAD_VALUE),
        (b"\x99", Status.UNKNOWN),
        (b"\x80", Status.UNKNOWN),
        (b"\x8a\x00\x00", Status.UNKNOWN),
        (b"\x86\x00\x01", Status.UNKNOWN),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(rig, payload, status):
    settle(rig)
    before = hello_of(rig)
    (ack,) = kinds(rig.ask(payload))
    assert ack == Ack(payload[0], status, before.boot)
    after = hello_of(rig)
    assert (after.sensors, after.profile, after.uid, after.flags & 2) == (before.sensors, before.profile, before.uid, 0)


def test_a_setting_of_one_s_own_lasts_until_the_next_boot(rig):
    settle(rig)
    config = Config(bus_range_32v=True, pga=3, bus_adc=9, shunt_adc=15).register()
    ack, hello = kinds(rig.ask(command(Command.SET_CONFIG, 1, config, 0)))
    assert ack.status == Status.DONE
    assert (hello.profile, hello.flags & 2) == (0, 0)
    assert [s.config for s in hello.sensors] == [PROFILES["balanced"].config.register(), config]
    batches = [m for m in rig.run(2.5) if isinstance(m, Samples) and m.sensor == 1]
    assert batches[0].dt_shift == 1
    assert np.concatenate([m.dt_us for m in batches]).mean() == pytest.approx(69_160, rel=0.1)
    assert [Config.of(s.config).pga for s in rig.power_cycle()[0].sensors] == [1, 1]


def test_the_setting_that_sees_half_the_time_must_be_forced_and_is_flagged(rig):
    settle(rig)
    _, hello = kinds(rig.ask(command(Command.SET_CONFIG, ALL_SENSORS, HALF_BLIND, 1)))
    assert hello.flags & 2
    assert [s.config for s in hello.sensors] == [HALF_BLIND] * 2
    _, hello = kinds(rig.ask(command(Command.SET_PROFILE, PROFILES["energy"].code)))
    assert not hello.flags & 2


def test_calibration_range_and_uid_outlast_a_power_cut(rig):
    settle(rig)
    for payload in (
        calibration_command(1, CALIBRATION),
        command(Command.SET_RANGE, 0, 3),
        uid_command(b"bench-07"),
    ):
        ack, _ = kinds(rig.ask(payload, 0.5))
        assert ack.status == Status.DONE
    # A frame of the boot before may have been on the line when the power failed.
    hello = next(message for message in rig.power_cycle() if isinstance(message, Hello))
    assert hello.uid == b"bench-07"
    assert [s.calibration for s in hello.sensors] == [Calibration(), CALIBRATION]
    assert [Config.of(s.config).pga for s in hello.sensors] == [3, 1]


@pytest.mark.parametrize("key", [REBOOT_KEY, HANG_KEY])
def test_a_restart_has_a_boot_number_of_its_own_and_begins_at_zero(rig, key):
    settle(rig)
    before = hello_of(rig)
    assert kinds(rig.ask(command(Command.REBOOT, key), 0.0)) == []
    messages = rig.run(2.5)
    hello = messages[0]
    assert isinstance(hello, Hello)
    assert hello.boot != before.boot
    assert hello.boots == before.boots + 1
    assert hello.tick < 700_000
    assert next(m for m in messages if isinstance(m, Samples)).seq == 0


def test_fields_of_a_later_minor_version_are_ignored(rig):
    settle(rig)
    ack, _ = kinds(rig.ask(command(Command.SET_RANGE, 0, 2) + b"later"))
    assert ack.status == Status.DONE


def test_damage_on_the_line_is_counted_and_answered_by_nobody(rig):
    settle(rig)
    frame = bytearray(encode_frame(command(Command.SET_PROFILE, 1)))
    frame[3] ^= 0x10
    assert kinds(rig.line(bytes(frame))) == []
    assert kinds(rig.line(b"\x00\x09\x09\x00" + b"x" * 300 + b"\x00")) == []
    stats = next(m for m in rig.ask(command(Command.FLUSH, 0)) if isinstance(m, Stats))
    assert stats.rx_errors == 3
    assert hello_of(rig).profile == PROFILES["balanced"].code


def test_sums_are_those_of_the_batches_before_them(rig):
    time = charge = voltage = energy = count = 0
    seen = 0
    for message in [*rig.run(2.2), *rig.ask(command(Command.SET_PROFILE, 3)), *rig.run(2.0)]:
        if isinstance(message, Samples) and message.sensor == 1:
            shunt, bus = message.shunt.astype(np.int64), (message.bus >> 3).astype(np.int64)
            time += int(message.dt_us.sum())
            charge += int(shunt @ message.dt_us)
            voltage += int(bus @ message.dt_us)
            energy += int((shunt * bus) @ message.dt_us)
            count += len(shunt)
            end = message.t0 + int(message.dt_us.sum())
        if isinstance(message, Stats) and message.sensor == 1:
            assert (message.time, message.charge, message.voltage, message.energy) == (time, charge, voltage, energy)
            assert (message.samples, message.end) == (count, end)
            seen += 1
    assert seen >= 3
    assert count > 1000


def test_batches_join_and_say_what_the_load_draws(rig):
    for sensor, power_w in ((0, 4.0), (1, 1.0)):
        batches = [m for m in rig.run(1.0) if isinstance(m, Samples) and m.sensor == sensor]
        for before, after in itertools.pairwise(batches):
            assert after.seq == before.seq + 1
            assert after.t0 == before.t0 + int(before.dt_us.sum())
        for batch in batches:
            assert watts(batch.shunt, batch.bus, Calibration(1, 20_000)) == pytest.approx(power_w, rel=1e-3)
