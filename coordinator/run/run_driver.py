"""Runs one run: feeds events to its machine, and carries out the actions one after the other.

Rules kept here:

* The rows are the truth, the machine and the fold are caches of them. Where a write did not end well, or a row was
  there already, both are held against the rows; until that is done the report counts as being written.
* Actions are carried out in order. One that cannot be written down (disk full) is tried again until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from coordinator.run import report_transactions, round_transactions, run_transactions
from coordinator.run.batching import Batching
from coordinator.run.evaluation import figures_of, judged_by
from coordinator.run.reports.aggregation import Fold
from coordinator.run.reports.masked_fold import MaskedFold
from coordinator.run.reports.statistics_fold import StatisticsFold
from coordinator.run.resume import Rooms, take_newest
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
    Left,
    Open,
    Pause,
    QuorumAfterAll,
    Refused,
    Rest,
    Settled,
    Spared,
    State,
    Stop,
    Tick,
    Writing,
    Written,
)
from coordinator.run.rounds.sharing import Claim, Wish
from coordinator.run.run import ActiveRun
from coordinator.store import reports
from coordinator.store.database import DamagedError
from protos.errors import EdgejouleError, StoreError
from protos.model.task import MEASURES
from protos.orders import DeviceCard, Receipt, Verdict

log = logging.getLogger("edgejoule.coordinator")
RETRY_S = 1.0


class RunDriver:
    """One run in progress.

    Args:
        run: as opened.
        rooms: where things are written.
        now_s: the monotonic clock.
        card_of: the card of a device that is present.
        publish: called when there is news for devices that wait.
        may_open: whether its turn has come to ask devices; beside other runs alone.

    Attributes:
        claim: what it has had of the devices.
        end: state and reason with which the run ends.
        unwritten: why that is not on disk, or "".
    """

    def __init__(
        self,
        run: ActiveRun,
        rooms: Rooms,
        *,
        now_s: Callable[[], float],
        card_of: Callable[[str], DeviceCard | None],
        publish: Callable[[], None],
        claim: Claim | None = None,
        may_open: Callable[[RunDriver], bool] = lambda driver: True,
    ) -> None:
        self.run = run
        section = run.plan.run
        self.claim = claim or Claim(section.priority, section.share, 0)
        self._may_open = may_open
        # What devices said of themselves whose reports were refused: with something new they are asked again.
        self._refused_as: dict[str, DeviceCard | None] = {device_id: card_of(device_id) for device_id in run.refused}
        # Present, and at work for another run.
        self._lent: set[str] = set()
        self._rooms, self._store = rooms, rooms.store
        self._now_s, self._card_of, self._publish = now_s, card_of, publish
        self._actions: asyncio.Queue[Action] = asyncio.Queue()
        self._stop_wanted = asyncio.Event()
        # Cleared from a decision on a round, or on the run, until it is on disk.
        self._settled = asyncio.Event()
        self._settled.set()
        self.end, self.unwritten = ("failed", "ended by an error that could not be written down"), ""
        # The newest round whose head is on disk and was taken from there, or made here.
        self._moved_in = 0
        self._finding_out: set[asyncio.Task[None]] = set()
        self._reading: Batching[report_transactions.Arrived, report_transactions.Read]
        self._reading = Batching(self._read, gathers=True)
        self._accepting: Batching[tuple[int, report_transactions.Read], Receipt] = Batching(self._accept)

    async def drive(self) -> None:
        """Carry out actions until the run is over."""
        if self.run.machine.round > self.run.machine.rules.rounds:
            # Killed between the last round and the end of the run.
            self._actions.put_nowait(Finish())
        elif self.run.machine.attempt > self.run.machine.rules.attempts:
            self.feed(Broken(f"round {self.run.machine.round} was given up"))
        elif (
            self.run.machine.state is State.GATHERING and (why := await self._enough_before()) and self._actions.empty()
        ):
            # Else devices came meanwhile, and the round that is to open for them finds it out.
            self.feed(Enough(why))
        try:
            while not self.run.over.is_set():
                action = await self._actions.get()
                await self._insist(lambda action=action: self._carry_out(action))  # type: ignore[misc]
                self.feed(Tick())
        finally:
            for task in self._finding_out:
                task.cancel()

    async def _enough_before(self) -> str:
        """Why the run was to end when it was interrupted, or with the head that it begins with, or ""."""
        with suppress(StoreError):
            return await self._store.do(round_transactions.enough, self.run)
        return ""

    def feed(self, event: Event) -> None:
        """Take one event."""
        gathers = self.run.machine.state is State.GATHERING and not self.run.machine.is_pausing
        if isinstance(event, Tick) and gathers and not self._may_open(self):
            return
        for action in self.run.machine.step(event, self._now_s()):
            self.run.ready.clear()
            if isinstance(action, Close | Rest | Halt | Fail):
                self._settled.clear()
            self._actions.put_nowait(action)

    def arrived(self, *cards: DeviceCard) -> None:
        """Devices are present, for the first time or again, perhaps with another card. No round opens before all of
        them are known: it would ask the first of them alone."""
        for card in cards:
            self._came(card)
        self.feed(Tick())

    def _came(self, card: DeviceCard) -> None:
        device_id, refused = card.device_id, self.run.refused
        if device_id in refused and self._refused_as.get(device_id) != card:
            refused.discard(device_id)
            self.feed(Left(device_id))
        if self.run.roster.add(card):
            self._regroup()
        elif self.run.roster.why_not(card) is None and card.device_id not in self._lent:
            self.feed(Arrived(card.device_id))
        else:
            self.feed(Left(card.device_id))

    def idle(self, device_id: str) -> None:
        """A device asks for work, or begins anew: it does not work on an order of an earlier round any more."""
        if device_id not in self.run.machine.at_work:
            return
        self.feed(Back(device_id))
        card = self._card_of(device_id)
        if card is not None and device_id in self.run.roster.eligible() and device_id not in self._lent:
            self.feed(Arrived(device_id))
            self.feed(Tick())

    def left(self, device_id: str) -> None:
        """A device has gone."""
        self.feed(Back(device_id))
        changed = self.run.roster.remove(device_id)
        self.feed(Left(device_id))
        if changed:
            self._regroup()

    def lend(self, device_ids: Collection[str]) -> None:
        """These devices work for other runs, and no others do any more."""
        back, self._lent = self._lent.difference(device_ids), set(device_ids)
        for device_id in [device_id for device_id in self.run.machine.present if device_id in self._lent]:
            self.feed(Left(device_id))
        if back:
            self._regroup()

    def has_at_work(self, device_id: str) -> bool:
        """Whether this device has an order of the run that it has not answered, and that is not closed on disk."""
        machine = self.run.machine
        ordered = machine.owes(device_id) or machine.settles_without(device_id)
        return device_id in machine.at_work or (ordered and device_id not in self.run.refused)

    def at_work(self) -> list[str]:
        """Devices that have an order, or will have one as soon as it is on disk."""
        machine = self.run.machine
        given_up = () if machine.giving_up is None else sorted(machine.giving_up[2])
        asked = dict.fromkeys((*machine.ordered, *machine.at_work, *given_up))
        return [one for one in asked if self.has_at_work(one)]

    def wish(self) -> Wish:
        """What it would do about devices."""
        machine, now_s = self.run.machine, self._now_s()
        lent = sum(1 for device_id in self.run.roster.eligible() if device_id in self._lent)
        return Wish(
            self.claim,
            machine.could_open(now_s),
            len(machine.present),
            lent,
            self.run.plan.round.sample,
            machine.rules.devices,
            machine.has_gathered(now_s),
            machine.settles_before_another(now_s),
        )

    def wants(self, device_id: str, number: int) -> bool:
        """Whether a report of this device for this round would still count."""
        machine = self.run.machine
        if machine.state in FINAL:
            return False
        if machine.counts_late(number) or machine.will_count_late(number):
            return machine.at_work.get(device_id) == number
        if number != machine.round or device_id in self.run.refused:
            return False
        return machine.still_lacks(device_id)

    async def may_have(self, device_id: str, session: str) -> bool:
        """Whether this start of a device may be given its order. One that an earlier start got, or that a further
        attempt renews, is granted anew before.

        Raises:
            StoreError: that cannot be written now.
        """
        run = self.run
        while run.is_of_another_start(device_id, session) or run.is_asked_again(device_id):
            at = run.machine.round, run.machine.attempt
            await self._hand_over(device_id, session)
            if at == (run.machine.round, run.machine.attempt):
                return not run.is_of_another_start(device_id, session)
        return True

    async def _hand_over(self, device_id: str, session: str) -> None:
        run, at = self.run, (self.run.machine.round, self.run.machine.attempt)
        card = self._card_of(device_id)
        try:
            why = await self._store.do(round_transactions.hand_over, run, at[0], device_id, session)
        except Exception as error:
            if self._passes(error):
                raise
            return
        if why is not None and at == (run.machine.round, run.machine.attempt):
            log.warning("%s round %d: %s is not asked again: %s", run.run_id, at[0], device_id, why)
            run.refused.add(device_id)
            self._refused_as[device_id] = card
            self.feed(Refused(device_id))
            self.feed(Tick())

    def _regroup(self) -> None:
        """The engine class that counts is another one now."""
        eligible = set(self.run.roster.eligible()) - self._lent
        for device_id in [device_id for device_id in self.run.machine.present if device_id not in eligible]:
            self.feed(Left(device_id))
        for device_id in self.run.roster.eligible():
            if device_id in eligible and device_id not in self.run.machine.present:
                self.feed(Arrived(device_id))

    async def report(self, number: int, device_id: str, declared: int, data: bytes) -> Receipt:
        """Take a report of this run: exactly one of many equal ones is accepted.

        Raises:
            StoreError: it could not be written; nothing changed.
        """
        run = self.run
        machine = run.machine
        while True:
            if device_id in run.in_flight:
                await asyncio.wait([run.in_flight[device_id]])
            elif machine.state is State.OPEN and not run.ready.is_set():
                await run.ready.wait()
            elif self._may_be_decided_anew(number, device_id):
                await self._settled.wait()
            elif number == machine.round and machine.is_undecided(device_id, self._now_s()):
                # Past the deadline, and not decided: too late if the round closes, welcome if it is tried again.
                self.feed(Tick())
                if run.in_flight:
                    await asyncio.wait(list(run.in_flight.values()), return_when=asyncio.FIRST_COMPLETED)
                elif machine.is_undecided(device_id, self._now_s()):
                    break
            else:
                break
        if machine.counts_late(number):
            late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            run.in_flight[device_id] = late
            self.feed(Writing(device_id))
            return await asyncio.shield(self._take_late(number, device_id, declared, data, late))
        if number == machine.round and machine.admits(device_id, self._now_s()) and device_id in run.lines:
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            run.in_flight[device_id] = written
            self.feed(Writing(device_id))
            # Shielded: when the device hangs up in the middle, its report is still taken as a whole.
            return await asyncio.shield(self._take(number, device_id, declared, data, written))
        if number > machine.round:
            return Receipt(Verdict.REJECTED, f"not_ordered: round {number} is not open")
        return await self._store.do(report_transactions.late, run.run_id, number, device_id, data)

    def _may_be_decided_anew(self, number: int, device_id: str) -> bool:
        """Whether a report would come too late for what is decided and not on disk yet: after a crash the attempt is
        open again, and a device that was told so would be shut out of it."""
        run = self.run
        if self._settled.is_set() or run.over.is_set() or run.masking is not None:
            # To unmask a sum devices are needed that wait for an answer here.
            return False
        open_to = run.machine.round - run.machine.rules.late
        return open_to <= number <= run.machine.round and device_id not in run.machine.reported

    async def _take(
        self, number: int, device_id: str, declared: int, data: bytes, written: asyncio.Future[None]
    ) -> Receipt:
        run = self.run
        try:
            card = self._card_of(device_id)
            check, board = run.checker(run.lines[device_id], declared, number), card.board if card else ""
            shapes = run.read_together(number)
            arrived = report_transactions.Arrived(run.run_id, number, device_id, data, check, declared, board, shapes)
            read = await (self._reading.do(arrived) if shapes is not None else self._read_alone(arrived))
            receipt = await self._accepting.do((number, read))
        except Exception as error:
            # It may be on disk all the same. The device is told at once, and waits when it sends again.
            log.warning("%s round %d: report of %s: %s; is it held?", run.run_id, number, device_id, error)
            self._find_out(number, device_id, written)
            raise
        except BaseException:
            self._written(device_id, written)
            raise
        if receipt.verdict is Verdict.DUPLICATE:
            await asyncio.wait([self._find_out(number, device_id, written)])
            return receipt
        if receipt.verdict is Verdict.ACCEPTED:
            self.feed(Accepted(device_id))
        elif receipt.verdict is Verdict.REJECTED and not self._is_of_earlier_attempt(receipt):
            run.refused.add(device_id)
            self._refused_as[device_id] = card
            self.feed(Refused(device_id))
        self._written(device_id, written)
        return receipt

    def _is_of_earlier_attempt(self, receipt: Receipt) -> bool:
        """Whether what was refused answers an order that was renewed since, perhaps by another plan: its device takes
        the renewed one."""
        return receipt.attempt is not None and receipt.attempt < self.run.machine.attempt

    async def _take_late(
        self, number: int, device_id: str, declared: int, data: bytes, written: asyncio.Future[None]
    ) -> Receipt:
        """A report of a round that has closed: it counts in the current one, which nothing decides meanwhile."""
        run, rooms, into = self.run, self._rooms, self.run.machine.round
        try:
            order = await rooms.store.do(report_transactions.late_order, run, number, device_id)
            if order is None:
                receipt = await rooms.store.do(report_transactions.late, run.run_id, number, device_id, data)
            else:
                card = self._card_of(device_id)
                check, board = run.late_checker(order, declared), card.board if card else ""
                arrived = report_transactions.Arrived(run.run_id, number, device_id, data, check, declared, board)
                read = await self._read_alone(arrived)
                folds = run.machine.state is State.OPEN
                found = await rooms.store.do(report_transactions.accept_late, run, into, order, read, folds=folds)
                if isinstance(found, BaseException):
                    raise found
                receipt = found
        except Exception as error:
            log.warning("%s round %d: late report of %s: %s; is it held?", run.run_id, number, device_id, error)
            self._find_out(into, device_id, written)
            raise
        except BaseException:
            self._written(device_id, written)
            raise
        if receipt.verdict is Verdict.DUPLICATE:
            await asyncio.wait([self._find_out(into, device_id, written)])
            return receipt
        if receipt.verdict is Verdict.ACCEPTED:
            self.feed(AcceptedLate(number, device_id))
            log.info("%s: report of %s for round %d counts in round %d", run.run_id, device_id, number, into)
        # Whatever became of it, its device is free.
        self.idle(device_id)
        self._written(device_id, written)
        return receipt

    async def _read(self, waiting: list[report_transactions.Arrived]) -> list[report_transactions.Read | BaseException]:
        return await self._rooms.readers.do(report_transactions.read, waiting)

    async def _read_alone(self, arrived: report_transactions.Arrived) -> report_transactions.Read:
        (found,) = await self._read([arrived])
        if isinstance(found, BaseException):
            raise found
        return found

    async def _accept(self, waiting: list[tuple[int, report_transactions.Read]]) -> list[Receipt | BaseException]:
        """What waits is of one round: none is decided while a report is being written."""
        reads = [read for _, read in waiting]
        return await self._store.do(report_transactions.accept, self.run, waiting[0][0], reads)

    def _find_out(self, number: int, device_id: str, written: asyncio.Future[None]) -> asyncio.Task[None]:
        async def body() -> None:
            try:
                await self._insist(lambda: self._agree(number))
            finally:
                self._written(device_id, written)

        task = asyncio.create_task(body())
        self._finding_out.add(task)
        task.add_done_callback(self._finding_out.discard)
        return task

    async def _agree(self, number: int) -> None:
        """Bring fold and machine to what the rows say."""
        for device_id in await self._store.do(round_transactions.agree, self.run, number):
            if device_id not in self.run.machine.reported:
                log.info("%s round %d: report of %s was held already", self.run.run_id, number, device_id)
                self.feed(Accepted(device_id))
        if self.run.machine.rules.late and number == self.run.machine.round:
            for pair in await self._store.read(reports.late_in, self.run.run_id, number):
                if pair not in self.run.machine.late:
                    self.feed(AcceptedLate(*pair))
                    self.idle(pair[1])

    def _written(self, device_id: str, written: asyncio.Future[None]) -> None:
        del self.run.in_flight[device_id]
        written.set_result(None)
        self.feed(Written(device_id))
        self.feed(Tick())

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
                self.run.trouble = ""
                return
            except Exception as error:
                if not self._passes(error):
                    return
                log.error("%s: %s; trying again", self.run.run_id, error)
                self.run.trouble = f"cannot write: {error}"
                if self._stop_wanted.is_set():
                    # What cannot be written down does not hold up the stop, not even the end itself.
                    self._give_up(str(error))
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_wanted.wait(), RETRY_S)

    def _passes(self, error: Exception) -> bool:
        """Whether what failed may work later, when the disk, the lock or the server is back. Else the run is broken:
        what is stored is bad, and whoever tries again would do so for ever."""
        if isinstance(error, StoreError) and not isinstance(error, DamagedError):
            return True
        if isinstance(error, EdgejouleError):
            self._break(str(error))
        else:
            log.error("%s: internal error", self.run.run_id, exc_info=error)
            self._break(f"internal error: {type(error).__name__}: {error}")
        return False

    def _break(self, reason: str) -> None:
        # A run that is over already, and cannot even be written down as such, must not hold up the next one.
        if self.run.machine.state in FINAL and self._actions.empty():
            self._over(reason)
        self.feed(Broken(reason))

    def _give_up(self, trouble: str) -> None:
        if self.run.machine.state in FINAL and self._actions.empty():
            self._over(trouble)
        self.feed(Stop(at_once=True))

    def _over(self, trouble: str = "") -> None:
        self.unwritten = trouble
        self.run.over.set()
        # Whoever waits for the round to open waits no longer.
        self.run.ready.set()
        self._settled.set()
        self._publish()

    async def stop(self) -> None:
        """End the run, and return when it is over: also while nothing can be written; see :attr:`unwritten`."""
        self._stop_wanted.set()
        self.feed(Stop())
        # Devices at work need not wait until it is written down.
        self._publish()
        await self.run.over.wait()

    async def pause(self, *, after_round: bool) -> None:
        """Let the run rest, and return when it does, or is over."""
        self.feed(Pause(after_round))
        self.feed(Tick())
        self._publish()
        await self.run.over.wait()

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Open():
                await self._open(action)
            case Close():
                await self._close(action)
            case Abandon(number, attempt, reason):
                log.warning("%s: %s", self.run.run_id, reason)
                self._publish()
                written = await self._store.do(round_transactions.abandon_round, self.run, number, attempt, reason)
                if written:
                    self.feed(GivenUp(number, attempt))
                else:
                    log.info("%s: round %d has its quorum after all", self.run.run_id, number)
                    self.feed(QuorumAfterAll(number, attempt))
            case Finish(why):
                await self._end("finished", "; ".join(part for part in (self.run.said, why) if part))
            case Fail(reason):
                log.error("%s failed: %s", self.run.run_id, reason)
                await self._end("failed", reason)
            case Halt():
                await self._end("stopped", "stopped by an operator")
            case Rest():
                # It is no end that must be written down when nothing can be: a restart goes on with the run then.
                await self._store.do(run_transactions.pause_run, self.run.run_id)
                log.info("%s: paused", self.run.run_id)
                self._over()

    async def _open(self, action: Open) -> None:
        run = self.run
        if (action.round, action.attempt) != (run.machine.round, run.machine.attempt):
            # The attempt before it got its quorum after all.
            return
        if action.attempt == 1 and not run.opened_here and (why := await self._enough_before()):
            self.feed(Enough(why))
            return
        # From the first round on, the run is tied to one engine.
        run.roster.engine = run.roster.chosen
        carried = set(action.carried)
        cards = [
            card for device in action.devices if device not in carried and (card := self._card_of(device)) is not None
        ]
        spared = await self._store.do(round_transactions.open_round, run, action.round, action.attempt, cards)
        if isinstance(spared, Enough):
            self.feed(spared)
            return
        if isinstance(spared, Dry):
            log.warning("%s: round %d: no device may spend anything now: %s", run.run_id, action.round, spared.why)
            run.resting = "no device may spend anything now"
            self.feed(spared)
            return
        run.resting = ""
        run.refused.clear()
        if run.masking is not None:
            asked = set(action.devices) - set(action.carried) - set(spared)
            run.masking.open(action.round, action.attempt, asked)
        run.charged.clear()
        if action.attempt == 1:
            run.handed.clear()
            run.opened_here = True
        run.ready.set()
        self.feed(Spared(tuple(spared)))
        self.claim.took(len(cards) - len(spared))
        log.info("%s: round %d opened for %d devices", run.run_id, action.round, len(action.devices) - len(spared))
        self._publish()

    async def _close(self, action: Close) -> None:
        run = self.run
        # Whoever still works on this round does so in vain.
        self._publish()
        if self._moved_in != action.round:
            await self._move_head(action)
        # Asked again when that fails, of the head as it is then: it moves once a round.
        enough = await self._store.do(round_transactions.enough, run)
        self.feed(Settled())
        self._settled.set()
        if enough:
            self.feed(Enough(enough))

    async def _move_head(self, action: Close) -> None:
        run, rooms = self.run, self._rooms
        await rooms.store.do(round_transactions.agree, run, action.round)
        if run.masking is not None and isinstance(run.fold, MaskedFold):
            await run.masking.unmask(action.round, run.fold.sent, self._publish)
        sums = run.fold if isinstance(run.fold, StatisticsFold) else None
        # A system of equations may take seconds, in which devices that write must not wait.
        head = await (rooms.store.thread if sums is None else rooms.models).do(run.fold.head_after, run.head)
        solved = sums.solved if sums is not None else None
        accuracy = loss = None
        judged = ""
        if run.evaluator is not None:
            found = await rooms.models.do(run.evaluator.evaluate, head)
            accuracy, loss = figures_of(found)
            judged = judged_by(run.bundle.manifest, found)
        downlink = await rooms.models.do(run.downlink.after, head, action.round, run.plan)
        basis = solved.basis if solved is not None else None
        said = solved.in_words() if solved is not None else ""
        server = None
        if isinstance(run.fold, Fold):
            server, said = run.fold.server_after, run.fold.said
        is_new = await rooms.store.do(
            round_transactions.close_round,
            run,
            action.round,
            head,
            downlink,
            accuracy,
            loss,
            basis,
            said,
            server,
            judged,
        )
        if is_new:
            run.move_head(head, downlink)
            run.server = server or run.server
            run.basis = basis or run.basis
        else:
            # Its commit was not answered.
            await take_newest(rooms, run)
        self._moved_in = action.round
        if said:
            run.said = run.said if run.corrects else said
            log.info("%s: round %d: %s", run.run_id, action.round, said)
        for remark in run.fold.remarks:
            log.warning("%s round %d: %s: %s", run.run_id, action.round, remark.device_id, remark.text)
        shown = "" if accuracy is None else f", {MEASURES[run.bundle.manifest.task]} {accuracy:.4f}"
        log.info("%s: round %d closed with %d reports%s", run.run_id, action.round, len(action.reported), shown)

    async def _end(self, state: str, reason: str) -> None:
        assert self.run.machine.state in FINAL or state == "finished"
        self.end = (state, reason)
        await self._store.do(run_transactions.end_run, self.run.run_id, state, reason)
        log.info("%s: %s", self.run.run_id, state)
        self._over()
