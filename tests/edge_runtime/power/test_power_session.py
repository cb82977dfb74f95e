"""The host session against the simulated device, on virtual time: no thread, no port, exact truth."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.power.bridge.alignment import Alignment
from edge_runtime.power.bridge.samples import SampleStore
from edge_runtime.power.bridge.session import BridgeRequest, BridgeSession
from edge_runtime.power.bridge.track import RegisterTrack
from firmware_tools.bridge.simulator.loads import ConstantLoad, SquareLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors
from protos.bridge.commands import Command
from protos.bridge.exchange import Exchange
from protos.bridge.messages import Status
from protos.energy.attribution import attribute, integrate
from protos.energy.ina219 import PROFILES, Calibration
from protos.energy.trace import Mark, Phase, SampleFlag


def gather(sensor: int = 0, **wanted):
    track = RegisterTrack()
    return track, BridgeSession(sensor, track.take, BridgeRequest(**wanted))


def usb(seed: int):
    """A line like full-speed USB: 0.1-1.1 ms down, up in 1 ms frames."""
    source = random.Random(seed)
    return lambda: source.uniform(1e-4, 1.1e-3)


# The transient profile reads the bus in steps of 16 mV: 5.000 V is half a step off, 0.16 %.
@pytest.mark.parametrize(("profile", "limit"), [("energy", 5e-4), ("balanced", 5e-4), ("transient", 2e-3)])
def test_constant_load_through_a_drifting_clock_gives_its_joules(clock, make_device, join, profile, limit):
    track, session = gather()
    device = make_device(ConstantLoad(4.0), profile=profile, drift_ppm=80.0)
    line = join(device, session)
    line.to_device_s = line.to_host_s = usb(1)
    clock.advance(40.0, step_s=2e-3)
    begin_s, end_s = clock.now_s - 38.0, clock.now_s - 1.0
    (energy_j,), (covered_s,) = integrate(track.trace(), [begin_s, end_s])
    assert covered_s == pytest.approx(37.0, rel=1e-6)
    assert energy_j == pytest.approx(4.0 * 37.0, rel=limit)
    assert track.alignment.fit.drift_ppm == pytest.approx(80.0, abs=12.0)


@pytest.mark.parametrize(("profile", "limit"), [("energy", 0.005), ("transient", 0.005), ("balanced", 0.02)])
@pytest.mark.parametrize("oscillator", [-0.1, 0.0, 0.07])
def test_a_fast_square_load_is_not_aliased(clock, make_device, join, profile, limit, oscillator):
    track, session = gather()
    load = SquareLoad(0.4, 1.9, 1e-3)
    join(make_device(load, profile=profile, errors=SensorErrors(oscillator=oscillator)), session)
    clock.advance(12.0, step_s=4e-3)
    begin_s, end_s = clock.now_s - 11.0, clock.now_s - 1.0
    (energy_j,), _ = integrate(track.trace(), [begin_s, end_s])
    true_j = float(np.diff(load.energy_j([begin_s, end_s]))[0])
    assert energy_j == pytest.approx(true_j, rel=limit)


def test_energy_of_lost_frames_comes_back_from_the_accumulators(clock, make_device, join):
    track, session = gather()
    errors = SensorErrors(offset_v=90e-6, gain=0.01)
    calibration = errors.calibrated(1, 0.02, day=0)
    line = join(make_device(ConstantLoad(3.0), drift_ppm=40.0, errors=errors, calibration=calibration), session)
    source = random.Random(4)

    def damage(data: bytes) -> bytes:
        out = bytearray(data)
        for at in range(len(out)):
            if source.random() < 1e-3:
                out[at] ^= 1 << source.randrange(8)
        return bytes(out)

    line.damage = damage
    clock.advance(40.0, step_s=4e-3)
    line.damage = lambda data: data
    clock.advance(3.0, step_s=4e-3)
    begin_s, end_s = clock.now_s - 40.0, clock.now_s - 2.0
    trace = track.trace()
    (energy_j,), (covered_s,) = integrate(trace, [begin_s, end_s])
    assert session.losses.damaged_frames > 20
    assert track.lost_batches > 20
    assert track.recovered_s > 1.0
    recovered = (trace.flags & SampleFlag.RECOVERED) != 0
    assert recovered.sum() > 10
    # Offset and gain are taken out of the accumulators as they are out of the samples.
    assert trace.power_w[recovered] == pytest.approx(3.0, rel=2e-3)
    assert covered_s / 38.0 > 0.999
    assert energy_j == pytest.approx(3.0 * 38.0, rel=0.002)


def test_a_lost_second_without_its_statistics_stays_uncovered(clock, make_device, join):
    track, session = gather()
    device = make_device(ConstantLoad(3.0))
    line = join(device, session)
    clock.advance(5.0)
    device.reboot(clock.now_s)
    begin_s = clock.now_s
    line.damage = lambda data: b""
    clock.advance(2.0)
    line.damage = lambda data: data
    clock.advance(5.0)
    (part,) = attribute(track.trace(), [Mark(begin_s - 1.0, Phase.TRAIN)], begin_s + 4.0)
    assert part.uncovered_s == pytest.approx(2.0, abs=0.4)
    assert part.energy_j is None


def test_a_restart_is_told_from_loss_by_the_boot_number(clock, make_device, join):
    track, session = gather()
    device = make_device(ConstantLoad(3.0))
    join(device, session)
    clock.advance(3.0)
    assert session.epoch == 1
    device.reboot(clock.now_s)
    clock.advance(5.0)
    assert session.epoch == 2
    assert session.losses.restarts == 1
    assert track.lost_batches == 0
    trace = track.trace()
    assert trace.stop_s.max() == pytest.approx(clock.now_s, abs=0.1)
    # The restart is a hole of its length, and the rest is covered.
    (_,), (covered_s,) = integrate(trace, [clock.now_s - 7.0, clock.now_s - 1.0])
    assert 6.0 - covered_s == pytest.approx(0.3, abs=0.15)


def test_ticks_go_on_past_the_wrap_of_their_low_half(clock, make_device, join):
    track, session = gather()
    device = make_device(ConstantLoad(2.0))
    device._born_s -= (2**32 - 3_000_000) / 1e6  # the low half wraps in three seconds
    join(device, session)
    clock.advance(8.0, step_s=2e-3)
    (energy_j,), (covered_s,) = integrate(track.trace(), [clock.now_s - 7.0, clock.now_s - 1.0])
    assert covered_s == pytest.approx(6.0, rel=1e-6)
    assert energy_j == pytest.approx(12.0, rel=2e-3)


def test_a_clipped_load_is_flagged(clock, make_device, join):
    track, session = gather()
    join(make_device(ConstantLoad(25.0)), session)  # 5 A through 0.02 ohm: over 80 mV
    clock.advance(3.0)
    (part,) = attribute(track.trace(), [Mark(clock.now_s - 2.0, Phase.TRAIN)], clock.now_s - 1.0)
    assert "clipped" in part.flags
    assert part.uncertainty_j is None


def test_the_profile_asked_for_is_set_also_after_a_restart(clock, make_device, join):
    track, session = gather(profile=PROFILES["energy"])
    device = make_device(ConstantLoad(2.0), profile="transient")
    join(device, session)
    clock.advance(2.0)
    assert track.config == PROFILES["energy"].config.wide()
    device.reboot(clock.now_s)
    clock.advance(3.0)
    assert device.channels[0].sensor.config == track.config == PROFILES["energy"].config.wide()


def test_a_given_shunt_replaces_the_calibration_and_is_not_called_calibrated(clock, make_device, join):
    track, session = gather(shunt_ohm=0.04)
    join(make_device(ConstantLoad(4.0), calibration=Calibration(77, 20_000, 0, 500)), session)
    clock.advance(3.0)
    assert track.calibration.id == 0
    assert track.trace().power_w.mean() == pytest.approx(2.0, rel=1e-3)


def test_garbage_between_frames_costs_at_most_the_frame_it_hits(clock, make_device, join):
    track, session = gather()
    line = join(make_device(ConstantLoad(4.0)), session)
    clock.advance(2.0)
    source = random.Random(11)
    for _ in range(50):
        session.receive(source.randbytes(300), clock.now_s)
        clock.advance(0.1)
    line.damage = lambda data: data
    clock.advance(3.0)
    assert session.losses.damaged_frames > 10
    (energy_j,), (covered_s,) = integrate(track.trace(), [clock.now_s - 7.0, clock.now_s - 2.0])
    assert covered_s > 4.98
    assert energy_j == pytest.approx(20.0, rel=0.005)


def test_a_full_store_gives_way_at_its_old_end():
    store = SampleStore(capacity=100)
    alignment = Alignment()
    alignment.add(Exchange(0.0, 0, 0, 0.0))
    for number in range(0, 400, 10):
        ends = (np.arange(number, number + 10) + 1) * 1000
        store.append(1, alignment, ends - 1000, ends, np.ones(10), np.zeros(10, np.uint8))
    assert len(store) <= 100
    assert store.overwritten == 400 - len(store)
    assert store.trace().stop_s[-1] == pytest.approx(0.4)
    store.forget_before(0.39)
    assert len(store) == 10


def test_the_truth_lies_inside_the_stated_interval_over_random_loads_sensors_and_clocks(clock, make_device, join):
    outside = total = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        profile = list(PROFILES)[seed % 3]
        constant = ConstantLoad(rng.uniform(0.5, 10))
        square = SquareLoad(rng.uniform(0.5, 4), rng.uniform(4, 10), rng.uniform(1e-3, 0.5), rng.uniform(0.1, 0.9))
        load = constant if seed % 2 else square
        errors = SensorErrors.drawn(rng)
        device = make_device(
            load,
            profile=profile,
            errors=errors,
            calibration=errors.calibrated(5, 0.02, day=0),
            drift_ppm=rng.uniform(-200, 200),
        )
        track, session = gather()
        line = join(device, session)
        line.to_device_s = line.to_host_s = usb(seed)
        begin_s = clock.now_s + 1.0
        clock.advance(6.0)
        times = np.sort(rng.uniform(0, 4.5, 4)) + begin_s
        marks = [Mark(float(t_s), phase) for t_s, phase in zip(times, list(Phase)[1:5], strict=True)]
        parts = attribute(track.trace(), marks, begin_s + 4.7, errors=track.errors())
        for part, window in zip(parts, itertools.pairwise([*times, begin_s + 4.7]), strict=True):
            truth_j = float(np.diff(load.energy_j(window))[0])
            total += 1
            outside += abs(part.energy_j - truth_j) > part.uncertainty_j
            assert part.coverage > 0.99
    assert total == 96
    assert outside <= 7  # 95 % interval


def test_a_restart_whose_hello_was_lost_is_noticed_from_the_samples(clock, make_device, join):
    track, session = gather()
    device = make_device(ConstantLoad(3.0))
    line = join(device, session)
    clock.advance(3.0)
    device.reboot(clock.now_s)
    line.damage = lambda data: b""
    clock.advance(0.31)
    line.damage = lambda data: data
    clock.advance(4.0)
    assert (session.epoch, session.losses.restarts, track.lost_batches) == (2, 1, 0)
    # The first batches of the new boot waited for its HELLO and are all there.
    (energy_j,), (covered_s,) = integrate(track.trace(), [clock.now_s - 3.95, clock.now_s - 0.2])
    assert covered_s == pytest.approx(3.75, rel=1e-3)
    assert energy_j == pytest.approx(3.0 * 3.75, rel=2e-3)


@pytest.mark.parametrize("seen", ["the port was opened again", "HELLO came by itself", "that HELLO was lost"])
def test_a_restart_under_the_same_boot_number_is_noticed_from_the_clock_that_went_back(clock, make_device, join, seen):
    track, session = gather()
    device = make_device(ConstantLoad(3.0))
    line = join(device, session)
    clock.advance(30.0)
    device._boot -= 1
    device.reboot(clock.now_s)
    if seen == "the port was opened again":
        session.opened(again=True)
    elif seen == "that HELLO was lost":
        line.damage = lambda data: b""
        clock.advance(0.31)
        line.damage = lambda data: data
    clock.advance(6.0)
    assert (session.epoch, session.losses.restarts, track.lost_batches) == (2, 1, 0)
    (energy_j,), (covered_s,) = integrate(track.trace(), [clock.now_s - 4.0, clock.now_s - 0.2])
    assert covered_s == pytest.approx(3.8, rel=1e-3)
    assert energy_j == pytest.approx(3.0 * 3.8, rel=2e-3)


def test_another_bridge_at_the_same_port_is_a_new_epoch_and_is_told(clock, make_device, join):
    track, session = gather()
    line = join(make_device(ConstantLoad(3.0), calibration=Calibration(1, 20_000)), session)
    clock.advance(3.0)
    other = make_device(ConstantLoad(5.0), calibration=Calibration(2, 20_000))
    other._uid = b"anotherX"
    line.device = other
    session.opened(again=True)
    clock.advance(4.0)
    assert (session.losses.other_bridges, session.losses.restarts, session.epoch) == (1, 0, 2)
    assert track.calibration.id == 2
    trace = track.trace()
    assert trace.power_w[0] == pytest.approx(3.0, rel=1e-2)
    assert trace.power_w[-1] == pytest.approx(5.0, rel=1e-2)


def test_range_and_profile_are_asked_for_again_after_a_restart_and_judge_clipping(clock, make_device, join):
    track, session = gather(profile=PROFILES["energy"], pga=0)
    device = make_device(ConstantLoad(15.0), profile="balanced")  # 60 mV on the shunt
    join(device, session)
    clock.advance(3.0)
    assert session.settled
    assert track.config == replace(PROFILES["energy"].config, pga=0).wide()
    (part,) = attribute(track.trace(), [Mark(clock.now_s - 1.5, Phase.TRAIN)], clock.now_s - 1.0)
    assert "clipped" in part.flags
    device.channels[0].pga = 1
    device.reboot(clock.now_s)
    clock.advance(3.0)
    assert track.config == replace(PROFILES["energy"].config, pga=0).wide()
    assert session.refusals == {}


def test_a_setting_that_is_refused_is_not_asked_for_for_ever(clock, make_device, join, monkeypatch):
    _, session = gather(pga=3)
    device = make_device(ConstantLoad(3.0))
    asked = []

    def refuse(kind, values, now_s):
        asked.append(kind)
        return device._ack(kind, Status.UNKNOWN)

    monkeypatch.setattr(device, "_keep", refuse)
    join(device, session)
    clock.advance(5.0)
    assert session.refusals == {Command.SET_RANGE: Status.UNKNOWN, Command.SET_CONFIG: Status.UNKNOWN}
    assert asked == [Command.SET_RANGE, Command.SET_CONFIG]
