"""The round as a state machine: whatever happens in whatever order, the head moves once per closed round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.run.rounds.round_events import (
    FINAL,
    Abandon,
    Accepted,
    Action,
    Arrived,
    Broken,
    Close,
    Event,
    Fail,
    Finish,
    GivenUp,
    Halt,
    Left,
    Open,
    QuorumAfterAll,
    Refused,
    Rules,
    Settled,
    Spared,
    State,
    Stop,
    Tick,
    Writing,
    Written,
)
from coordinator.run.rounds.round_machine import RoundMachine

RULES = Rules(rounds=2, devices=2, quorum=0.5, deadline_s=10, attempts=2, gather_s=3)


def _step(machine: RoundMachine, event: Event, now_s: float) -> list[Action]:
    """One event; a round that opens has its orders on disk at once, with nobody spared."""
    actions = machine.step(event, now_s)
    if any(isinstance(action, Open) for action in actions):
        actions += machine.step(Spared(()), now_s)
    return actions


def _run(machine: RoundMachine, *events: tuple[float, Event]) -> list[Action]:
    return [action for now_s, event in events for action in _step(machine, event, now_s)]


def _opened(rules: Rules = RULES, devices: str = "ab") -> RoundMachine:
    machine = RoundMachine(rules)
    actions = _run(machine, *((0.0, Arrived(device_id)) for device_id in devices), (0.0, Tick()))
    assert actions == [Open(1, 1, tuple(devices), ())]
    return machine


def test_round_one_waits_for_all_the_devices_that_the_plan_wants() -> None:
    machine = RoundMachine(RULES)
    assert _run(machine, (0, Arrived("a")), (1e6, Tick()), (1e6, Left("a")), (1e6, Arrived("b")), (1e6, Tick())) == []
    assert _run(machine, (1e6, Arrived("a")), (1e6, Tick())) == [Open(1, 1, ("b", "a"), ())]


def test_a_round_closes_as_soon_as_everyone_has_reported() -> None:
    machine = _opened()
    assert _run(machine, (1, Accepted("b"))) == []
    assert _run(machine, (2, Accepted("a"))) == [Close(1, ("b", "a"), ())]
    assert _run(machine, (3, Tick()), (99, Tick())) == [], "not before the head is on disk"
    assert _run(machine, (99, Settled()), (99, Tick())) == [Open(2, 1, ("a", "b"), ())]


def test_a_quorum_closes_a_round_at_the_deadline_and_not_before() -> None:
    machine = _opened()
    assert _run(machine, (1, Accepted("a")), (9.9, Tick())) == []
    assert _run(machine, (10, Tick())) == [Close(1, ("a",), ("b",))]
    assert not machine.admits("b", 10)


def test_the_deadline_begins_when_the_orders_are_on_disk_however_long_the_planning_takes() -> None:
    machine = RoundMachine(RULES)
    for device_id in "ab":
        machine.step(Arrived(device_id), 0.0)
    assert machine.step(Tick(), 0.0) == [Open(1, 1, ("a", "b"), ())]
    for event in (Tick(), Left("b"), Arrived("b"), Left("b"), Tick()):
        assert machine.step(event, 50.0) == [], "no order is out yet"
    assert machine.step(Spared(()), 100.0) == []
    assert machine.deadline_s == 110.0
    assert machine.step(Tick(), 109.9) == []
    assert isinstance(machine.step(Tick(), 110.0)[0], Abandon)


def test_a_round_whose_devices_all_left_while_it_was_planned_ends_when_its_orders_are_on_disk() -> None:
    machine = RoundMachine(RULES)
    for device_id in "ab":
        machine.step(Arrived(device_id), 0.0)
    machine.step(Tick(), 0.0)
    assert [*machine.step(Left("a"), 1.0), *machine.step(Left("b"), 1.0)] == []
    assert isinstance(machine.step(Spared(()), 2.0)[0], Abandon)
    machine = RoundMachine(RULES)
    for device_id in "ab":
        machine.step(Arrived(device_id), 0.0)
    machine.step(Tick(), 0.0)
    assert machine.step(Stop(), 1.0) == [Halt()], "an operator need not wait for the planner"


def test_without_a_quorum_the_round_is_tried_again_under_its_number_and_keeps_what_it_has() -> None:
    machine = _opened(Rules(rounds=1, devices=3, quorum=1, deadline_s=10, attempts=2, gather_s=3), "abc")
    (abandoned,) = _run(machine, (1, Accepted("a")), (10, Tick()))
    assert isinstance(abandoned, Abandon)
    assert machine.admits("b", 10), "work that was under way is still welcome"
    assert _run(machine, (10, Accepted("b")), (10, Tick())) == [Open(1, 2, ("a", "b", "c"), ("a", "b"))]
    assert _run(machine, (11, Accepted("c"))) == [Close(1, ("a", "b", "c"), ())]
    assert _run(machine, (11, Settled())) == [Finish()]


def test_who_was_missed_by_an_attempt_is_not_free_before_it_is_on_disk_that_it_was_given_up() -> None:
    machine = _opened(Rules(rounds=1, devices=3, quorum=1, deadline_s=10, attempts=2, gather_s=3), "abc")
    (abandoned,) = _run(machine, (1, Accepted("a")), (10, Tick()))
    assert isinstance(abandoned, Abandon)
    assert [machine.settles_without(one) for one in "abc"] == [False, True, True]
    _run(machine, (11, Accepted("b")), (11, GivenUp(1, 2)))
    assert [machine.settles_without(one) for one in "abc"] == [False, False, True], "that is no word of this attempt"
    _run(machine, (12, GivenUp(1, 1)))
    assert not any(machine.settles_without(one) for one in "abc")


@pytest.mark.parametrize("decided", [False, True])
def test_an_attempt_that_had_a_quorum_after_all_is_given_up_by_nobody_any_more(decided: bool) -> None:
    machine = _opened(Rules(rounds=2, devices=3, quorum=1, deadline_s=10, attempts=3, gather_s=3), "abc")
    _run(machine, (1, Accepted("a")), (10, Tick()))
    asked: list[tuple[float, Event]] = [(11.0, Tick())] if decided else []
    made = _run(machine, *asked, (11, Accepted("b")), (11, Accepted("c")))
    # With the next attempt open, that one closes, and there is nothing to go back to.
    assert [type(action) for action in made] == ([Open, Close] if decided else [])
    made = _run(machine, (12, QuorumAfterAll(1, 1)))
    assert [type(action) for action in made] == ([] if decided else [Close])
    assert machine.giving_up is None
    assert machine.state is State.SETTLING
    assert machine.attempt == (2 if decided else 1)


def test_after_the_last_attempt_the_run_fails_with_the_count() -> None:
    machine = _opened()
    actions = _run(machine, (10, Tick()), (10, Tick()), (20, Tick()))
    assert [type(action) for action in actions] == [Abandon, Open, Abandon, Fail]
    assert "0 of 2 reports, 1 needed; given up after 2 attempts" in actions[-1].reason  # type: ignore[union-attr]


def test_a_later_round_waits_a_while_for_the_devices_of_the_one_before() -> None:
    machine = _opened()
    _run(machine, (1, Accepted("a")), (1, Left("b")), (1, Settled()))
    assert machine.round == 2
    machine = RoundMachine(RULES, round=2, expected=("a", "b"), now_s=0)
    assert _run(machine, (1, Arrived("a")), (2.9, Tick())) == []
    assert _run(machine, (3.1, Tick())) == [Open(2, 1, ("a",), ())]
    machine = RoundMachine(RULES, round=2, expected=("a", "b"), now_s=0)
    assert _run(machine, (1, Arrived("a")), (1, Arrived("b")), (1, Tick())) == [Open(2, 1, ("a", "b"), ())]


def test_a_device_that_comes_back_to_its_round_is_waited_for_again() -> None:
    machine = _opened(Rules(rounds=1, devices=3, quorum=0.1, deadline_s=10), "abc")
    assert _run(machine, (1, Left("c")), (1, Arrived("c")), (1, Accepted("a")), (1, Accepted("b"))) == []
    assert _run(machine, (2, Left("c"))) == [Close(1, ("a", "b"), ("c",))]


def test_a_stop_lets_a_head_that_is_being_made_be_finished() -> None:
    machine = _opened()
    _run(machine, (1, Accepted("a")), (1, Accepted("b")))
    assert _run(machine, (1, Stop())) == []
    assert _run(machine, (2, Settled())) == [Halt()]
    assert _run(_opened(), (1, Stop())) == [Halt()]


@pytest.mark.parametrize(
    ("quorum", "ordered", "needed"), [(0, 5, 1), (0.5, 5, 3), (1, 5, 5), (0.7, 10, 7), (0.1, 1, 1)]
)
def test_a_quorum_is_a_share_rounded_up_and_at_least_one(quorum: float, ordered: int, needed: int) -> None:
    assert Rules(1, 1, quorum, 1).needed(ordered) == needed


_NAMES = st.sampled_from("abcde")
_EVENTS = st.one_of(
    st.builds(Arrived, _NAMES),
    st.builds(Arrived, _NAMES),
    st.builds(Left, _NAMES),
    st.builds(Accepted, _NAMES),
    st.builds(Accepted, _NAMES),
    st.builds(Refused, _NAMES),
    st.just(Tick()),
    st.just(Tick()),
    st.just(Settled()),
    st.just(Stop()),
    st.just(Broken("broken")),
)
_RULES = st.builds(
    Rules,
    rounds=st.integers(1, 4),
    devices=st.integers(1, 4),
    quorum=st.floats(0, 1),
    deadline_s=st.floats(0.5, 20),
    attempts=st.integers(1, 3),
    gather_s=st.floats(0, 5),
)


@given(_RULES, st.lists(st.tuples(st.floats(0, 5), _EVENTS), max_size=120))
def test_in_any_order_of_events_rounds_close_once_with_a_quorum_of_accepted_reports(
    rules: Rules, story: list[tuple[float, Event]]
) -> None:
    machine, now_s = RoundMachine(rules), 0.0
    closed: list[int] = []
    is_open = settling = False
    ended: Action | None = None
    accepted: set[str] = set()
    opened_s = 0.0
    for pause_s, event in story:
        now_s += pause_s
        if isinstance(event, Accepted) and not machine.admits(event.device_id, now_s):
            continue  # what the machine does not admit is never accepted
        if isinstance(event, Accepted):
            accepted.add(event.device_id)
        for action in _step(machine, event, now_s):
            assert ended is None, "nothing happens after the end"
            match action:
                case Open(number, attempt, devices, carried):
                    assert not is_open
                    assert not settling
                    assert number == len(closed) + 1 <= rules.rounds
                    assert 1 <= attempt <= rules.attempts
                    assert devices
                    assert set(carried) == accepted
                    assert number > 1 or attempt > 1 or len(devices) >= rules.devices
                    is_open, opened_s = True, now_s
                case Close(number, reported, missing):
                    assert is_open
                    assert number not in closed
                    assert set(reported) == accepted
                    assert len(reported) >= rules.needed(len(reported) + len(missing))
                    closed.append(number)
                    is_open, settling = False, True
                    accepted = set()
                case Abandon(number, _, _):
                    assert is_open
                    assert number == len(closed) + 1
                    is_open = False
                case Finish():
                    assert len(closed) == rules.rounds
                    ended = action
                case Fail() | Halt():
                    ended = action
        if isinstance(event, Settled):
            settling = False
        assert (ended is not None) == (machine.state in FINAL)
        if machine.state is State.OPEN and isinstance(event, Tick):
            assert now_s < opened_s + rules.deadline_s, "no round stays open past its deadline"
    assert closed == list(range(1, len(closed) + 1))


@given(_RULES, st.lists(_NAMES, min_size=1, max_size=5, unique=True), st.data())
def test_a_machine_resumed_in_an_open_round_ends_it_as_an_undisturbed_one(
    rules: Rules, names: list[str], data: st.DataObject
) -> None:
    rules = Rules(1, len(names), rules.quorum, rules.deadline_s)
    first = _opened(rules, "".join(names))
    before = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) - 1))
    for device_id in before:
        assert first.step(Accepted(device_id), 0.0) == []
    second = RoundMachine.resume(rules, round=1, attempt=1, ordered=names, reported=before, now_s=0.0)
    after = [name for name in names if name not in before]
    actions = [[*_run(machine, *((0.0, Accepted(device_id)) for device_id in after))] for machine in (first, second)]
    assert actions[0] == actions[1] == [Close(1, (*before, *after), ())]


def test_nothing_is_decided_while_a_report_is_being_written() -> None:
    machine = _opened(Rules(rounds=1, devices=3, quorum=0.6, deadline_s=10), "abc")
    story: list[tuple[float, Event]] = [
        (9, Writing("a")), (9, Writing("b")), (11, Accepted("a")), (11, Written("a")), (11, Tick()), (11, Left("c")),
    ]  # fmt: skip
    assert _run(machine, *story) == []
    assert _run(machine, (12, Accepted("b"))) == []
    assert _run(machine, (12, Written("b"))) == [Close(1, ("a", "b"), ("c",))]
    machine = _opened()
    assert _run(machine, (1, Writing("a")), (1, Stop()), (2, Tick())) == []
    assert _run(machine, (3, Written("a"))) == [Halt()]


def test_a_machine_that_gathers_again_after_a_restart_waits_for_those_whom_it_waited_for() -> None:
    rules = Rules(rounds=1, devices=3, quorum=1, deadline_s=10, gather_s=3)
    machine = RoundMachine.retry(
        rules, round=1, attempt=2, ordered="abc", reported=["a"], expected=["a", "b", "c"], now_s=0
    )
    assert _run(machine, (1, Arrived("b")), (1, Tick())) == []
    assert _run(machine, (2, Arrived("c")), (2, Tick())) == [Open(1, 2, ("a", "b", "c"), ("a",))]
