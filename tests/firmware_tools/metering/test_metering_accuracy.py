"""What the whole chain is worth, against loads whose energy is known exactly. Longer runs are in the benchmarks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from firmware_tools.bridge.machine.driver import SensorSpec
from protos.energy.ina219 import PROFILES, Calibration
from protos.energy.trace import Phase

BENT = SensorSpec("constant:0", offset_v=43e-6, gain=0.012, noise_v=5e-6)
"""A sensor whose zero and shunt are off."""
FULL_W, SUPPLY_V, UNCALIBRATED_OHM = 5.0, 5.0, 0.1


def calibrated(bench, sensor: SensorSpec, profile: str) -> Calibration:
    """The record that a reading at no load and one at full load give, as one calibrates a bridge."""
    one = bench(replace(sensor, load="constant:0"), record=None, profile=profile)
    mean_v = []
    for power_w in (0.0, FULL_W):
        one.machine.set_load(f"constant:{power_w}", at_s=one.machine.now_s)
        one.world.advance(0.2)
        one.start()
        one.spend(Phase.TRAIN, 4.0)
        part = one.settle()[Phase.TRAIN]
        mean_v.append(part.energy_j / part.covered_s / SUPPLY_V * UNCALIBRATED_OHM)
    one.close()
    zero_v, full_v = mean_v
    gain = FULL_W / SUPPLY_V * 0.02 / (full_v - zero_v) - 1
    return Calibration(9, 20_000, round(zero_v * 1e9), round(gain * 1e6))


@pytest.mark.parametrize("profile", PROFILES)
def test_constant_loads_are_right_to_a_quarter_of_a_percent_after_calibration(bench, profile):
    record = calibrated(bench, BENT, profile)
    one = bench(BENT, profile=profile, record=record)
    for power_w in (0.5, 1.0, 2.037, 5.0, 9.71):
        one.machine.set_load(f"constant:{power_w}", at_s=one.machine.now_s)
        one.world.advance(0.2)
        one.start()
        one.spend(Phase.TRAIN, 3.0)
        train = one.settle()[Phase.TRAIN]
        assert abs(train.energy_j - one.true_j(Phase.TRAIN)) <= train.uncertainty_j, power_w
        if power_w >= 1:
            assert train.energy_j == pytest.approx(one.true_j(Phase.TRAIN), rel=0.0025), power_w
        assert train.flags == ()


@pytest.mark.parametrize("profile", ["energy", "transient"])
@pytest.mark.parametrize("oscillator", [-0.1, 0.0, 0.1])
def test_a_square_load_of_a_millisecond_is_right_to_half_a_percent(bench, profile, oscillator):
    one = bench(SensorSpec("square:0.4,5.4,0.001", oscillator=oscillator, noise_v=5e-6), profile=profile)
    one.spend(Phase.TRAIN, 10.0)
    train = one.settle()[Phase.TRAIN]
    assert train.energy_j == pytest.approx(one.true_j(Phase.TRAIN), rel=0.005)


@pytest.mark.parametrize(("profile", "limit"), [("transient", 0.005), ("energy", 0.015)])
def test_a_phase_of_200_ms_between_idle_and_full_load_is_cut_out_right(bench, profile, limit):
    one = bench(SensorSpec("constant:2"), profile=profile, crystal_ppm=60.0)
    rng = np.random.default_rng(5)
    for _ in range(8):
        one.start()
        one.spend(Phase.IDLE, float(rng.uniform(0.3, 0.4)))
        one.machine.set_load("constant:8", at_s=one.machine.now_s)
        one.spend(Phase.TRAIN, 0.2)
        one.machine.set_load("constant:2", at_s=one.machine.now_s)
        one.spend(Phase.IDLE, 0.3)
        train = one.settle()[Phase.TRAIN]
        assert one.true_j(Phase.TRAIN) == pytest.approx(1.6)
        assert train.energy_j == pytest.approx(1.6, rel=limit)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_clipped_load_is_never_reported_as_good(bench, profile):
    one = bench(SensorSpec("square:2,45,0.7"), profile=profile)
    one.spend(Phase.TRAIN, 2.0)
    train = one.settle()[Phase.TRAIN]
    assert "clipped" in train.flags
    assert train.uncertainty_j is None
    assert train.energy_j < one.true_j(Phase.TRAIN)


@pytest.mark.parametrize("fault", ["to-host-flip", "to-host-drop"])
def test_with_a_byte_in_a_thousand_damaged_the_sums_hold_the_energy(bench, fault):
    one = bench(SensorSpec("square:1.2,4.3,0.37"), profile="transient")
    one.machine.fault(fault, on=1e-3)
    one.spend(Phase.TRAIN, 6.0)
    one.machine.fault(fault, on=0)
    train = one.settle()[Phase.TRAIN]
    assert one.sensor.losses.lost_batches > 20
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(one.true_j(Phase.TRAIN), rel=0.002)


def test_phases_add_up_to_the_whole_through_the_real_chain(bench):
    """The property over random marks and gaps is in tests/protos; here over what a damaged line leaves."""
    rng = np.random.default_rng(11)
    # While the board rests the bridge is asked less often, and other bytes would be lost.
    work = [phase for phase in Phase if phase is not Phase.IDLE]
    marks = [(work[int(rng.integers(len(work)))], float(rng.uniform(0.003, 0.2))) for _ in range(30)]
    whole = bench(SensorSpec("square:1,5,0.021"), profile="transient")
    cut = bench(SensorSpec("square:1,5,0.021"), profile="transient")
    totals = []
    for one in (whole, cut):
        one.machine.fault("to-host-drop", on=1e-3)
        one.machine.fault("address-nack", on=2)
        for phase, seconds in marks:
            one.spend(phase if one is cut else Phase.TRAIN, seconds)
        one.meter.mark(Phase.TRAIN)
        parts = one.meter.settle()
        totals.append(sum(part.energy_j for part in parts))
        assert 0 < sum(part.uncovered_s for part in parts) < 0.5
    assert {part.phase for part in parts} - {Phase.IDLE} == set(work)
    assert totals[1] == pytest.approx(totals[0], rel=1e-9)
