"""Joules against the truth of the load: constant, alternating, and beyond the range."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("ina219-bridge", "known-load")
MS_1, MS_37, MS_210 = (0.4, 5.4, 0.001), (1.2, 6.0, 0.037), (0.8, 8.0, 0.21)
"""Low and high watts, and a period; halves. No bench must be able to do more than 9 W."""
# Of a period of 1 ms "transient" sees parts at random: over two seconds one sigma is 0.4 %, over ten 0.2 %.
BURSTS = {
    "1 ms, energy": (MS_1, "energy"),
    "37 ms, energy": (MS_37, "energy"),
    "37 ms, transient": (MS_37, "transient"),
    "210 ms, energy": (MS_210, "energy"),
    "210 ms, transient": (MS_210, "transient"),
}


def test_a_constant_load_is_right(bench, meter, load, measure):
    live = meter()
    for power_w in load.steps_w:
        load.constant(power_w)
        reading = live.phase(f"{power_w:g} W", bench.duration_s("phase_s"))
        energy = reading.energy
        assert energy.method == "measured"
        assert energy.flags == (), "nothing odd about it"
        allowed = bench.tolerance("constant_relative")
        # Below a watt the zero error rules, which is a matter of watts: the interval must hold it.
        if power_w >= 1:
            name = f"error of {power_w:g} W"
            measure(name, reading.error, "1", limit=allowed, uncertainty=reading.error_uncertainty)
        measure(f"coverage of {power_w:g} W", energy.coverage, "1", limit=(0.99, 1.0))
        assert energy.uncertainty_j is not None
        # Two intervals of 95 %, added: what is left beyond them is no accident of one reading.
        missed_j = abs(energy.energy_j - reading.truth.energy_j)
        spread = missed_j / (energy.uncertainty_j + reading.truth.uncertainty_j)
        measure(f"error of {power_w:g} W by its interval", spread, "1", limit=1.0)


@pytest.mark.needs("programmable-load")
@pytest.mark.parametrize(("burst", "profile"), BURSTS.values(), ids=BURSTS)
def test_a_load_that_alternates_is_right(bench, meter, load, measure, burst, profile):
    live = meter(profile)
    low_w, high_w, period_s = burst
    load.square(low_w, high_w, period_s)
    reading = live.phase("alternating", bench.duration_s("phase_s"))
    assert reading.energy.flags == ()
    # What a period that is cut at an end adds is the truth's own uncertainty where the load's phase is not known.
    limit = bench.tolerance("burst_relative") + reading.error_uncertainty
    measure("error", reading.error, "1", limit=limit, uncertainty=reading.error_uncertainty)
    measure("coverage", reading.energy.coverage, "1", limit=(0.99, 1.0))


@pytest.mark.needs("overload")
def test_a_load_beyond_the_range_is_flagged_and_never_passed_as_good(bench, meter, load, measure):
    overload_w = bench.environment.section("load")["overload_w"]
    live = meter()
    load.constant(overload_w)
    try:
        reading = live.phase("overload", 1.0)
    finally:
        load.constant(load.steps_w[-1])
    assert "clipped" in reading.energy.flags
    assert reading.energy.uncertainty_j is None, "no interval: the figure is not to be trusted"
    measure("joules seen of those drawn", 1 + reading.error, "1", limit=(0.0, 0.999))

    after = live.phase("afterwards", 1.0)
    assert after.energy.flags == (), "it is told once"
    measure("error afterwards", after.error, "1", limit=bench.tolerance("constant_relative"))
