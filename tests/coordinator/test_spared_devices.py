"""Rounds that ask only some of those who are present, or nobody for a while."""

from __future__ import annotations

from coordinator.run.rounds.round_events import (
    Accepted,
    Arrived,
    Close,
    Dry,
    Fail,
    Hope,
    Open,
    Rules,
    Settled,
    Spared,
    State,
    Tick,
)
from coordinator.run.rounds.round_machine import RoundMachine


def opened(*present: str, quorum: float = 1.0, rounds: int = 2) -> RoundMachine:
    machine = RoundMachine(Rules(rounds=rounds, devices=len(present), quorum=quorum, deadline_s=100.0))
    for device_id in present:
        machine.step(Arrived(device_id), 0.0)
    assert isinstance(machine.step(Tick(), 0.0)[0], Open)
    return machine


def test_who_is_spared_is_neither_owed_an_order_nor_waited_for() -> None:
    machine = opened("a", "b", "c")
    assert machine.step(Spared(("b", "c")), 1.0) == []
    assert [machine.owes(name) for name in "abc"] == [True, False, False]
    assert not machine.admits("b", 2.0)
    assert machine.step(Accepted("a"), 3.0) == [Close(1, ("a",), ())]


def test_a_quorum_counts_those_who_were_asked() -> None:
    machine = opened(*"abcdefgh", quorum=0.5)
    machine.step(Spared(tuple("cdefgh")), 1.0)
    machine.step(Accepted("a"), 2.0)
    assert machine.step(Tick(), 101.0) == [Close(1, ("a",), ("b",))], "a deadline after the orders were on disk"


def test_the_next_round_may_ask_whom_the_last_one_spared() -> None:
    machine = opened("a", "b")
    machine.step(Spared(("b",)), 1.0)
    machine.step(Accepted("a"), 2.0)
    machine.step(Settled(), 3.0)
    assert machine.step(Tick(), 3.0) == [Open(2, 1, ("a", "b"), ())]


def test_without_joules_a_round_rests_and_is_tried_again_as_the_same_attempt() -> None:
    machine = opened("a", "b")
    assert machine.step(Dry(), 1.0) == []
    assert machine.state is State.GATHERING
    rest_s = machine.rules.gather_s
    for now_s in (1.1, 5.0, 0.9 + rest_s):
        assert machine.step(Tick(), now_s) == []
    assert machine.step(Tick(), 1.0 + rest_s) == [Open(1, 1, ("a", "b"), ())]


def test_joules_that_only_news_could_bring_are_waited_for_as_long_as_patience_goes() -> None:
    machine = opened("a", "b")
    assert machine.step(Dry(Hope.NEWS, "nothing is left"), 1.0) == []
    # The time counts from the first try, whatever tries lie between.
    last_s = 1.0 + machine.rules.patience_s
    assert machine.step(Dry(Hope.NEWS, "nothing is left"), last_s - 0.001) == []
    (end,) = machine.step(Dry(Hope.NEWS, "nothing is left"), last_s)
    assert isinstance(end, Fail)
    assert machine.state is State.FAILED
    assert f"{machine.rules.patience_s:.0f} s after the first try: nothing is left" in end.reason


def test_joules_that_time_brings_are_waited_for_without_end() -> None:
    machine = opened("a", "b")
    for now_s in (1.0, 2.0 + machine.rules.patience_s, 1e7):
        assert machine.step(Dry(Hope.TIME, "the sun comes back"), now_s) == []


def test_patience_begins_anew_after_a_round_that_could_be_planned() -> None:
    machine = opened("a", "b")
    machine.step(Dry(Hope.NEWS, "nothing is left"), 1.0)
    rest_s = 1.0 + machine.rules.gather_s
    assert isinstance(machine.step(Tick(), rest_s)[0], Open)
    machine.step(Spared(()), rest_s)
    assert machine.step(Dry(Hope.NEWS, "nothing is left"), 1.0 + machine.rules.patience_s) == []
