"""The round as a state machine: events in, actions out. No socket, no clock, no database.

Rules kept here:

* Round 1 opens when `devices` devices are present. A later round opens as soon as the devices of the round before
  are back, or after `gather_s` with whoever is there.
* All who are present when a round opens are ordered; who comes later takes part in the next one.
* The deadline begins when the orders of a round are on disk. Until then no device has one, and nothing ends the round.
* A round closes when nobody is left to wait for, or at its deadline, if a quorum has reported; otherwise it is
  abandoned and tried again under the same number. Reports accepted before stay valid in the next attempt: the head
  has not moved, so they are neither lost nor asked for twice.
* Until it is on disk that an attempt is abandoned, reports of it count for it: with them it may close after all.
* Where late reports count, whoever has not reported when a round closes is left at work: not asked anew, and not waited
  for, until its report comes, it asks for work, or the head has moved on too often. A round with a buffer closes when
  so many reports are in, of whichever round, or when nobody is at work any more.
* While a report is being written nothing is decided: no round ends, opens or stops, whatever else happens meanwhile.
* Whom the planner spares is not ordered, and not waited for. When it can ask nobody, the round gathers again, or the
  run fails when nothing can refill the budgets.
* The head moves only between :class:`Close` and :class:`Settled`. No round closes twice.

Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from coordinator.run.rounds.round_events import (
    FINAL,
    Abandon,
    Accepted,
    AcceptedLate,
    Action,
    Arrived,
    Back,
    Broken,
    Close,
    Dry,
    Enough,
    Event,
    Fail,
    Finish,
    GivenUp,
    Halt,
    Hope,
    Left,
    Open,
    Pause,
    QuorumAfterAll,
    Refused,
    Rest,
    Rules,
    Settled,
    Spared,
    State,
    Stop,
    Tick,
    Writing,
    Written,
)


class RoundMachine:
    """The rounds of one run.

    Args:
        rules: see :class:`Rules`.
        round: the round to gather for, from 1.
        expected: devices of the round before, which a round > 1 waits ``gather_s`` for.
        now_s: the time.
    """

    def __init__(self, rules: Rules, *, round: int = 1, expected: Iterable[str] = (), now_s: float = 0.0) -> None:
        self.rules = rules
        self.round = round
        self.attempt = 1
        self.state = State.GATHERING
        self.deadline_s = math.inf
        # Dictionaries as ordered sets: the order of arrival must not depend on hashing.
        self.present: dict[str, None] = {}
        self.ordered: dict[str, None] = {}
        self.reported: dict[str, None] = {}
        # Ordered in an earlier attempt at this round: their reports still count.
        self._earlier: set[str] = set()
        # At work on orders of rounds that have closed, by device; and reports of these that count in this round.
        self.at_work: dict[str, int] = {}
        self.late: dict[tuple[int, str], None] = {}
        self._waiting: set[str] = set()
        # Whose report of this attempt was refused: not waited for, however often they come, but with something new.
        self._refused: set[str] = set()
        # Whose reports are being written.
        self._writing: set[str] = set()
        self._expected = set(expected)
        self._gather_until_s = now_s + rules.gather_s
        self._settling_s = now_s
        # Budgets refill with time: no round is tried before.
        self._rest_until_s = -math.inf
        self._dry_since_s: float | None = None
        # From the decision to open until the orders are on disk.
        self._opening = False
        # The attempt that was given up, with those who were ordered in it, until the next one is on disk.
        self._given_up: tuple[int, dict[str, None]] | None = None
        # Whom it asked and did not hear of, until that it was given up is on disk: round, attempt, devices.
        self.giving_up: tuple[int, int, frozenset[str]] | None = None
        self._stopping = self._stopping_at_once = False
        self._pausing: Pause | None = None

    @classmethod
    def resume(
        cls,
        rules: Rules,
        *,
        round: int,
        attempt: int,
        ordered: Iterable[str],
        reported: Iterable[str],
        earlier: Iterable[str] = (),
        left: Iterable[str] = (),
        refused: Iterable[str] = (),
        now_s: float,
    ) -> RoundMachine:
        """A machine in the middle of an open round, as after a restart. ``ordered`` are the devices of this attempt
        and those whose reports were carried over, ``earlier`` those of any attempt. The deadline starts anew: no
        clock survives a restart."""
        machine = cls(rules, round=round, now_s=now_s)
        machine.attempt = attempt
        machine.state = State.OPEN
        machine.ordered = dict.fromkeys(ordered)
        machine.reported = dict.fromkeys(reported)
        machine._earlier = set(earlier)
        machine._refused = set(refused)
        machine._waiting = set(machine.ordered) - set(machine.reported) - set(left) - machine._refused
        machine.deadline_s = now_s + rules.deadline_s
        return machine

    @classmethod
    def retry(
        cls,
        rules: Rules,
        *,
        round: int,
        attempt: int,
        ordered: Iterable[str],
        reported: Iterable[str],
        expected: Iterable[str] = (),
        now_s: float,
    ) -> RoundMachine:
        """A machine that gathers for a further attempt at a round, as after a restart. ``ordered`` are the devices
        of the attempts before, ``expected`` those that the last one waited for in vain."""
        machine = cls(rules, round=round, expected=expected, now_s=now_s)
        machine._earlier = set(ordered)
        machine.attempt = attempt
        machine.reported = dict.fromkeys(reported)
        return machine

    def carry(self, at_work: Mapping[str, int], late: Iterable[tuple[int, str]]) -> None:
        """After a restart: who may still be at work on orders of earlier rounds, and which late reports are held."""
        self.at_work = {device: number for device, number in at_work.items() if device not in self.ordered}
        self._expected -= self.at_work.keys()
        self.late = dict.fromkeys(late)

    def counts_late(self, number: int) -> bool:
        """Whether a report of round ``number`` would count in the current one now, although its own has closed."""
        there = self.state in (State.GATHERING, State.OPEN)
        return there and self.round - self.rules.late <= number < self.round

    def will_count_late(self, number: int) -> bool:
        """Whether a report of round ``number`` will count in the next one, when this one has settled."""
        goes_on = self.state is State.SETTLING and self.round < self.rules.rounds and not self._stopping
        return goes_on and self.round + 1 - self.rules.late <= number <= self.round

    @property
    def counted(self) -> int:
        """Reports that count in the current round."""
        return len(self.reported) + len(self.late)

    def admits(self, device_id: str, now_s: float) -> bool:
        """Whether a report of this device for the current round would count."""
        return now_s < self.deadline_s and self._lacks(device_id)

    def is_undecided(self, device_id: str, now_s: float) -> bool:
        """Whether the deadline has passed, and it is not known yet whether the round closes without this device or is
        tried again."""
        return self.state is State.OPEN and now_s >= self.deadline_s and self._lacks(device_id)

    def owes(self, device_id: str) -> bool:
        """Whether the device was ordered in the open round and has not reported."""
        return self.state is State.OPEN and device_id in self.ordered and device_id not in self.reported

    def settles_without(self, device_id: str) -> bool:
        """Whether the round is being written down without a report of this device, as closed or as given up: until
        then its order stands on disk, and a restart would find it there."""
        if self.giving_up is not None and device_id in self.giving_up[2] and device_id not in self.reported:
            return True
        return self.state is State.SETTLING and device_id in self.ordered and device_id not in self.reported

    @property
    def is_pausing(self) -> bool:
        """Whether the run is to rest, and does not yet."""
        return self._pausing is not None and self.state not in FINAL

    def could_open(self, now_s: float) -> bool:
        """Whether a round would open now, if it waited no longer for devices that are away."""
        if self.state is not State.GATHERING or now_s < self._rest_until_s:
            return False
        if self.round == 1 and self.attempt == 1:
            return len(self.present) >= self.rules.devices
        return bool(self.present or self.reported)

    def has_gathered(self, now_s: float) -> bool:
        """Whether it has waited long enough for the devices of the round before."""
        return now_s >= self._gather_until_s

    def settles_before_another(self, now_s: float) -> bool:
        """Whether a round is being folded and written down that is not the last, for no longer than one gathers."""
        goes_on = self.round < self.rules.rounds and not self._stopping and self._pausing is None
        return self.state is State.SETTLING and goes_on and now_s < self._settling_s + self.rules.gather_s

    def still_lacks(self, device_id: str) -> bool:
        """Whether a report of this device for the current round is missing and would be taken, now or later."""
        return self._lacks(device_id)

    def _lacks(self, device_id: str) -> bool:
        if device_id in self.reported:
            return False
        asked = self.state is State.OPEN and device_id in self.ordered
        return asked or (self.state in (State.OPEN, State.GATHERING) and device_id in self._earlier)

    def step(self, event: Event, now_s: float) -> list[Action]:
        """Take one event. O(1) unless a round opens or closes."""
        if self.state in FINAL:
            return []
        match event:
            case Arrived(device_id):
                if device_id not in self.at_work:
                    self.present[device_id] = None
                    if self.owes(device_id) and device_id not in self._refused:
                        self._waiting.add(device_id)
            case Back(device_id):
                self.at_work.pop(device_id, None)
            case AcceptedLate(number, device_id):
                self.late[number, device_id] = None
            case Left(device_id):
                self.present.pop(device_id, None)
                self._expected.discard(device_id)
                self._waiting.discard(device_id)
                self._refused.discard(device_id)
            case Writing(device_id):
                self._writing.add(device_id)
            case Written(device_id):
                self._writing.discard(device_id)
            case Accepted(device_id):
                if self._lacks(device_id):
                    self.reported[device_id] = None
                    if self.state is State.OPEN:
                        self.ordered[device_id] = None
                    self._waiting.discard(device_id)
            case Refused(device_id):
                self._waiting.discard(device_id)
                self._refused.add(device_id)
            case Spared(devices):
                self._dry_since_s = None
                self._given_up = None
                if self.state is State.OPEN and self._opening:
                    self._opening, self.deadline_s = False, now_s + self.rules.deadline_s
                for device_id in devices:
                    self.ordered.pop(device_id, None)
                    self._waiting.discard(device_id)
            case Dry(hope, why):
                if (dried := self._dry(hope, why, now_s)) is not None:
                    return [dried]
            case QuorumAfterAll(number, attempt):
                self._take_back(number, attempt, now_s)
            case GivenUp(number, attempt):
                if self.giving_up is not None and self.giving_up[:2] == (number, attempt):
                    self.giving_up = None
            case Settled():
                if (end := self._settled(now_s)) is not None:
                    return [end]
            case Enough(why):
                self.state = State.FINISHED
                return [Finish(why)]
            case Broken(reason):
                self.state = State.FAILED
                return [Fail(reason)]
            case Stop(at_once):
                self._stopping = True
                self._stopping_at_once = at_once or self._stopping_at_once
            case Pause():
                self._pausing = event
            case Tick():
                pass
        return [] if self._writing else self._decide(event, now_s)

    def _decide(self, event: Event, now_s: float) -> list[Action]:
        # A head that is being made is finished first: it was paid for.
        if self._stopping and (self.state is not State.SETTLING or self._stopping_at_once):
            self.state = State.STOPPED
            return [Halt()]
        if self._pausing is not None and self._may_rest(self._pausing):
            self.state = State.PAUSED
            return [Rest()]
        if isinstance(event, Tick) and self.state is State.GATHERING and self._may_open(now_s):
            return self._open(now_s)
        if self.state is State.OPEN and not self._opening and (self._is_full() or now_s >= self.deadline_s):
            return self._end(now_s)
        return []

    def _is_full(self) -> bool:
        if self.rules.buffer is not None:
            return self.counted >= self.rules.buffer or not (self._waiting or self.at_work)
        return not self._waiting or self.rules.are_enough(len(self.reported), len(self.ordered))

    def _may_rest(self, pause: Pause) -> bool:
        if pause.after_round:
            return self.state is State.GATHERING and self.attempt == 1
        return self.state is not State.SETTLING

    def _may_open(self, now_s: float) -> bool:
        if now_s < self._rest_until_s:
            return False
        if self.round == 1 and self.attempt == 1:
            return len(self.present) >= self.rules.devices
        if not self.present and not self.reported:
            return False
        missed = self._expected - self.present.keys() - self.reported.keys()
        return not missed or now_s >= self._gather_until_s

    def _open(self, now_s: float) -> list[Action]:
        carried = tuple(self.reported)
        self.ordered = dict.fromkeys((*carried, *self.present))
        self._waiting = set(self.ordered) - set(carried)
        self._refused = set()
        self.state = State.OPEN
        # Planning may take long: the deadline begins when the orders are on disk, and until then nothing ends.
        self._opening, self.deadline_s = True, math.inf
        return [Open(self.round, self.attempt, tuple(self.ordered), carried)]

    def _end(self, now_s: float) -> list[Action]:
        missing = tuple(device for device in self.ordered if device not in self.reported)
        reported = len(self.reported) if self.rules.buffer is None else self.counted
        if reported >= self.rules.needed(len(self.ordered)):
            self.state, self._settling_s = State.SETTLING, now_s
            # Decided: there is no attempt to go back to any more.
            self._given_up = None
            if self.rules.late and self.round < self.rules.rounds:
                for device_id in [device_id for device_id in self.ordered if device_id in self._waiting]:
                    self.at_work[device_id] = self.round
                    self.present.pop(device_id, None)
            return [Close(self.round, tuple(self.reported), missing)]
        why = "the deadline passed" if self._waiting else "nobody is left to wait for"
        reason = (
            f"round {self.round}, attempt {self.attempt}: {why} with {len(self.reported)} of {len(self.ordered)} "
            f"reports, {self.rules.needed(len(self.ordered))} needed"
        )
        actions: list[Action] = [Abandon(self.round, self.attempt, reason)]
        if self.attempt >= self.rules.attempts:
            self.state = State.FAILED
            return [*actions, Fail(f"{reason}; given up after {self.attempt} attempts")]
        self._earlier |= set(self.ordered)
        self._given_up = self.attempt, self.ordered
        self.giving_up = self.round, self.attempt, frozenset(missing)
        self._gather(now_s, expected=missing)
        self.attempt += 1
        return actions

    def _take_back(self, number: int, attempt: int, now_s: float) -> None:
        """Go back to an attempt that was given up, past its deadline: it ends at the next decision. An attempt that
        was decided on meanwhile is not opened. Either way nobody writes any more that it was given up."""
        if self.giving_up is not None and self.giving_up[:2] == (number, attempt):
            self.giving_up = None
        if self._given_up is None or (number, attempt) != (self.round, self._given_up[0]):
            return
        _, ordered = self._given_up
        self._given_up = None
        self.state, self.attempt = State.OPEN, attempt
        self.ordered = ordered | self.reported
        self._waiting = set()
        self._opening, self.deadline_s = False, now_s

    def _dry(self, hope: Hope, why: str, now_s: float) -> Fail | None:
        """Wait for joules, without end only where they are sure to come: a run that waits holds up those behind it."""
        if self._dry_since_s is None:
            self._dry_since_s = now_s
        waited_s = now_s - self._dry_since_s
        if hope is Hope.NONE or (hope is Hope.NEWS and waited_s >= self.rules.patience_s):
            self.state = State.FAILED
            waited = f", {waited_s:.0f} s after the first try" if waited_s else ""
            return Fail(
                f"round {self.round} of {self.rules.rounds} can never open{waited}: {why}; no budget refills. "
                "Raise [budget], or plan fewer rounds"
            )
        self._gather(now_s, expected=())
        self._rest_until_s = now_s + self.rules.gather_s
        return None

    def _settled(self, now_s: float) -> Finish | None:
        if self.state is not State.SETTLING:
            return None
        if self.round >= self.rules.rounds:
            self.state = State.FINISHED
            return Finish()
        self.reported, self.late = {}, {}
        self._earlier = set()
        self.round += 1
        self.attempt = 1
        self.at_work = {key: of for key, of in self.at_work.items() if of >= self.round - self.rules.late}
        expected = tuple(device_id for device_id in self.ordered if device_id not in self.at_work)
        self._gather(now_s, expected=expected)
        return None

    def _gather(self, now_s: float, *, expected: Iterable[str]) -> None:
        self.state = State.GATHERING
        self._opening, self.deadline_s = False, math.inf
        self.ordered = {}
        self._waiting = set()
        self._expected = set(expected)
        self._gather_until_s = now_s + self.rules.gather_s
