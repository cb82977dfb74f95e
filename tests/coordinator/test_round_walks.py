"""Rounds while reports are being written, planned and refused, in any order: nobody is lost, counted twice or decided
about too early."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from walks import lengths, walk

from coordinator.run.rounds.round_events import (
    FINAL,
    Abandon,
    Accepted,
    Action,
    Arrived,
    Close,
    Dry,
    Event,
    Fail,
    Finish,
    Halt,
    Hope,
    Left,
    Open,
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

NAMES = st.sampled_from("abcd")
QUORUMS = st.sampled_from([0.0, 0.5, 0.75, 1.0])


class RoundWalk(RuleBasedStateMachine):
    """Does what the run driver does, and remembers in plain sets what must come of it."""

    @initialize(rounds=st.integers(1, 3), devices=st.integers(1, 3), quorum=QUORUMS, attempts=st.integers(1, 3))
    def begin(self, rounds: int, devices: int, quorum: float, attempts: int) -> None:
        self.rules_ = Rules(rounds, devices, quorum, deadline_s=10, attempts=attempts, gather_s=3)
        self.machine = RoundMachine(self.rules_)
        self.now_s = 0.0
        self.present: set[str] = set()
        self.writing: set[str] = set()
        self.accepted: list[str] = []
        self.asked: set[str] = set()
        self.welcome: set[str] = set()
        self.planning: tuple[str, ...] | None = None
        self.opened_s: float | None = None
        self.settling = False
        self.closed = 0
        self.stop_wanted = False
        self.ended: Action | None = None

    def feed(self, event: Event) -> None:
        for action in self.machine.step(event, self.now_s):
            assert self.ended is None, "nothing happens after the end"
            told = isinstance(event, Settled | Dry)
            assert told or not self.writing, f"{action} while a report is being written"
            self.take(action)

    def take(self, action: Action) -> None:
        match action:
            case Open(number, _, devices, carried):
                assert (self.planning, self.opened_s, self.settling) == (None, None, False)
                assert number == self.closed + 1
                assert list(carried) == self.accepted
                assert set(devices) == self.present | set(self.accepted)
                self.planning = tuple(device for device in devices if device not in carried)
                self.asked = set(devices)
            case Close(number, reported, missing):
                assert self.opened_s is not None
                assert number == self.closed + 1
                assert list(reported) == self.accepted, "in the order of acceptance, each once"
                assert set(missing) == self.asked - set(reported)
                assert len(reported) >= max(1, self.rules_.quorum * len(self.asked) - 1e-9)
                self.opened_s, self.settling = None, True
            case Abandon(number, _, _):
                assert self.opened_s is not None
                assert number == self.closed + 1
                assert len(self.accepted) < max(1, self.rules_.quorum * len(self.asked) - 1e-9)
                self.opened_s = None
                self.welcome |= self.asked
            case Finish() | Fail() | Halt():
                self.ended = action
                assert not isinstance(action, Halt) or self.stop_wanted
                assert not isinstance(action, Finish) or self.closed == self.rules_.rounds

    def tick(self) -> None:
        self.feed(Tick())

    @rule(name=NAMES)
    def arrive(self, name: str) -> None:
        self.present.add(name)
        self.feed(Arrived(name))
        self.tick()

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.present.discard(name)
        self.feed(Left(name))
        self.tick()

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.tick()

    @precondition(lambda self: self.planning is not None and self.ended is None)
    @rule(spared=st.sets(NAMES), dry=st.sampled_from([False, False, False, True]))
    def plan(self, spared: set[str], dry: bool) -> None:
        """The orders are on disk, or nobody may be asked."""
        assert self.planning is not None
        asked, self.planning = self.planning, None
        if dry:
            self.asked = set()
            self.feed(Dry(Hope.TIME, "why"))
        else:
            left_out = tuple(device_id for device_id in asked if device_id in spared)
            self.asked -= set(left_out)
            self.opened_s = self.now_s
            self.feed(Spared(left_out))
        self.tick()

    @rule(name=NAMES)
    def begin_to_write(self, name: str) -> None:
        """A report came, and counts if it can be written."""
        if self.planning is None and name not in self.writing and self.machine.admits(name, self.now_s):
            assert name not in self.accepted
            self.writing.add(name)
            self.feed(Writing(name))

    @precondition(lambda self: bool(self.writing))
    @rule(at=st.integers(0, 3), outcome=st.sampled_from(["accepted", "accepted", "rejected", "failed"]))
    def end_of_writing(self, at: int, outcome: str) -> None:
        name = sorted(self.writing)[at % len(self.writing)]
        if outcome == "accepted":
            # From here on it is folded: it must be in the round that closes next, whatever happened meanwhile.
            self.accepted.append(name)
            self.asked.add(name) if self.opened_s is not None else None
            self.feed(Accepted(name))
        elif outcome == "rejected":
            self.feed(Refused(name))
        self.writing.discard(name)
        self.feed(Written(name))
        self.tick()

    @precondition(lambda self: self.settling and self.ended is None)
    @rule()
    def settle(self) -> None:
        self.settling = False
        self.closed += 1
        self.accepted, self.asked, self.welcome = [], set(), set()
        self.feed(Settled())
        self.tick()

    @rule(really=st.sampled_from([False, False, False, True]))
    def stop(self, really: bool) -> None:
        if really and not self.settling:
            self.stop_wanted = True
            self.feed(Stop())

    @invariant()
    def what_was_accepted_is_remembered(self) -> None:
        if hasattr(self, "machine") and self.ended is None:
            assert list(self.machine.reported) == self.accepted

    @invariant()
    def work_that_was_ordered_in_vain_is_still_welcome(self) -> None:
        if hasattr(self, "machine") and self.ended is None and not self.settling and self.planning is None:
            for name in self.welcome - set(self.accepted):
                assert self.machine.admits(name, self.now_s) or self.now_s >= self.machine.deadline_s

    @invariant()
    def nothing_goes_on_beyond_its_time(self) -> None:
        if not hasattr(self, "machine") or self.writing or self.ended is not None:
            return
        assert not self.stop_wanted or self.settling, "a stop waits for reports that are being written, and no longer"
        if self.machine.state is State.OPEN and self.opened_s is not None:
            assert self.now_s < self.opened_s + 10
            assert set(self.machine.ordered) == self.asked

    @invariant()
    def an_end_is_an_end(self) -> None:
        if hasattr(self, "machine"):
            assert (self.ended is not None) == (self.machine.state in FINAL)


@lengths
def test_no_order_of_reports_ticks_and_departures_loses_or_doubles_a_report(length: str) -> None:
    walk(RoundWalk, length, short=200)
