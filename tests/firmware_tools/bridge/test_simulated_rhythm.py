"""When the simulated sensor converts: without pause, and as a bridge that dithers restarts it."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_tools.bridge.simulator.loads import ConstantLoad, SquareLoad
from firmware_tools.bridge.simulator.rhythm import plan_conversions
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Config


def sensor_of(load, profile, *, dither, seed=1, **errors):
    return SimulatedIna219(
        load, supply_v=5.0, shunt_ohm=0.02, errors=SensorErrors(**errors), profile=PROFILES[profile],
        rng=np.random.default_rng(seed), start_s=0.0, dither=dither,
    )  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_without_dither_conversions_follow_each_other_at_the_nominal_rate(profile):
    sensor = sensor_of(ConstantLoad(4.0), profile, dither=False, oscillator=0.05)
    period_s = PROFILES[profile].config.period_s * 1.05
    assert sensor.ready(10.0) == pytest.approx(10 / period_s, abs=1)
    assert np.diff(sensor.take(100).end_s) == pytest.approx(period_s)


@pytest.mark.parametrize(("profile", "least_hz", "most_hz"), [("energy", 105, 111), ("balanced", 200, 215),
                                                               ("transient", 1000, 1480)])  # fmt: skip
def test_dither_keeps_the_rate_near_nominal(profile, least_hz, most_hz):
    assert least_hz <= sensor_of(ConstantLoad(4.0), profile, dither=True).ready(20.0) / 20 <= most_hz


def test_looking_ahead_in_parts_is_the_same_as_at_once():
    whole = sensor_of(SquareLoad(1, 5, 0.013), "energy", dither=False).take(64)
    parts = sensor_of(SquareLoad(1, 5, 0.013), "energy", dither=False)
    pieces = [parts.take(n) for n in (1, 15, 48)]
    assert np.concatenate([piece.end_s for piece in pieces]) == pytest.approx(whole.end_s)
    assert np.concatenate([piece.shunt for piece in pieces]).tolist() == whole.shunt.tolist()
    assert pieces[1].begin_s == pieces[0].end_s[-1]


@pytest.mark.parametrize(("profile", "limit"), [("energy", 0.005), ("transient", 0.01)])
def test_a_load_in_step_with_the_conversions_is_seen_whole_only_with_dither(profile, limit):
    config = PROFILES[profile].config
    # A load of a seventh of the sample's time (or of its own) that is low whenever the bus is converted.
    period_s = config.period_s / (7 if profile == "energy" else 1)
    load = SquareLoad(1.0, 5.0, period_s, 0.5)
    worst = {False: 0.0, True: 0.0}
    for dither in worst:
        for seed in range(5):
            sensor = sensor_of(load, profile, dither=dither, seed=seed)
            batch = sensor.take(sensor.ready(10.0))
            widths_s = np.diff(np.concatenate([[batch.begin_s], batch.end_s]))
            joules = float(batch.shunt * 10e-6 / 0.02 * 5.0 @ widths_s)
            worst[dither] = max(worst[dither], abs(joules / float(load.energy_j(batch.end_s[-1])) - 1))
    assert worst[False] > 0.02
    assert worst[True] < limit


def test_a_bus_gain_error_shows_in_the_bus_register():
    batch = sensor_of(ConstantLoad(4.0), "energy", dither=False, bus_gain=0.004).take(4)
    assert (batch.bus >> 3).tolist() == [1255] * 4


def test_ten_bits_are_mixed_with_eleven():
    plan = plan_conversions(Config(bus_adc=1, shunt_adc=3), np.random.default_rng(2), 200_000, dither=True)
    shares = {coarse: float(np.mean(plan.coarse == coarse)) for coarse in (1.0, 2.0, 4.0)}
    assert shares == pytest.approx({1.0: 0.0, 2.0: 0.75, 4.0: 0.25}, abs=0.05)


def test_a_resolution_holds_for_several_restarts():
    plan = plan_conversions(Config(bus_adc=3, shunt_adc=12), np.random.default_rng(2), 20_000, dither=True)
    changes = np.count_nonzero(np.diff(plan.period_s))
    assert changes == pytest.approx(20_000 / 8 / 2, rel=0.15), "one restart of eight draws, half of them the same"
