"""After every fault the bench measures again, by itself, and its figures say what happened."""

from __future__ import annotations

import pytest

from hw_tests.bench.bench import Disturbed
from hw_tests.recoveries import RECOVERIES
from protos.bridge.hello import Feature

STATS_EACH_S = 1.2
"""The bridge tells its counters each second; by then everything about a fault has been told."""


def _case(recovery):
    return pytest.param(recovery, id=recovery.name, marks=pytest.mark.needs("ina219-bridge", *recovery.needs))


@pytest.mark.needs("known-load")
@pytest.mark.parametrize("recovery", [_case(recovery) for recovery in RECOVERIES])
def test_the_bench_recovers_and_the_figures_tell(bench, meter, load, clock, measure, recovery):
    load.constant(load.steps_w[-1])
    live = meter()
    if recovery.asks_hang and not live.sensor.session.hello.features & Feature.HANG:
        pytest.skip("this firmware does not take the key that lets its watchdog bite")
    disturbances = bench.disturbances()
    live.begin(recovery.name)
    clock.sleep(0.3)
    recovery.begin(bench)
    clock.sleep(recovery.lasts_s)
    recovery.end(bench)
    ended_s = clock.monotonic()
    allowed_s = bench.tolerance("recovery_s")
    back_s = clock.until(lambda: live.heard_since(ended_s), "a new sample", hang_s=allowed_s)
    clock.sleep(STATS_EACH_S)
    if recovery.flags:
        clock.until(lambda: _told(live, recovery.flags), f"a word of {recovery.flags}")
    reading = live.end()
    if bench.disturbances() != disturbances:
        raise Disturbed("this computer was too slow to tell a fault from itself")

    energy = reading.energy
    measure("until the first new sample", back_s, "s", limit=allowed_s)
    measure("share of the time covered", energy.coverage, "1")
    assert set(recovery.flags) <= set(energy.flags) <= {*recovery.flags, *recovery.maybe}
    if recovery.figure is not None:
        assert (energy.energy_j is not None) == recovery.figure
    if energy.energy_j is not None:
        assert energy.uncertainty_j is not None
        missed_j = abs(energy.energy_j - reading.truth.energy_j)
        spread = missed_j / (energy.uncertainty_j + reading.truth.uncertainty_j)
        measure("error by its interval", spread, "1", limit=1.0)
    if energy.energy_j is not None and not recovery.moves_load:
        error = energy.energy_j / energy.covered_s / (reading.truth.energy_j / reading.seconds) - 1
        measure("error in the covered seconds", error, "1", limit=bench.tolerance("constant_relative"))

    after = live.phase("afterwards", 0.7)
    assert after.energy.flags == (), "a fault is told once"
    measure("error afterwards", after.error, "1", limit=bench.tolerance("constant_relative"))


def _told(live, words):
    """Whether the sensor has counted what the words stand for; they are read at the end of the phase."""
    losses = live.sensor.losses
    counted = {
        "bus-errors": losses.bus_errors,
        "degraded": 1,
        "sensor-restarted": losses.sensor_restarts,
        "reconnected": losses.reconnects,
        "bridge-restarted": losses.restarts,
        "batches-lost": losses.lost_batches,
        "recovered": losses.recovered_s,
        "line-errors": losses.damaged_frames + losses.strange_messages + losses.damaged_commands,
    }
    return all(counted[word] for word in words)


@pytest.mark.needs("power-switch")
def test_without_supply_the_bench_is_silent_and_with_it_starts_anew(bench, power, clock, measure):
    before = bench.hello()
    power.off()
    assert power.is_on is False
    clock.sleep(0.5)
    with pytest.raises(OSError):
        bench.hello()
    power.on()
    begun_s = clock.monotonic()
    bench.await_port()
    after = bench.hello()
    measure("until HELLO", clock.monotonic() - begun_s, "s", limit=bench.tolerance("recovery_s"))
    assert after.uid == before.uid
    assert after.boot != before.boot, "it has started anew"
    assert after.sensors == before.sensors, "settings and calibration outlive a power cut"
