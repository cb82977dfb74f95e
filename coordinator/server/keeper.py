"""The coordinator without its network face: the fleet, the run that is on, and those that wait for their turn.

One run is on at a time; the next begins when it ends. All methods run on the event loop; what blocks goes to the two
threads of :mod:`coordinator.run.workers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from coordinator.run import transactions as ledger
from coordinator.run.conductor import Conductor
from coordinator.run.resume import Rooms, open_run
from coordinator.run.round_events import Tick
from coordinator.server.fleet import Fleet
from protos.errors import EdgejouleError, StoreError
from protos.model.bundle import Bundle
from protos.orders import (
    DeviceCard,
    Holding,
    Order,
    Receipt,
    RejoinOrder,
    SettledEnergy,
    TrainOrder,
    Verdict,
    WaitOrder,
)

log = logging.getLogger("edgejoule.coordinator")

TICK_S = 0.1
# Up to this many devices are kept waiting for an order instead of being told to come again.
SMALL_FLEET = 64
HOLD_S = 2.0
# How long a report waits for its run to be opened after a restart.
OPENING_S = 10.0


class Keeper:
    """What the devices' service talks to.

    Args:
        rooms: opened; closed by the caller after :meth:`close`.

    Attributes:
        conductor: of the run that is on, or None.
        preparing: id of the run that is being opened, or None.
        wanted: set it when a new run was written down.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.fleet = Fleet()
        self.conductor: Conductor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._closing = False
        self.preparing: str | None = None
        # Seconds in which nobody could have been heard, since the event loop did not turn.
        self._deaf_s = 0.0

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Remember the fleet, and take up the runs that are not over."""
        for known in await self._rooms.books.do(ledger.known_devices, self._rooms.db):
            self.fleet.remember(known.card, left=known.left, seen_unix_s=known.last_seen_unix_s)
        self.wanted.set()
        self._tasks = [asyncio.create_task(self._run_all()), asyncio.create_task(self._tick())]

    def release(self) -> None:
        """Let go of the devices that wait, so that a shutdown need not wait for them."""
        self._closing = True
        self._publish()

    async def close(self) -> None:
        """Stop. Runs stay as they are on disk, and go on at the next start."""
        self.release()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
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
                if self.conductor:
                    self.conductor.left(device_id)
            if self.conductor:
                self.conductor.feed(Tick())

    def _is_busy(self, device_id: str) -> bool:
        run = self.conductor.run if self.conductor else None
        return run is not None and run.machine.owes(device_id) and device_id not in run.refused

    async def _run_all(self) -> None:
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            while (run_id := await self._next_run()) is not None:
                await self._run_one(run_id)

    async def _next_run(self) -> str | None:
        while True:
            try:
                waiting = await self._rooms.books.do(ledger.unfinished_runs, self._rooms.db)
                return waiting[0] if waiting else None
            except StoreError as error:
                log.error("%s; trying again", error)
                await asyncio.sleep(1.0)

    async def _run_one(self, run_id: str) -> None:
        self.preparing = run_id
        try:
            # An operator may have stopped it before it was known to be prepared.
            if run_id not in await self._rooms.books.do(ledger.unfinished_runs, self._rooms.db):
                return
            run = await open_run(self._rooms, run_id, _now_s())
        except StoreError as error:
            # A full disk is no fault of the run.
            log.error("%s: %s; trying again", run_id, error)
            await asyncio.sleep(1.0)
            return
        except EdgejouleError as error:
            log.error("%s failed: %s", run_id, error)
            await self._fail(run_id, str(error))
            return
        except Exception as error:
            log.exception("%s: internal error", run_id)
            await self._fail(run_id, f"internal error: {type(error).__name__}: {error}")
            return
        finally:
            self.preparing = None
        conductor = Conductor(run, self._rooms, now_s=_now_s, card_of=self._card_of, publish=self._publish)
        self.conductor = conductor
        try:
            for member in self.fleet:
                if member.state == "present":
                    conductor.arrived(member.card)
            await conductor.conduct()
        finally:
            self.conductor = None

    async def _fail(self, run_id: str, reason: str) -> None:
        with suppress(StoreError):
            await self._rooms.books.do(ledger.end_run, self._rooms.db, run_id, "failed", reason)

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
            self.fleet.call_ends(device_id, self._heard_s(), time.time())

    async def join(self, card: DeviceCard) -> float:
        """A device introduces itself; returns after how many seconds it should check in when idle."""
        with self.calling(card.device_id):
            await self._rooms.books.do(ledger.join, self._rooms.db, card)
        self.fleet.join(card, self._heard_s(), time.time())
        if self.conductor:
            self.conductor.arrived(card)
        return self.fleet.pace_s(busy=False)

    async def next_order(
        self, device_id: str, session: str, settled: Iterable[SettledEnergy], holding: Holding
    ) -> Order:
        """The order of this device, or when to come again. Energy that came along is on disk when this returns,
        unless the answer is to join again."""
        with self.calling(device_id):
            return await self._next_order(device_id, session, list(settled), holding)

    async def _next_order(self, device_id: str, session: str, settled: list[SettledEnergy], holding: Holding) -> Order:
        before = self.fleet.get(device_id)
        was_away = before is not None and before.state != "present"
        member = self.fleet.heard(device_id, session, self._heard_s(), time.time())
        if member is None:
            return RejoinOrder()
        if was_away and self.conductor:
            self.conductor.arrived(member.card)
        await self._settle(device_id, settled)
        # It may have said goodbye, or begun anew, while its energy was being written.
        if self.fleet.heard(device_id, session, self._heard_s(), time.time()) is None:
            return RejoinOrder()
        order = self._order_for(device_id, holding)
        if order is None and self.fleet.present <= SMALL_FLEET and not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    await self._news.wait()
            if self.fleet.heard(device_id, session, self._heard_s(), time.time()) is None:
                return RejoinOrder()
            order = self._order_for(device_id, holding)
        if order is not None:
            return order
        busy = self.conductor is not None
        reason = self.conductor.run.machine.state.value if self.conductor else "no run is on"
        return WaitOrder(self.fleet.pace_s(busy=busy), reason)

    def _order_for(self, device_id: str, holding: Holding) -> TrainOrder | None:
        return self.conductor.run.order_for(device_id, _now_s(), holding) if self.conductor else None

    def sent(self, order: TrainOrder, device_id: str, size_bytes: int) -> None:
        """An order of so many bytes is on its way."""
        if self.conductor and self.conductor.run.run_id == order.run_id:
            self.conductor.run.sent[device_id] += size_bytes

    async def _settle(self, device_id: str, settled: Iterable[SettledEnergy]) -> None:
        settled = list(settled)
        if not settled:
            return
        for strange in await self._rooms.books.do(ledger.settle, self._rooms.db, device_id, settled):
            log.warning("device %s: energy of round %d of %s has no order", device_id, strange.round, strange.run_id)

    async def report_limit_bytes(self, run_id: str) -> int:
        """The most that a report of this run may weigh.

        Raises:
            UnknownRunError: no such run.
        """
        if self.conductor and self.conductor.run.run_id == run_id:
            return self.conductor.run.report_limit_bytes
        return await self._rooms.books.do(ledger.report_limit, self._rooms.db, run_id)

    async def report(self, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
        """Take a report. ACCEPTED means that it is on disk.

        Raises:
            StoreError: it could not be written; nothing changed.
        """
        with self.calling(device_id):
            return await self._report(run_id, number, device_id, data)

    async def _report(self, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
        self.fleet.touch(device_id, self._heard_s(), time.time())
        conductor = await self._conductor_of(run_id, number, device_id)
        if conductor is None:
            return await self._rooms.books.do(ledger.late, self._rooms.db, run_id, number, device_id, data)
        card = self._card_of(device_id)
        if card is None:
            return Receipt(Verdict.REJECTED, f"not_ordered: no device is called {device_id!r}")
        return await conductor.report(number, device_id, card.train_examples, data)

    async def _conductor_of(self, run_id: str, number: int, device_id: str) -> Conductor | None:
        """Who takes this report, or None when it comes too late for everyone. After a restart a run is opened while
        devices send already what they trained before: it must not be lost to that."""
        waited_s = 0.0
        while True:
            conductor = self.conductor
            if conductor is not None and conductor.run.run_id == run_id:
                return conductor
            if not await self._rooms.books.do(ledger.may_come_later, self._rooms.db, run_id, number, device_id):
                return None
            if waited_s >= OPENING_S or self._closing:
                raise StoreError("the run is still being opened", where=run_id, fix="send the report again")
            await asyncio.sleep(TICK_S)
            waited_s += TICK_S

    async def leave(self, device_id: str, session: str, settled: Iterable[SettledEnergy], reason: str) -> None:
        """A device says goodbye: no round waits for it."""
        member = self.fleet.get(device_id)
        if member is None or member.card.session != session:
            return
        with self.calling(device_id):
            await self._settle(device_id, settled)
            await self._rooms.books.do(ledger.leave, self._rooms.db, device_id)
        if self.fleet.leave(device_id, session, time.time()):
            log.info("device %s left: %s", device_id, reason or "no reason given")
            if self.conductor:
                self.conductor.left(device_id)

    async def bundle(self, bundle_id: str) -> Bundle:
        """The bundle called so.

        Raises:
            UnknownRunError, ModelError, IntegrityError.
        """
        if self.conductor and self.conductor.run.bundle.bundle_id == bundle_id:
            return self.conductor.run.bundle
        return await self._rooms.models.do(self._rooms.shelf.open, bundle_id)


def _now_s() -> float:
    return time.monotonic()
