"""A round on a board that warms up: virtual time, real files, a first-order thermal model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_tree import BoardTree
from hypothesis import given, settings
from hypothesis import strategies as st
from warm_bench import WATTS, Bench

from edge_runtime.daemon.stopping import Stopping
from edge_runtime.health.condition import EVERY_S, Watch
from edge_runtime.health.limits import LEAST_PAUSE_S, Judge, Limits
from edge_runtime.health.pauses import Pauses
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.systemd.logging_setup import LOGGER
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import StopReason

LIMITS = Limits(80.0, 75.0, None, 600.0)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    logger = logging.getLogger(LOGGER)
    propagate, level, logger.propagate = logger.propagate, logger.level, True
    logger.setLevel(logging.DEBUG)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = propagate
    logger.setLevel(level)


@settings(max_examples=15, deadline=None)
@given(
    ambient_c=st.floats(15.0, 50.0),
    rise_c=st.floats(20.0, 80.0),
    tau_s=st.floats(15.0, 240.0),
    step_s=st.floats(0.02, 4.0),
    gap_c=st.floats(1.0, 15.0),
)
def test_a_board_never_gets_hotter_than_one_look_and_one_step_above_its_limit(
    tmp_path_factory: pytest.TempPathFactory,
    ambient_c: float, rise_c: float, tau_s: float, step_s: float, gap_c: float,
) -> None:  # fmt: skip
    limits = Limits(75.0, 75.0 - gap_c, None, 3000.0)
    bench = Bench(tmp_path_factory.mktemp("warm"), limits, step_s=step_s)
    board = bench.warms(ambient_c, rise_c, tau_s)
    bench.open()
    steps, refused = bench.train(min(250, math.ceil(400.0 / step_s)))
    reached_c = ambient_c + rise_c
    most_c = 75.0
    if reached_c > most_c:
        # A reading is at most a second old when a step begins, and a step is never cut.
        most_c = reached_c + (75.0 - reached_c) * math.exp(-(EVERY_S + step_s) / tau_s)
    assert board.hottest_c <= max(most_c, reached_c if reached_c < 75.0 else most_c) + 0.01
    # It cools below the lower limit in time, so nothing is cut short: the round still ends.
    assert refused is None
    begins_s = [waited_s for waited_s, _ in bench.waits]
    pauses = sum(1 for phase in bench.meter.phases if phase is Phase.IDLE)
    assert sum(1 for line in bench.said if line.startswith("paused")) == pauses
    if pauses:
        # No chatter: each pause lasts, and cools by the gap between the limits (less the file's thousandths).
        assert bench.pauses.paused_s >= pauses * LEAST_PAUSE_S - 1e-6
        cooling_s = tau_s * math.log((75.0 - ambient_c) / max(1e-9, limits.resume_below_c - ambient_c))
        assert bench.pauses.paused_s >= pauses * cooling_s * 0.99 - 0.5
        assert begins_s == sorted(begins_s)
    energy = bench.energy()
    # The joules of a pause are idle joules, to the last one.
    assert energy[Phase.TRAIN].energy_j == pytest.approx(steps * step_s * WATTS[Phase.TRAIN])
    paused_j = energy[Phase.IDLE].energy_j if Phase.IDLE in energy else 0.0
    assert paused_j == pytest.approx(bench.pauses.paused_s * WATTS[Phase.IDLE])


def test_a_board_that_cannot_cool_ends_the_round_with_what_is_there(tmp_path: Path, lines: Any) -> None:
    bench = Bench(tmp_path, Limits(80.0, 75.0, None, 120.0))
    bench.tree.zone(60.0)
    bench.open()
    steps, refused = bench.train(100, lambda number: bench.tree.zone(90.0) if number == 20 else None)
    assert (refused, bench.pauses.ended().heat_s) == (StopReason.HEAT, 120.0)
    assert 20 <= steps <= 20 + math.ceil(EVERY_S / bench.step_s)
    assert [line for line in lines() if "pause" in line] == [
        "paused for at most 120 s: too hot, 90.0 degrees; goes on below 75 degrees",
        "training ends after a pause of 120 s: too hot, 90.0 degrees; goes on below 75 degrees",
    ]
    assert bench.said == ["paused: too hot, 90.0 degrees; goes on below 75 degrees"]
    assert bench.pauses.ended().hottest_c == 90.0


def test_the_end_of_the_round_ends_a_pause(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LIMITS, deadline_s=31.0)
    bench.tree.zone(90.0)
    bench.open()
    assert bench.train(5) == (0, StopReason.HEAT)
    # A second is kept back for sending.
    assert bench.clock.now_s == pytest.approx(bench.start_s + 30.0)
    assert all(seconds <= EVERY_S for _, seconds in bench.waits)


def test_a_request_to_stop_ends_a_pause(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LIMITS)
    bench.tree.zone(90.0)
    bench.open()

    def ask_after_three(seconds: float) -> bool:
        bench.clock.pass_(seconds)
        bench.stop = bench.clock.now_s >= bench.start_s + 3.0
        return bench.stop

    bench.pauses._wait = ask_after_three
    assert bench.train(5) == (0, StopReason.SHUTDOWN)
    assert bench.pauses.ended().heat_s == pytest.approx(3.0)
    assert bench.meter.phases[-1] is Phase.TRAIN


def test_every_pause_is_told_to_people_and_to_the_service_manager(tmp_path: Path, lines: Any) -> None:
    bench = Bench(tmp_path, LIMITS)
    bench.tree.zone(81.0)
    bench.open()
    cool = {"at": 10.0}
    plain = bench._wait

    def wait(seconds: float) -> bool:
        if bench.clock.now_s >= bench.start_s + cool["at"]:
            bench.tree.zone(70.0)
        return plain(seconds)

    bench.pauses._wait = wait
    assert bench.train(3) == (3, None)
    assert bench.said == ["paused: too hot, 81.0 degrees; goes on below 75 degrees", "round 1"]
    assert [line for line in lines() if "pause" in line] == [
        "paused for at most 600 s: too hot, 81.0 degrees; goes on below 75 degrees",
        "work goes on after a pause of 11 s, at 70.0 degrees",
    ]


def test_a_pause_is_told_with_fields_for_the_journal(tmp_path: Path, lines: Any, caplog: Any) -> None:
    bench = Bench(tmp_path, Limits(80.0, 75.0, None, 7.0))
    bench.tree.zone(88.5)
    bench.open()
    bench.train(1)
    facts = [record.facts for record in caplog.records]
    assert facts[0] == {"pause": StopReason.HEAT, "temperature": 88.5}
    assert facts[1] == {"pause": StopReason.HEAT, "paused": 7.0, "temperature": 88.5}


def test_others_come_first_when_that_is_asked_for(tmp_path: Path, lines: Any) -> None:
    bench = Bench(tmp_path, Limits(80.0, 75.0, 0.5, 600.0))
    bench.open()
    plain = bench._wait

    def wait(seconds: float) -> bool:
        # The others end after half a minute.
        busy = bench.clock.now_s < bench.start_s + 30.0
        bench.tree.stat(busy=100 if busy else 0, idle=0 if busy else 100)
        return plain(seconds)

    bench.pauses._wait = wait

    def each(number: int) -> None:
        busy = bench.clock.now_s < bench.start_s + 30.0
        bench.tree.stat(busy=50 if busy else 10, idle=0 if busy else 40)

    assert bench.train(30, each) == (30, None)
    strain = bench.pauses.ended()
    assert 20.0 < strain.busy_s < 45.0
    assert strain.heat_s == 0.0
    assert "others use 100% of the processor" in bench.said[0]
    assert strain.typical


def test_throttling_while_it_works_is_told_once_and_makes_the_round_untypical(tmp_path: Path, lines: Any) -> None:
    bench = Bench(tmp_path, LIMITS)
    bench.tree.zone(62.0)
    bench.tree.firmware(0x0)
    bench.open()
    bench.train(40, lambda number: bench.tree.firmware(0x80009 if 10 <= number < 20 else 0x90000))
    strain = bench.pauses.ended()
    assert (strain.throttled, strain.under_voltage, strain.typical) == (True, True, False)
    assert (strain.heat_s, strain.hottest_c) == (0.0, 62.0)
    assert len([line for line in lines() if "held down" in line]) == 1
    assert len([line for line in lines() if "voltage" in line]) == 1
    bench.pauses.begin(bench.meter.mark, "round 2")
    bench.tree.zone(55.0)
    bench.clock.pass_(EVERY_S)
    assert bench.train(2) == (2, None)
    assert (bench.pauses.ended().typical, bench.pauses.ended().hottest_c) == (True, 55.0)


def test_what_is_seen_in_a_pause_says_nothing_of_the_joules_of_the_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Limits(80.0, 75.0, None, 10.0))
    bench.tree.zone(84.0)
    bench.tree.firmware(0x60006)
    bench.open()
    assert bench.train(5) == (0, StopReason.HEAT)
    assert bench.pauses.ended().typical


def test_a_silent_meter_is_not_charged_for_a_pause(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LIMITS, step_s=1.0)
    bench.tree.zone(60.0)
    bench.budget_j = 200.0
    bench.open()

    def each(number: int) -> None:
        bench.meter.silent = number >= 5
        if number == 10:
            bench.tree.zone(90.0)

    plain = bench._wait

    def wait(seconds: float) -> bool:
        if bench.clock.now_s >= bench.start_s + 200.0:
            bench.tree.zone(60.0)
        return plain(seconds)

    bench.pauses._wait = wait
    # 3 W of work: the budget, less a tenth for sending, is worth 60 steps; 190 s of pause would have cost it all.
    steps, refused = bench.train(100, each)
    assert refused is StopReason.BUDGET
    assert 50 <= steps <= 60
    assert bench.pauses.paused_s > 150.0


def test_the_costs_of_an_untypical_round_are_not_learnt() -> None:
    def metered(phase: Phase, energy_j: float) -> PhaseEnergy:
        return PhaseEnergy(phase, energy_j, 1.0, 0.0, "measured", "s", None)

    reserve = Reserve(CostHistory(None), "bundle")
    usual = (metered(Phase.EMBED, 4.0), metered(Phase.TRAIN, 2.0), metered(Phase.ENCODE, 0.5))
    dear = (metered(Phase.EMBED, 9.0), metered(Phase.TRAIN, 8.0), metered(Phase.ENCODE, 1.0))
    reserve.worked(usual, 4, 10, 0.1)
    reserve.sent(0.5, 0.1)
    before = (reserve.embedding_j, reserve.step_j, reserve.work_w)
    assert before == (1.0, 0.2, 4.0)
    reserve.worked(dear, 4, 10, 0.1, typical=False)
    reserve.sent(1.0, 0.1)
    assert (reserve.embedding_j, reserve.step_j, reserve.work_w) == before
    # What is kept back for sending does learn: it is a safeguard, and the next round may be slow as well.
    assert reserve.joules(100.0) > 2.0
    reserve.worked(dear, 4, 10, 0.1)
    assert reserve.step_j == 0.8


def test_a_pause_is_progress_and_sleeps_in_short_turns(tmp_path: Path) -> None:
    """Real time, with a real wait: what feeds the watchdog goes on, and a stop request ends it."""
    tree = BoardTree(tmp_path)
    tree.zone(90.0)
    stopping, told = Stopping(), []

    def progress() -> None:
        told.append(None)
        if len(told) == 2:
            stopping.request("test")

    stopping.tell_progress(progress)
    clock = {"s": 0.0}

    def wait(seconds: float) -> bool:
        clock["s"] += seconds
        return stopping.wait(min(seconds, 0.01))

    watch = Watch(tmp_path, now_s=lambda: clock["s"], own_cpu_s=lambda: 0.0, load=False)
    pauses = Pauses(Judge(LIMITS), watch.look, now_s=lambda: clock["s"], wait=wait)
    assert pauses.until_fit(1000.0) is StopReason.SHUTDOWN
    assert stopping.requested
    assert len(told) == 2
    assert clock["s"] == 2 * EVERY_S
    stopping.close()


def test_a_pause_for_which_no_time_is_left_is_said_to_be_of_none(tmp_path: Path, lines: Any) -> None:
    bench = Bench(tmp_path, LIMITS)
    bench.warms(ambient_c=90.0)
    bench.open()
    assert bench.pauses.until_fit(bench.clock.monotonic() - 5.0) is StopReason.HEAT
    assert [line for line in lines() if line.startswith("paused for at most 0 s: ")]
    assert bench.waits == []
