"""The whole path in virtual time: simulated bridge, line, threads, meter, joules by phase.

What only a real terminal, a real process and a real clock can show is in `test_power_bridge_terminal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from virtual_bridge import Metered

from protos.bridge.hello import ResetCause
from protos.energy.trace import Phase

WORK = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)


@pytest.fixture
def metered() -> Iterator[Callable[..., Metered]]:
    """Start a bridge and a meter on it; closed at the end."""
    made = []

    def start(**options) -> Metered:
        made.append(Metered(**options))
        return made[-1]

    yield start
    for one in made:
        one.meter.close()


def run_phases(here, seconds=0.15):
    """Mark each phase of work, then idle; returns when each began."""
    begins = []
    for phase in WORK:
        here.meter.mark(phase)
        begins.append(here.now_s())
        here.wait(seconds)
    here.meter.mark(Phase.IDLE)
    return [*begins, here.now_s()]


@pytest.mark.parametrize("profile", ["energy", "balanced", "transient"])
def test_joules_of_every_phase_agree_with_the_truth_within_their_uncertainty(metered, profile):
    here = metered(profile=profile, seed=5)
    edges = run_phases(here)
    parts = {part.phase: part for part in here.meter.settle()}
    assert set(parts) == {Phase.IDLE, *WORK}
    for number, phase in enumerate(WORK):
        part = parts[phase]
        truth_j = here.truth_j(edges[number], edges[number + 1])
        assert truth_j == pytest.approx(4.0 * 0.15, rel=1e-9)
        assert part.energy_j == pytest.approx(truth_j, abs=part.uncertainty_j)
        assert part.energy_j == pytest.approx(truth_j, rel=0.004)
        assert part.covered_s + part.uncovered_s == pytest.approx(0.15, abs=1e-9)
        assert part.coverage >= 0.99
        assert part.flags == ()
        assert part.method == "measured"
    assert here.meter.identity.quality == "calibrated"


def test_settling_ends_the_period_at_the_last_mark_and_the_running_phase_goes_on(metered):
    here = metered()
    here.meter.mark(Phase.TRAIN)
    here.wait(0.1)
    here.meter.mark(Phase.SEND)
    first = {part.phase: part for part in here.meter.settle()}
    assert set(first) == {Phase.IDLE, Phase.TRAIN}
    here.wait(0.1)
    assert here.meter.settle() == ()
    here.meter.mark(Phase.IDLE)
    second = {part.phase: part for part in here.meter.settle()}
    assert set(second) == {Phase.SEND}
    assert second[Phase.SEND].covered_s >= 0.1
    assert second[Phase.SEND].energy_j == pytest.approx(4.0 * second[Phase.SEND].covered_s, rel=0.004)


def test_spent_joules_are_never_below_the_truth_by_more_than_the_instrument_allows(metered):
    here = metered(seed=2)
    here.meter.mark(Phase.TRAIN)
    begin_s = here.now_s()
    for _ in range(30):
        here.wait(0.01)
        before_s = here.now_s()
        assert here.meter.spent_j() >= 4.0 * (before_s - begin_s) * 0.998
    here.meter.mark(Phase.IDLE)
    spent_j = here.meter.spent_j()
    here.wait(0.1)
    assert here.meter.spent_j() == pytest.approx(spent_j, rel=0.004)
    here.meter.settle()
    assert here.meter.spent_j() == pytest.approx(0.0, abs=1e-6)


def test_after_unplug_and_replug_metering_goes_on_and_the_bridge_tells_what_was_missed(metered):
    here = metered()
    here.meter.mark(Phase.TRAIN)
    here.wait(0.2)
    here.world.unplug()
    here.until(lambda: not here.meter.sensor.link.connected)
    assert here.meter.spent_j() > 0
    here.wait(0.3)
    here.world.replug()
    here.until(lambda: here.meter.sensor.link.connected and here.meter.sensor.losses.recovered_s > 0)
    here.meter.mark(Phase.IDLE)
    (_, train) = here.meter.settle()
    assert train.phase is Phase.TRAIN
    assert "reconnected" in train.flags
    assert "recovered" in train.flags
    # The bridge ran on by itself, so that its accumulators cover the time without a cable.
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.004)
    assert here.meter.sensor.losses.reconnects == 1
    assert here.meter.sensor.losses.restarts == 0


def test_a_port_that_hangs_is_opened_again_after_half_a_minute_and_then_ever_more_rarely(metered):
    here = metered()
    here.wait(1.0)
    # A line that lives again after two openings; and then one that hangs anew.
    for number in range(2):
        begun_s, known = here.now_s(), len(here.world.opened_s)
        here.world.hang(openings=2)
        here.wait(6.0)
        asked = here.world.writes
        here.wait(20.0)
        # A clock's question each second and a new greeting each 5 s, not one at each look.
        assert here.world.writes - asked < 100
        here.wait(68.0 if number == 0 else 7.0)
        first, *later = [at_s - begun_s for at_s in here.world.opened_s[known:]]
        assert 28.5 <= first <= 31.0, "what was heard in between makes it soon again"
        if number == 0:
            (second,) = later
            assert 59.0 <= second - first <= 61.5
            here.until(lambda: here.sensor.covered_to_s > here.now_s() - 1.0)
            here.wait(1.0)


def test_a_bridge_that_stays_away_gives_none_and_never_stops_the_caller(metered):
    here = metered()
    here.meter.settle()
    here.meter.mark(Phase.EMBED)
    here.wait(0.1)
    here.meter.mark(Phase.TRAIN)
    here.world.unplug()
    here.until(lambda: not here.meter.sensor.link.connected)
    here.wait(0.2)
    assert here.meter.spent_j() > 0
    here.meter.mark(Phase.SEND)
    parts = {part.phase: part for part in here.meter.settle(timeout_s=0.2)}
    assert parts[Phase.TRAIN].energy_j is None
    assert parts[Phase.TRAIN].method == "unknown"
    assert "degraded" in parts[Phase.TRAIN].flags
    here.wait(0.05)
    here.meter.mark(Phase.IDLE)
    (send,) = here.meter.settle(timeout_s=0.1)
    assert (send.energy_j, send.covered_s) == (None, 0.0)
    assert "no-samples" in send.flags
    # Until it is heard again, time is charged at what the work was last seen to draw.
    here.meter.mark(Phase.TRAIN)
    here.wait(0.1)
    assert here.meter.spent_j() >= 0.1 * 4.0 * 0.98
    here.meter.mark(Phase.IDLE)
    here.world.replug()
    here.until(lambda: here.meter.sensor.link.connected)
    here.meter.settle()
    here.meter.mark(Phase.TRAIN)
    here.wait(0.15)
    here.meter.mark(Phase.IDLE)
    parts = {part.phase: part for part in here.meter.settle()}
    assert parts[Phase.TRAIN].coverage > 0.9


def test_a_restart_of_the_bridge_is_flagged_and_its_time_is_uncovered(metered):
    here = metered()
    here.meter.mark(Phase.TRAIN)
    here.wait(0.2)
    here.bridge.reboot(ResetCause.BROWN_OUT)
    here.until(lambda: here.meter.sensor.session.epoch == 2)
    assert here.meter.sensor.session.hello.reset == ResetCause.BROWN_OUT
    here.wait(0.3)
    here.meter.mark(Phase.IDLE)
    train = {part.phase: part for part in here.meter.settle()}[Phase.TRAIN]
    assert "bridge-restarted" in train.flags
    assert train.uncovered_s > 0.2
    assert here.meter.sensor.losses.restarts == 1


def test_garbage_on_the_line_is_counted_and_costs_no_joules(metered):
    here = metered()
    here.meter.mark(Phase.TRAIN)
    for number in range(10):
        here.bridge.make_noise(bytes([number, 0, 0x55, 0xAA, 0, 7]) * 20)
        here.wait(0.03)
    here.until(lambda: here.meter.sensor.losses.damaged_frames > 0)
    here.meter.mark(Phase.IDLE)
    train = {part.phase: part for part in here.meter.settle()}[Phase.TRAIN]
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.004)


def test_lost_and_damaged_bytes_are_made_good_by_the_accumulators(metered):
    here = metered(profile="transient")
    here.bridge.faults.drop = here.bridge.faults.corrupt = 5e-4
    here.meter.mark(Phase.TRAIN)
    here.wait(1.5)
    here.bridge.faults.drop = here.bridge.faults.corrupt = 0.0
    here.meter.mark(Phase.IDLE)
    train = {part.phase: part for part in here.meter.settle()}[Phase.TRAIN]
    assert here.meter.sensor.losses.damaged_frames > 0
    assert {"batches-lost", "recovered"} <= set(train.flags)
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(4.0 * train.covered_s, rel=0.004)


def test_a_long_period_is_summed_up_in_a_small_store(metered):
    here = metered(profile="transient", capacity=768)
    here.meter.mark(Phase.EMBED)
    here.wait(0.4)
    here.meter.mark(Phase.TRAIN)
    here.wait(0.6)
    assert here.meter.spent_j() == pytest.approx(4.0 * 1.0, rel=0.004)
    first = {part.phase: part for part in here.meter.settle()}
    assert set(first) == {Phase.IDLE, Phase.EMBED}
    assert first[Phase.EMBED].energy_j == pytest.approx(4.0 * 0.4, rel=0.004)
    here.wait(0.2)
    here.meter.mark(Phase.IDLE)
    second = {part.phase: part for part in here.meter.settle()}
    assert set(second) == {Phase.TRAIN}
    assert second[Phase.TRAIN].covered_s == pytest.approx(0.8, abs=0.01)
    assert second[Phase.TRAIN].coverage > 0.99
    assert second[Phase.TRAIN].energy_j == pytest.approx(4.0 * second[Phase.TRAIN].covered_s, rel=0.004)
    assert here.meter.peak_w == pytest.approx(4.0, rel=0.004)
