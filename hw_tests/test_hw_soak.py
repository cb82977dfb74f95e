"""For minutes or hours: nothing is lost, nothing drifts, and joules stay right."""

from __future__ import annotations

import pytest

PIECE_S = 15.0


@pytest.mark.slow
@pytest.mark.needs("ina219-bridge", "known-load")
def test_hours_are_as_good_as_seconds(bench, meter, load, measure, request):
    seconds = request.config.getoption("--hw-soak-s") or bench.duration_s("soak_s")
    if bench.has("programmable-load"):
        load.square(1.2, 6.0, 0.37)
        allowed = bench.tolerance("burst_relative")
    else:
        load.constant(load.steps_w[-1])
        allowed = bench.tolerance("constant_relative")
    live = meter()
    joules = true_joules = true_uncertain = metered_s = covered_s = 0.0
    flags: set[str] = set()
    worst = 0.0
    lost = 0
    while metered_s < seconds:
        reading = live.phase(f"at {metered_s:.0f} s", min(PIECE_S, max(seconds - metered_s, 0.5)))
        lost = live.sensor.losses.lost_batches
        assert reading.energy.energy_j is not None, reading.energy.flags
        joules += reading.energy.energy_j
        true_joules += reading.truth.energy_j
        true_uncertain += reading.truth.uncertainty_j
        metered_s += reading.seconds
        covered_s += reading.energy.covered_s
        flags |= set(reading.energy.flags)
        worst = max(worst, abs(reading.error))
    measure("length", metered_s, "s", limit=(seconds * 0.99, None))
    measure("batches lost", lost, "1", limit=bench.tolerance("lost_batches"))
    measure("coverage", covered_s / metered_s, "1", limit=(0.99, 1.0))
    measure("worst error of a piece", worst, "1")
    measure("error of all", joules / true_joules - 1, "1", limit=allowed, uncertainty=true_uncertain / true_joules)
    assert not flags
