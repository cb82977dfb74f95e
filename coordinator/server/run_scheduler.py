"""The coordinator without its network face: the fleet, the run that is on, and those that wait for their turn.

One run is on at a time and the next begins when it ends, but for runs whose plans say that they go beside others: those
share the devices (:mod:`coordinator.run.rounds.sharing`). All methods run on the event loop; what blocks goes to the
two threads of :mod:`coordinator.run.workers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from coordinator.run import publishing, report_transactions, run_transactions
from coordinator.run.batching import Batching
from coordinator.run.reports.masking import Group
from coordinator.run.reports.plausibility import LAST_ROUND, check_card
from coordinator.run.reports.reasons import ReportCounts
from coordinator.run.resume import Rooms, open_run
from coordinator.run.rounds.round_events import Tick
from coordinator.run.rounds.sharing import Claim, may_go
from coordinator.run.run_driver import RunDriver
from coordinator.run.run_transactions import Queued
from coordinator.server.fleet import Fleet
from coordinator.server.traces import Traces
from coordinator.server.upgrades import Upgrades
from coordinator.store import clock, devices, runs
from coordinator.store.database import DamagedError
from coordinator.store.models.bundle_store import NotHereError
from protos.catalog import hint
from protos.energy.bins import PowerBins
from protos.errors import EdgejouleError, RefusedError, StoreError, UnknownRunError
from protos.model.bundle import Bundle
from protos.orders import (
    DeviceCard,
    Holding,
    Order,
    Receipt,
    Reception,
    RejoinOrder,
    RevealOrder,
    SettledEnergy,
    TrainOrder,
    Verdict,
    WaitOrder,
)

log = logging.getLogger("edgejoule.coordinator")

TICK_S = 0.1
# Of devices that do not say how long they wait: up to this many are kept waiting so long for an order.
SMALL_FLEET = 64
HOLD_S = 2.0
# Of those that do: so many at once, and so long at most. An idle device then calls 180 times a day.
MOST_HELD = 4096
MOST_HOLD_S = 480.0
# How long at most it goes unnoticed that an order is not wanted any more, when nobody tells.
LOOK_S = 5.0
# What is left of a device's patience for the answer itself.
ANSWER_S = 5.0
RETRY_S = 1.0
# How long a report waits for its run to be opened after a restart.
OPENING_S = 10.0


class Telling(Protocol):
    """Who is told of orders and reports: see :mod:`coordinator.server.spans`."""

    def ordered(self, order: TrainOrder, device_id: str, size_bytes: int) -> None:
        """An order was handed out."""
        ...

    def reported(
        self, run_id: str, number: int, device_id: str, size_bytes: int, began_s: float, receipt: Receipt
    ) -> None:
        """A report was answered, which came at ``began_s``, unix seconds."""
        ...


class RunScheduler:
    """What the devices' service talks to.

    Args:
        rooms: opened; closed by the caller after :meth:`close`.

    Attributes:
        traces: of the power of devices that somebody looks at.
        spans: is told of orders and reports; None: nobody is.
        upgrades: of the devices' service; nobody is offered one before it knows the fleet's certificates.
        drivers: of the runs that are on, by id.
        preparing: ids of the runs that are being opened.
        trouble: why runs cannot be opened now, by id.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms, self._store = rooms, rooms.store
        self.fleet = Fleet()
        self.report_counts = ReportCounts()
        self.drivers: dict[str, RunDriver] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # Set when a run was written down: of those that wait for their turn, and of those that do not.
        self._wanted, self._wanted_beside = asyncio.Event(), asyncio.Event()
        self._beside: dict[str, asyncio.Task[None]] = {}
        # Whether several runs were on at the last look.
        self._shared = False
        # Devices with an open order of a run that is on and was not taken up yet, or not again after an error.
        self._owing: dict[str, set[str]] = {}
        self._news = asyncio.Event()
        self._closing = False
        self.preparing: set[str] = set()
        self.trouble: dict[str, str] = {}
        self._not_before_s: dict[str, float] = {}
        self._unwritten: dict[str, asyncio.Task[None]] = {}
        # Seconds in which nobody could have been heard, since the event loop did not turn.
        self._deaf_s = 0.0
        self.spans: Telling | None = None
        self.traces = Traces(self.fleet, lambda: self._publish())
        self.upgrades = Upgrades(rooms.store, self.fleet, self._publish, self._heard_s)
        # Calls that wait for an order.
        self._held = 0
        self._published = publishing.Newest()
        self.head_signer: publishing.Signs | None = None
        # Of a site: heads from above.
        self.handed_down: publishing.Hands | None = None
        # Why the newest head could not be delivered.
        self._undelivered = ""
        self._joining: Batching[DeviceCard, None] = Batching(lambda cards: rooms.store.do(run_transactions.join, cards))
        self._settling: Batching[tuple[str, list[SettledEnergy]], list[SettledEnergy]] = Batching(
            lambda waiting: rooms.store.do(report_transactions.settle, waiting), gathers=True
        )

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Remember the fleet, and take up the runs that are not over."""
        for known in await self._store.read(devices.known):
            self.fleet.remember(known.card, left=known.left, seen_unix_s=known.last_seen_unix_s, reason=known.reason)
        self._owing = await self._store.read(runs.owing)
        await self.look_at_published()
        await self.upgrades.open()
        works = (self._run_all, self._run_beside, self._tick, self.upgrades.watch)
        self._tasks = [asyncio.create_task(_kept_up(work)) for work in works]

    @property
    def driver(self) -> RunDriver | None:
        """Of the run that is on, of several that which began first; or None."""
        return next(iter(self.drivers.values()), None)

    def want(self) -> None:
        """A run was written down."""
        self._wanted.set()
        self._wanted_beside.set()

    def release(self) -> None:
        """Let go of the devices that wait, so that a shutdown need not wait for them."""
        self._closing = True
        self._publish()
        self.traces.release()

    async def close(self) -> None:
        """Stop. Runs stay as they are on disk, and go on at the next start."""
        self.release()
        tasks = [*self._tasks, *self._beside.values(), *self._unwritten.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _tick(self) -> None:
        while True:
            before_s = _now_s()
            await asyncio.sleep(TICK_S)
            if (late_s := _now_s() - before_s - TICK_S) > TICK_S:
                self._deaf_s += late_s
            for device_id in self.fleet.sweep(self._heard_s(), self._is_busy):
                log.info("device %s fell silent", device_id)
                for driver in self._on():
                    driver.left(device_id)
            self._share()
            for driver in self._on():
                driver.feed(Tick())

    def _on(self) -> list[RunDriver]:
        return list(self.drivers.values())

    def _is_busy(self, device_id: str) -> bool:
        return any(driver.has_at_work(device_id) for driver in self.drivers.values())

    def _share(self) -> None:
        """Each device is present in the run that it works for alone, and in all others when it works for none."""
        if not self._shares() and not self._shared:
            return
        self._shared = self._shares()
        owing = {device_id for device_ids in self._owing.values() for device_id in device_ids}
        for run_id, driver in self.drivers.items():
            driver.lend(
                owing.union(*(other.at_work() for other_id, other in self.drivers.items() if other_id != run_id))
            )

    def _shares(self) -> bool:
        return len(self.drivers) > 1 or bool(self._owing)

    def let_go(self, run_id: str) -> None:
        """Nobody works for this run any more, which was not taken up."""
        self._owing.pop(run_id, None)

    def _may_open(self, driver: RunDriver) -> bool:
        """Whether a run that gathers may ask devices now, beside the others."""
        if not self._shares():
            return True
        self._share()
        return may_go(
            driver.wish(), [each_driver.wish() for each_driver in self.drivers.values() if each_driver is not driver]
        )

    async def _run_all(self) -> None:
        # Also what an earlier turn was doing when it failed.
        self._wanted.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while (run := await self._next_run()) is not None:
                await self._run_one(run)

    async def _run_beside(self) -> None:
        self._wanted_beside.set()
        while True:
            await self._wanted_beside.wait()
            self._wanted_beside.clear()
            try:
                queued = await self._store.do(run_transactions.queue)
            except StoreError as error:
                log.error("%s; trying again", error)
                self._wanted_beside.set()
                await asyncio.sleep(RETRY_S)
                continue
            for run in queued:
                if run.beside and run.run_id not in self._beside and run.run_id not in self._unwritten:
                    self._beside[run.run_id] = asyncio.create_task(self._run_until_over(run))

    async def _run_until_over(self, run: Queued) -> None:
        """A run that waits for no other."""
        try:
            while run.run_id not in self._unwritten:
                try:
                    # As its plan is now: it may have rested meanwhile, and go on by another.
                    queued = {
                        queued_run.run_id: queued_run for queued_run in await self._store.do(run_transactions.queue)
                    }
                    if run.run_id not in queued or not queued[run.run_id].beside:
                        return
                    await self._run_one(queued[run.run_id])
                except StoreError as error:
                    log.error("%s; trying again", error)
                except Exception:
                    log.exception("%s: internal error; it is opened anew", run.run_id)
                await asyncio.sleep(RETRY_S)
        finally:
            self._beside.pop(run.run_id, None)
            # Others, or this one, may have come while it was still held for one of those that are on.
            self.want()

    async def _next_run(self) -> Queued | None:
        while True:
            try:
                queued = await self._store.do(run_transactions.queue)
                waiting = [
                    queued_run
                    for queued_run in queued
                    if not queued_run.beside and queued_run.run_id not in self._unwritten
                ]
                # One whose files are not here lets those behind it pass.
                ready = [
                    queued_run for queued_run in waiting if self._not_before_s.get(queued_run.run_id, 0.0) <= _now_s()
                ]
                # One that was on when the coordinator ended goes on before others: its devices are kept for it.
                ready.sort(key=lambda queued_run: queued_run.run_id not in self._owing)
                if ready or not waiting:
                    return ready[0] if ready else None
            except StoreError as error:
                log.error("%s; trying again", error)
            await asyncio.sleep(RETRY_S)

    async def _run_one(self, queued: Queued) -> None:
        run_id = queued.run_id
        self.preparing.add(run_id)
        try:
            # An operator may have stopped it before it was known to be prepared.
            if run_id not in await self._store.do(run_transactions.unfinished_runs):
                self.let_go(run_id)
                return
            run = await open_run(self._rooms, run_id, _now_s())
            self.trouble.pop(run_id, None)
        except DamagedError as error:
            log.error("%s failed: %s", run_id, error)
            self.preparing.discard(run_id)
            await self.end(run_id, "failed", str(error))
            return
        except (StoreError, OSError) as error:
            # A full disk is no fault of the run, and neither is a machine without memory, or without file numbers.
            log.error("%s: %s; trying again", run_id, error)
            self.trouble[run_id] = str(error)
            # So that an operator can stop it meanwhile.
            self.preparing.discard(run_id)
            if isinstance(error, NotHereError) or not isinstance(error, EdgejouleError):
                self._not_before_s[run_id] = _now_s() + RETRY_S
                # Those behind it pass, with all devices.
                self.let_go(run_id)
            else:
                await asyncio.sleep(RETRY_S)
            return
        except EdgejouleError as error:
            log.error("%s failed: %s", run_id, error)
            self.preparing.discard(run_id)
            await self.end(run_id, "failed", str(error))
            return
        except Exception as error:
            log.exception("%s: internal error", run_id)
            self.preparing.discard(run_id)
            await self.end(run_id, "failed", f"internal error: {type(error).__name__}: {error}")
            return
        finally:
            self.preparing.discard(run_id)
        claim = Claim(queued.priority, queued.share, queued.sequence)
        claim.begins_beside(each_driver.claim for each_driver in self._on())
        driver = RunDriver(
            run,
            self._rooms,
            now_s=_now_s,
            card_of=self._card_of,
            publish=self._publish,
            claim=claim,
            may_open=self._may_open,
        )
        self.drivers[run_id] = driver
        self.let_go(run_id)
        try:
            driver.arrived(*(member.card for member in self.fleet if member.state == "present"))
            await driver.drive()
            if driver.unwritten:
                self._write_later(run_id, *driver.end)
        finally:
            del self.drivers[run_id]
            if not run.over.is_set() and (owing := driver.at_work()):
                self._owing[run_id] = set(owing)
            self._share()
        await self.look_at_published()

    async def end(self, run_id: str, state: str, reason: str) -> None:
        """End a run that is not on. When that cannot be written down, it is written later, and nobody waits for it."""
        self.let_go(run_id)
        try:
            await self._store.do(run_transactions.end_run, run_id, state, reason)
        except StoreError as error:
            log.error("%s: %s, which cannot be written down yet: %s", run_id, state, error)
            self._write_later(run_id, state, reason)

    def _write_later(self, run_id: str, state: str, reason: str) -> None:
        async def body() -> None:
            while True:
                await asyncio.sleep(RETRY_S)
                with suppress(StoreError):
                    await self._store.do(run_transactions.end_run, run_id, state, reason)
                    del self._unwritten[run_id]
                    return

        self._unwritten[run_id] = asyncio.create_task(body())

    def is_unwritten(self, run_id: str) -> bool:
        """Whether the run is over here, and still to be written down as such."""
        return run_id in self._unwritten

    def _publish(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _card_of(self, device_id: str) -> DeviceCard | None:
        member = self.fleet.get(device_id)
        return member.card if member else None

    # ------------------------------------------------------------ devices

    def _heard_s(self) -> float:
        """The clock of silence: it stands still while the coordinator does not listen."""
        return _now_s() - self._deaf_s

    @contextmanager
    def calling(self, device_id: str) -> Iterator[None]:
        """While its call is open a device is present, however long its answer takes."""
        self.fleet.call_begins(device_id)
        try:
            yield
        finally:
            self.fleet.call_ends(device_id, self._heard_s(), clock.unix_s())

    async def join(self, card: DeviceCard) -> float:
        """A device introduces itself, or says what is new; returns after how many seconds it should check in when idle.

        Raises:
            RefusedError: another device that is alive calls itself the same.
        """
        check_card(card)
        self._refuse_rival(card)
        with self.calling(card.device_id):
            await self._joining.do(card)
        # While that was written down another may have come first.
        self._refuse_rival(card)
        self.fleet.join(card, self._heard_s(), clock.unix_s())
        for driver in self._on():
            driver.idle(card.device_id)
            driver.arrived(card)
        return self.fleet.pace_s(busy=False)

    def _refuse_rival(self, card: DeviceCard) -> None:
        """One name, one live device: two would evict each other, and both train."""
        there = self.fleet.rivals(card, self._heard_s())
        if there is None:
            return
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        first = not there.rival
        there.rival = f"a second device calls itself so ({card.board or 'board unknown'}, {now} UTC) and is refused"
        (log.warning if first else log.debug)("device %s: %s", card.device_id, there.rival)
        raise RefusedError(
            f"a device that is alive is called so already ({there.card.board or 'board unknown'})",
            where=f"device {card.device_id}",
            fix="give one of the two another --device-id",
        )

    async def next_order(
        self,
        device_id: str,
        session: str,
        settled: Iterable[SettledEnergy],
        holding: Holding,
        waits_s: float = 0.0,
        *,
        receptions: Sequence[Reception] = (),
    ) -> Order:
        """The order of this device, or when to come again. Energy that came along is on disk when this returns,
        unless the answer is to join again.

        Args:
            waits_s: how long the device waits for the answer; 0: it does not say.
            receptions: what it did with publications; written down as the energy is.
        """
        with self.calling(device_id):
            return await self._next_order(device_id, session, list(settled), holding, waits_s, receptions)

    async def _next_order(
        self,
        device_id: str,
        session: str,
        settled: list[SettledEnergy],
        holding: Holding,
        waits_s: float,
        receptions: Sequence[Reception],
    ) -> Order:
        before = self.fleet.get(device_id)
        was_away = before is not None and before.state != "present"
        member = self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s())
        if member is None:
            return RejoinOrder()
        if was_away:
            for driver in self._on():
                driver.arrived(member.card)
        await self._settle(device_id, settled)
        if receptions:
            await self._store.do(publishing.received, device_id, receptions)
        await self.upgrades.heard(device_id, holding.upgrade)
        # It may have said goodbye, or begun anew, while its energy was being written.
        if self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s()) is None:
            return RejoinOrder()
        order = await self._next_for(device_id, session, holding)
        until_s = _now_s() + self._hold_s(waits_s)
        while order is None and not self._closing and (left_s := until_s - _now_s()) > 0:
            self._held += 1
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                until_s = _now_s()
            finally:
                self._held -= 1
            if self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s()) is None:
                return RejoinOrder()
            order = await self._next_for(device_id, session, holding)
        if order is not None:
            return order
        busy = self.driver is not None
        reason = self.driver.run.machine.state.value if self.driver else "no run is on"
        return WaitOrder(self.fleet.pace_s(busy=busy), reason)

    async def await_end(self, device_id: str, session: str, run_id: str, number: int, waits_s: float) -> bool:
        """Whether an order is still wanted, told when it is not, or after ``waits_s`` less what the answer takes."""
        with self.calling(device_id):
            self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s())
            until_s = _now_s() + min(max(0.0, waits_s - ANSWER_S), MOST_HOLD_S)
            while True:
                if not await self._wants(device_id, run_id, number):
                    return False
                if self._closing or self.traces.is_due(device_id) or (left_s := until_s - _now_s()) <= 0:
                    return True
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, LOOK_S)):
                        await self._news.wait()

    def watts(self, device_id: str, session: str, bins: PowerBins, reason: str, *, ends: bool) -> bool:
        """The power of a device as it is, for those who look; whether it is to go on."""
        if self._closing or self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s()) is None:
            return False
        return self.traces.told(device_id, bins, reason, ends=ends)

    async def _wants(self, device_id: str, run_id: str, number: int) -> bool:
        driver = self.drivers.get(run_id)
        if driver is not None:
            return driver.wants(device_id, number)
        # Over, or not yet taken up again after a restart.
        return await self._store.do(report_transactions.may_come_later, run_id, number, device_id)

    def _hold_s(self, waits_s: float) -> float:
        """How long a call without an order is held: a call that waits costs nothing, and one that comes again does."""
        if waits_s <= 0:
            return HOLD_S if self.fleet.present <= SMALL_FLEET else 0.0
        return min(waits_s - ANSWER_S, MOST_HOLD_S) if self._held < MOST_HELD else 0.0

    async def mask(self, device_id: str, session: str, run_id: str, number: int, attempt: int) -> Group:
        """The group of a device that masks its change; see :mod:`coordinator.run.reports.masking`.

        Raises:
            RefusedError: there is none: the attempt is over, or the coordinator began anew.
        """
        self.fleet.heard(device_id, session, self._heard_s(), clock.unix_s())
        driver = self.drivers.get(run_id)
        masking = driver.run.masking if driver is not None else None
        group = masking.group(number, attempt) if masking is not None else None
        if group is None:
            raise RefusedError(
                "nobody masks changes in this attempt any more", where=f"round {number} of {run_id[:64]}"
            )
        return group

    async def _next_for(self, device_id: str, session: str, holding: Holding) -> Order | None:
        """What a device is to do now: first the order that it owes an answer to, then a version of its service."""
        if not self._is_busy(device_id) and (offer := await self.upgrades.offer(device_id, holding.upgrade)):
            return offer
        if self.upgrades.installs(device_id, holding.upgrade):
            return WaitOrder(self.fleet.pace_s(busy=False), "installs a version of the service")
        order = await self._order_for(device_id, session, holding) or await self._published_for(holding)
        if order is None and self.traces.ask(device_id):
            return WaitOrder(0.0, "somebody looks at its power", watts=True)
        return order

    async def _order_for(self, device_id: str, session: str, holding: Holding) -> TrainOrder | RevealOrder | None:
        for driver in self._on():
            run = driver.run
            if run.masking is not None and (reveal := run.masking.order_for(device_id)) is not None:
                return reveal
            if not await driver.may_have(device_id, session):
                continue
            driver.idle(device_id)
            order = run.order_for(device_id, _now_s(), holding)
            if order is not None:
                run.handed.add(device_id)
                return order
        return None

    async def _published_for(self, holding: Holding) -> WaitOrder | None:
        """The head that a run ended with, for a device that has nothing else to do and has not dealt with it."""
        if self.handed_down is not None:
            from_above, passed = self.handed_down.wanted(holding)
            if from_above:
                return None if passed is None else WaitOrder(0.0, f"the head of {passed.name}", passed)
        wanted = self._published.wanted(holding)
        if wanted is None:
            return None
        try:
            found = await self._store.do(publishing.message, wanted, holding, self.head_signer)
        except (UnknownRunError, DamagedError) as error:
            log.warning("the head of %s cannot be delivered: %s", wanted.run_id, error)
            await self.look_at_published()
            return None
        except EdgejouleError as error:
            # It will be no other the next time: said once, and asked again by who comes next.
            (log.debug if self._undelivered == str(error) else log.error)(
                "the head of %s cannot be delivered: %s", wanted.run_id, error
            )
            self._undelivered = str(error)
            return None
        self._undelivered = ""
        return WaitOrder(0.0, f"the head of {wanted.name}", found)

    def tell(self) -> None:
        """There may be something else for the devices that wait."""
        self._publish()

    async def look_at_published(self) -> None:
        """Find out anew which heads there are to deliver, and tell the devices that wait."""
        try:
            self._published = await self._store.do(publishing.newest)
        except StoreError as error:
            log.error("what runs ended with cannot be read: %s", error)
            return
        if self.head_signer is not None:
            # Now, while it is what was just made: what is changed in the database later is then found.
            for one in self._published.by_bundle.values():
                with suppress(EdgejouleError):
                    await self._store.do(publishing.message, one, Holding(), self.head_signer)
        self._publish()

    def sent(self, order: TrainOrder, device_id: str, size_bytes: int) -> None:
        """An order of so many bytes is on its way."""
        if (driver := self.drivers.get(order.run_id)) is not None:
            driver.run.sent[device_id] += size_bytes
        if self.spans is not None:
            self.spans.ordered(order, device_id, size_bytes)

    async def _settle(self, device_id: str, settled: Iterable[SettledEnergy]) -> None:
        settled = list(settled)
        if not settled:
            return
        for strange in await self._settling.do((device_id, settled)):
            log.warning("device %s: energy of round %d of %s has no order", device_id, strange.round, strange.run_id)

    async def report_limit_bytes(self, run_id: str) -> int:
        """The most that a report of this run may weigh.

        Raises:
            UnknownRunError: no such run.
        """
        if (driver := self.drivers.get(run_id)) is not None:
            return driver.run.report_limit_bytes
        return await self._store.do(report_transactions.report_limit, run_id)

    async def may_count(self, run_id: str, number: int, device_id: str) -> bool:
        """Whether a report of this device, which is not held yet, may still count in that run."""
        return await self._store.do(report_transactions.may_come_later, run_id, number, device_id)

    async def report(self, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
        """Take a report. ACCEPTED means that it is on disk.

        Raises:
            StoreError: it could not be written; nothing changed.
        """
        began_s = clock.unix_s()
        with self.calling(device_id):
            receipt = await self._report(run_id, number, device_id, data)
        if self.spans is not None:
            self.spans.reported(run_id, number, device_id, len(data), began_s, receipt)
        self.report_counts.answered(receipt, f"{device_id[:64]}, {run_id[:64]} round {number}")
        return receipt

    async def _report(self, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
        self.fleet.touch(device_id, self._heard_s(), clock.unix_s())
        if number > LAST_ROUND:
            return Receipt(Verdict.REJECTED, f"not_ordered: there is no round {number}")
        driver = await self._driver_of(run_id, number, device_id)
        if driver is None:
            return await self._store.do(report_transactions.late, run_id, number, device_id, data)
        card = self._card_of(device_id)
        if card is None:
            return Receipt(Verdict.REJECTED, f"not_ordered: no device is called {device_id!r}")
        return await driver.report(number, device_id, card.train_examples, data)

    async def _driver_of(self, run_id: str, number: int, device_id: str) -> RunDriver | None:
        """Who takes this report, or None when it comes too late for everyone. After a restart a run is opened while
        devices send already what they trained before: it must not be lost to that."""
        waited_s = 0.0
        while True:
            if (driver := self.drivers.get(run_id)) is not None:
                return driver
            if not await self._store.do(report_transactions.may_come_later, run_id, number, device_id):
                return None
            if waited_s >= OPENING_S and await self._waits_for_others(run_id, number):
                return None
            if waited_s >= OPENING_S or self._closing:
                raise StoreError("the run is still being opened", where=run_id, fix="send the report again")
            await asyncio.sleep(TICK_S)
            waited_s += TICK_S

    async def _waits_for_others(self, run_id: str, number: int) -> bool:
        """Whether a run waits for its turn behind others, between two attempts. Its devices are asked again when that
        comes. Until then a report of an earlier attempt would keep its device from the runs that are on, one of which
        may wait for this very device."""
        if not self.drivers or run_id in self.drivers or run_id in self.preparing:
            return False
        return await self._store.read(runs.is_between_attempts, run_id, number)

    async def leave(self, device_id: str, session: str, settled: Iterable[SettledEnergy], reason: str) -> None:
        """A device says goodbye: no round waits for it."""
        member = self.fleet.get(device_id)
        if member is None or member.card.session != session:
            return
        with self.calling(device_id):
            await self._settle(device_id, settled)
            owing = [
                driver.run
                for driver in self._on()
                if device_id in driver.run.lines and driver.run.machine.owes(device_id)
            ]
            ends = next((run for run in owing if run.may_have_begun(device_id)), None)
            await self._store.do(run_transactions.leave, device_id, reason, ends)
        if self.fleet.leave(device_id, session, clock.unix_s(), reason):
            log.info("device %s left: %s", device_id, reason or "no reason given")
            for driver in self._on():
                driver.left(device_id)

    async def forget(self, device_id: str) -> None:
        """Take a device off the list, with what its work was found to cost.

        Raises:
            UnknownRunError: no such device.
            RefusedError: it is present, or works on an order.
        """
        member = self.fleet.get(device_id)
        if member is None:
            known = [each_member.card.device_id for each_member in self.fleet]
            raise UnknownRunError("no device is called so", where=device_id[:80], fix=hint(device_id, known))
        if member.state == "present" or self._is_busy(device_id):
            raise RefusedError("is here, and would be back at once", where=device_id, fix="stop its edge-runtime first")
        await self._store.write(devices.forget, device_id)
        if self.fleet.get(device_id) is member:
            self.fleet.forget(device_id)
        log.info("device %s is forgotten", device_id)

    async def bundle(self, bundle_id: str) -> Bundle:
        """The bundle called so.

        Raises:
            UnknownRunError, ModelError, IntegrityError.
        """
        for driver in self._on():
            if driver.run.bundle.bundle_id == bundle_id:
                return driver.run.bundle
        return await self._rooms.models.do(self._rooms.bundle_store.open, bundle_id)


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Work that goes on for as long as the process: an error that nobody foresaw is said, and it begins anew."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("internal error in the background; it is begun anew")
        await asyncio.sleep(RETRY_S)


def _now_s() -> float:
    return clock.now_s()
