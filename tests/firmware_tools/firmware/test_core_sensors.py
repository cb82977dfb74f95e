"""The C core and sensors that go away, forget their setting, or hold the bus."""

from __future__ import annotations

import numpy as np
import pytest
from core_rigs import CoreRig

from protos.bridge.commands import ALL_SENSORS, Command, calibration_command, command, sync_command
from protos.bridge.framing import encode_frame
from protos.bridge.hello import Feature, Hello
from protos.bridge.messages import Marker, Samples, Stats
from protos.energy.ina219 import PROFILES, Calibration, Config

WORKING, ABSENT, FAILING = range(3)


def stats_of(core: CoreRig, sensor: int) -> Stats:
    return next(m for m in core.ask(command(Command.FLUSH, sensor)) if isinstance(m, Stats) and m.sensor == sensor)


def samples_of(messages, sensor: int) -> list[Samples]:
    return [m for m in messages if isinstance(m, Samples) and m.sensor == sensor]


def test_each_boot_ends_what_a_reset_cut_off(core):
    core.run(0.3)
    assert core.raw.startswith(b"\x00\x00")


def test_a_sensor_that_goes_away_is_said_to_be_absent_and_comes_back(core):
    core.run(0.5)
    core.c.native_absent(1, True)
    messages = core.run(1.0)
    assert next(m for m in messages if isinstance(m, Stats) and m.state == ABSENT).sensor == 1
    assert len(samples_of(messages, 0)) > 10
    core.c.native_absent(1, False)
    messages = core.run(1.0)
    assert [m.state for m in messages if isinstance(m, Stats) and m.sensor == 1][-1] == WORKING
    assert len(samples_of(messages, 1)) > 8


def test_what_an_absent_sensor_missed_is_a_gap_and_not_a_long_sample(core):
    core.run(0.5)
    before = stats_of(core, 0)
    core.c.native_absent(0, True)
    core.run(0.5)
    core.c.native_absent(0, False)
    core.run(0.5)
    after = stats_of(core, 0)
    assert 500_000 < (after.end - before.end) - (after.time - before.time) < 600_000


def test_a_stuck_bus_is_reported_as_a_failing_sensor_and_overcome(core):
    core.run(0.5)
    core.c.native_stuck(True)
    states = {m.sensor: m.state for m in core.run(1.0) if isinstance(m, Stats)}
    assert states == {0: FAILING, 1: FAILING}
    core.c.native_stuck(False)
    states = {m.sensor: m.state for m in core.run(1.2) if isinstance(m, Stats)}
    assert states == {0: WORKING, 1: WORKING}


@pytest.mark.parametrize("profile", [1, 2, 3])
def test_a_sensor_that_forgot_its_setting_is_set_up_again_and_counted(core, profile):
    core.run(0.2)
    core.ask(command(Command.SET_PROFILE, profile))
    core.c.native_brown_out(0)
    core.run(2.2)
    assert stats_of(core, 0).restores == 1
    assert stats_of(core, 1).restores == 0
    (hello,) = [m for m in core.ask(command(Command.GET_HELLO)) if isinstance(m, Hello)]
    assert Config.of(hello.sensors[0].config) == PROFILES[{1: "energy", 2: "balanced", 3: "transient"}[profile]].config


def test_with_no_sensor_one_is_said_to_be_absent_at_40h(core_library):
    core = CoreRig(core_library, sensors=0)
    core.run(0.5)
    (hello,) = [m for m in core.ask(command(Command.GET_HELLO)) if isinstance(m, Hello)]
    assert [(s.address, s.state) for s in hello.sensors] == [(0x40, ABSENT)]


def test_a_known_sensor_keeps_its_place_when_it_is_not_there_at_boot(core):
    core.run(0.3)
    core.ask(calibration_command(1, Calibration(9, 20_000)), 0.5)
    core.c.native_absent(0, True)
    core.c.native_sensor(2, 0x4F, 100, 1250 << 3)
    core.power_cycle()
    (hello,) = [m for m in core.ask(command(Command.GET_HELLO)) if isinstance(m, Hello)]
    assert [(s.address, s.state) for s in hello.sensors] == [(0x40, ABSENT), (0x41, WORKING), (0x4F, WORKING)]
    assert hello.sensors[1].calibration.id == 9


@pytest.mark.parametrize(("profile", "most_lost"), [("energy", 0), ("balanced", 0), ("transient", 5)])
def test_four_sensors_lose_no_energy_and_hardly_a_batch(core_library, profile, most_lost):
    core = CoreRig(core_library, sensors=4)
    core.run(0.5)
    core.ask(command(Command.SET_PROFILE, PROFILES[profile].code))
    before = [stats_of(core, sensor) for sensor in range(4)]
    core.run(3.2)
    for sensor in range(4):
        after = stats_of(core, sensor)
        assert after.tx_dropped - before[sensor].tx_dropped <= most_lost
        assert after.time - before[sensor].time == after.end - before[sensor].end
        assert after.end - before[sensor].end == pytest.approx(3.3e6, rel=0.2)


@pytest.mark.parametrize("name", PROFILES)
def test_the_rhythm_is_never_the_same_and_stays_near_nominal(core_library, name):
    core = CoreRig(core_library, sensors=1)
    core.run(0.3)
    core.ask(command(Command.SET_PROFILE, PROFILES[name].code))
    (hello,) = [m for m in core.ask(command(Command.GET_HELLO)) if isinstance(m, Hello)]
    assert Feature.DITHER in Feature(hello.features)
    dt_us = np.concatenate([m.dt_us for m in samples_of(core.run(6.0), 0)])
    nominal_us = PROFILES[name].config.period_s * 1e6
    assert 0.98 < dt_us.mean() / nominal_us < 1.3
    # Cumulated times leave the grid of their own mean by more than the half of it: no load stays in step.
    wander = np.cumsum(dt_us - dt_us.mean())
    assert np.ptp(wander) > nominal_us / 2
    assert len(np.unique(dt_us)) > 10


def test_one_boot_gives_the_same_stream_as_another(core_library):
    def stream() -> bytes:
        core = CoreRig(core_library)
        core.run(2.0)
        return core.raw

    assert stream() == stream()


def test_a_marker_edge_travels_with_its_tick_and_number(core):
    core.run(0.5)
    at = core.c.native_now()
    core.c.native_marker(1, 41)
    (marker,) = [m for m in core.run(0.05) if isinstance(m, Marker)]
    assert (marker.level, marker.seq, marker.tick) == (1, 41, at)


def test_time_goes_on_past_32_bits(core):
    core.run(0.3)
    for _ in range(4):
        core.c.native_skip(2**30)
        core.run(1.0)
    stats = stats_of(core, 0)
    assert stats.tick > 2**32
    assert 0 < stats.tick - stats.end < 100_000
    batches = samples_of(core.run(0.5), 0)
    assert batches[-1].t0 < 10_000_000


def test_a_late_answer_to_flush_all_keeps_the_order_of_commands(core):
    core.run(0.5)
    messages = core.line(b"".join(_frames()), 0.3)
    kinds = [type(m).__name__ for m in messages if not isinstance(m, Samples)]
    assert kinds == ["Stats", "Stats", "Ack", "Hello", "SyncReply"]


def _frames():

    for payload in (command(Command.FLUSH, ALL_SENSORS), command(Command.SET_PROFILE, 1), sync_command(1)):
        yield encode_frame(payload)
