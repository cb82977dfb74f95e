"""One federated round on the bench's sensor, and its joules against the truth of the load."""

from __future__ import annotations

import pytest

from hw_tests.bench.bench import Disturbed
from hw_tests.federation import ROUND_PHASES, make_bundle, missing, run_one_round
from protos.energy.trace import Phase

EPOCHS = 2000
"""Some seconds of training on a workstation."""


@pytest.mark.needs("ina219-bridge", "known-load")
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_joules_of_a_round_are_those_of_the_load(bench, load, measure, bench_files):
    make_bundle()
    power_w = load.steps_w[-1]
    load.constant(power_w)
    disturbances = bench.disturbances()
    begun_s = bench.clock.monotonic()
    sensor = f"serial:{bench.port}?profile={bench.profile}&sensor={bench.sensor}"
    status, device = run_one_round(sensor, bench_files, epochs=EPOCHS)
    truth = load.truth(begun_s, bench.clock.monotonic())
    if bench.disturbances() != disturbances:
        raise Disturbed("this computer was too slow for the round")

    assert (status.state, device.outcome) == ("finished", "accepted")
    parts = {part.phase: part for part in device.energy if part.phase in ROUND_PHASES}
    assert set(parts) == set(ROUND_PHASES)
    measure("steps", device.steps_done, "1", limit=(device.steps_planned, device.steps_planned))
    train = parts[Phase.TRAIN]
    assert train.method == "measured"
    assert train.flags == ()
    measure("seconds of training", train.covered_s + train.uncovered_s, "s")
    measure("coverage of training", train.coverage, "1", limit=(0.99, 1.0))
    # A constant load: so many watts in every covered second, whatever the phase.
    relative = truth.uncertainty_j / truth.energy_j
    allowed = bench.tolerance("round_relative")
    measure(
        "error of training", train.energy_j / (power_w * train.covered_s) - 1, "1", limit=allowed, uncertainty=relative
    )
    known = [part for part in parts.values() if part.energy_j is not None]
    seconds, joules = sum(part.covered_s for part in known), sum(part.energy_j for part in known)
    measure("joules of the round", joules, "J", limit=(0.0, truth.energy_j + truth.uncertainty_j))
    measure("error of the round", joules / (power_w * seconds) - 1, "1", limit=allowed, uncertainty=relative)
