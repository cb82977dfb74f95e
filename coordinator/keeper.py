"""The coordinator without its network face: the fleet, the run that is on, and those that wait for their turn.

One run is on at a time; the next begins when it ends. All methods run on the event loop; what blocks goes to the two
threads of :mod:`coordinator.workers`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from coordinator import exporting, ledger
from coordinator.conductor import Conductor
from coordinator.fleet import Fleet
from coordinator.opening import Rooms, open_run
from coordinator.planning import prepare
from coordinator.rounds import Stop, Tick
from coordinator.status import DeviceStatus, ExportSummary, RunStatus
from coordinator.store import devices, reading, runs
from coordinator.store.database import Database
from coordinator.store.runs import NewRun
from protos.errors import EdgejouleError, StoreError, UsageError
from protos.model.bundle import Bundle
from protos.orders import (
    DeviceCard,
    Order,
    Receipt,
    RejoinOrder,
    SettledEnergy,
    TrainOrder,
    Verdict,
    WaitOrder,
)
from protos.update import trees

log = logging.getLogger("edgejoule.coordinator")

TICK_S = 0.1
# Up to this many devices are kept waiting for an order instead of being told to come again.
SMALL_FLEET = 64
HOLD_S = 2.0
# How long a report waits for its run to be opened after a restart.
OPENING_S = 10.0


class Keeper:
    """What the services talk to.

    Args:
        rooms: opened; closed by the caller after :meth:`close`.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._fleet = Fleet()
        self._conductor: Conductor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._closing = False
        self._preparing: str | None = None

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Remember the fleet, and take up the runs that are not over."""
        for known in await self._rooms.books.do(_known, self._rooms.db):
            self._fleet.remember(known.card, left=known.left, seen_unix_s=known.last_seen_unix_s)
        self._wanted.set()
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
            await asyncio.sleep(TICK_S)
            for device_id in self._fleet.sweep(_now_s(), self._is_busy):
                log.info("device %s fell silent", device_id)
                if self._conductor:
                    self._conductor.left(device_id)
            if self._conductor:
                self._conductor.feed(Tick())

    def _is_busy(self, device_id: str) -> bool:
        run = self._conductor.run if self._conductor else None
        return run is not None and run.machine.owes(device_id) and device_id not in run.refused

    async def _run_all(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while (run_id := await self._next_run()) is not None:
                await self._run_one(run_id)

    async def _next_run(self) -> str | None:
        while True:
            try:
                waiting = await self._rooms.books.do(_unfinished, self._rooms.db)
                return waiting[0] if waiting else None
            except StoreError as error:
                log.error("%s; trying again", error)
                await asyncio.sleep(1.0)

    async def _run_one(self, run_id: str) -> None:
        self._preparing = run_id
        try:
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
            self._preparing = None
        conductor = Conductor(run, self._rooms, now_s=_now_s, card_of=self._card_of, publish=self._publish)
        self._conductor = conductor
        try:
            for member in self._fleet:
                if member.state == "present":
                    conductor.arrived(member.card)
            await conductor.conduct()
        finally:
            self._conductor = None

    async def _fail(self, run_id: str, reason: str) -> None:
        with suppress(StoreError):
            await self._rooms.books.do(ledger.end_run, self._rooms.db, run_id, "failed", reason)

    def _publish(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _card_of(self, device_id: str) -> DeviceCard | None:
        member = self._fleet.get(device_id)
        return member.card if member else None

    # ------------------------------------------------------------ devices

    async def join(self, card: DeviceCard) -> float:
        """A device introduces itself; returns after how many seconds it should check in when idle."""
        await self._rooms.books.do(_join, self._rooms.db, card)
        self._fleet.join(card, _now_s(), time.time())
        if self._conductor:
            self._conductor.arrived(card)
        return self._fleet.pace_s(busy=False)

    async def next_order(self, device_id: str, session: str, settled: Iterable[SettledEnergy]) -> Order:
        """The order of this device, or when to come again. Energy that came along is on disk when this returns,
        unless the answer is to join again."""
        before = self._fleet.get(device_id)
        was_away = before is not None and before.state != "present"
        member = self._fleet.heard(device_id, session, _now_s(), time.time())
        if member is None:
            return RejoinOrder()
        if was_away and self._conductor:
            self._conductor.arrived(member.card)
        await self._settle(device_id, settled)
        order = self._order_for(device_id)
        if order is None and self._fleet.present <= SMALL_FLEET and not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    await self._news.wait()
            if self._fleet.heard(device_id, session, _now_s(), time.time()) is None:
                return RejoinOrder()
            order = self._order_for(device_id)
        if order is not None:
            return order
        busy = self._conductor is not None
        reason = self._conductor.run.machine.state.value if self._conductor else "no run is on"
        return WaitOrder(self._fleet.pace_s(busy=busy), reason)

    def _order_for(self, device_id: str) -> TrainOrder | None:
        return self._conductor.run.order_for(device_id, _now_s()) if self._conductor else None

    def sent(self, order: TrainOrder, device_id: str, size_bytes: int) -> None:
        """An order of so many bytes is on its way."""
        if self._conductor and self._conductor.run.run_id == order.run_id:
            self._conductor.run.sent[device_id] += size_bytes

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
        if self._conductor and self._conductor.run.run_id == run_id:
            return self._conductor.run.report_limit_bytes
        return await self._rooms.books.do(ledger.report_limit, self._rooms.db, run_id)

    async def report(self, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
        """Take a report. ACCEPTED means that it is on disk.

        Raises:
            StoreError: it could not be written; nothing changed.
        """
        self._fleet.touch(device_id, _now_s(), time.time())
        conductor = await self._conductor_of(run_id, number, device_id)
        if conductor is None:
            return await self._rooms.books.do(ledger.late, self._rooms.db, run_id, number, device_id, len(data))
        card = self._card_of(device_id)
        if card is None:
            return Receipt(Verdict.REJECTED, f"not_ordered: no device is called {device_id!r}")
        return await conductor.report(number, device_id, card.train_examples, data)

    async def _conductor_of(self, run_id: str, number: int, device_id: str) -> Conductor | None:
        """Who takes this report, or None when it comes too late for everyone. After a restart a run is opened while
        devices send already what they trained before: it must not be lost to that."""
        waited_s = 0.0
        while True:
            conductor = self._conductor
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
        member = self._fleet.get(device_id)
        if member is None or member.card.session != session:
            return
        await self._settle(device_id, settled)
        await self._rooms.books.do(_leave, self._rooms.db, device_id)
        if self._fleet.leave(device_id, session, time.time()):
            log.info("device %s left: %s", device_id, reason or "no reason given")
            if self._conductor:
                self._conductor.left(device_id)

    async def bundle(self, bundle_id: str) -> Bundle:
        """The bundle called so.

        Raises:
            UnknownRunError, ModelError, IntegrityError.
        """
        if self._conductor and self._conductor.run.bundle.bundle_id == bundle_id:
            return self._conductor.run.bundle
        return await self._rooms.models.do(self._rooms.shelf.open, bundle_id)

    # ------------------------------------------------------------ operators

    async def start_run(self, plan_toml: str, directory: str) -> str:
        """Check a plan with all that it names, write the run down, and put it in the queue; returns its id.

        Raises:
            EdgejouleError: see :func:`coordinator.planning.prepare`.
        """
        base = Path(directory)
        if not base.is_absolute():
            raise UsageError(f"{directory!r} is not an absolute path", where="plan directory")
        prepared = await self._rooms.models.do(prepare, plan_toml, base)
        bundle = await self._rooms.models.do(self._rooms.shelf.keep, prepared.bundle)
        plan, head = prepared.plan, bundle.initial_head()
        run_id = f"run-{secrets.token_hex(5)}"
        new = NewRun(
            run_id=run_id,
            name=plan.run.name,
            plan_id=plan.plan_id,
            plan_toml=plan_toml,
            plan_directory=str(base),
            bundle_id=bundle.bundle_id,
            rounds_planned=plan.run.rounds,
            initial_head=trees.version(head),
        )
        await self._rooms.books.do(ledger.add_run, self._rooms.db, new, head)
        log.info("%s: %s, %d rounds", run_id, plan.run.name, plan.run.rounds)
        self._wanted.set()
        return run_id

    async def stop_run(self, name: str) -> str:
        """End a run; returns its state. A head that is being made is finished first."""
        run_id = await self._rooms.books.do(_resolve, self._rooms.db, name)
        while True:
            conductor = self._conductor
            if conductor is not None and conductor.run.run_id == run_id:
                conductor.feed(Stop())
                await conductor.run.over.wait()
                break
            if self._preparing != run_id:
                await self._rooms.books.do(_stop_waiting, self._rooms.db, run_id)
                break
            await asyncio.sleep(TICK_S)
        return (await self.status(run_id))[0].state

    async def status(self, name: str = "", since_round: int = 0) -> list[RunStatus]:
        """One run, or all of them.

        Raises:
            UnknownRunError: no such run.
        """
        found = await self._rooms.books.do(_status, self._rooms.db, name, since_round)
        return [run if run.is_over else run.because(self._why(run)) for run in found]

    def _why(self, run: RunStatus) -> str:
        if self._conductor and self._conductor.run.run_id == run.run_id:
            return self._conductor.run.describe()
        if self._preparing == run.run_id:
            return "being prepared: held-out data are embedded"
        current = self._conductor.run.run_id if self._conductor else self._preparing
        return f"waits for {current} to end" if current else "waits for its turn"

    async def devices(self) -> list[DeviceStatus]:
        """Every device that ever joined, with the joules that it reported."""
        spent = await self._rooms.books.do(_spent, self._rooms.db)
        return [
            DeviceStatus(
                device_id=card.device_id,
                state=member.state,
                board=card.board,
                engine=card.engine,
                meter=card.meter,
                software_version=card.software_version,
                train_examples=card.train_examples,
                test_examples=card.test_examples,
                last_seen_unix_s=member.seen_unix_s,
                energy_j=spent.get(card.device_id, (None, 0))[0],
                unknown_phases=spent.get(card.device_id, (None, 0))[1],
                budget_j=card.budget_j,
            )
            for member in sorted(self._fleet, key=lambda one: one.card.device_id)
            for card in (member.card,)
        ]

    async def export(self, name: str, head_version: str) -> tuple[ExportSummary, bytes]:
        """Assemble the integer model of a run.

        Raises:
            UnknownRunError: no such run or head.
            UsageError: the run has no held-out data to calibrate with.
            CheckFailed: the integer model is worse than the float head.
        """
        job = await self._rooms.books.do(exporting.find, self._rooms.db, name, head_version)
        return await self._rooms.models.do(exporting.export, job, self._rooms.shelf, self._rooms.evaluations)


def _now_s() -> float:
    return time.monotonic()


def _known(db: Database) -> list[devices.KnownDevice]:
    with db.reading() as connection:
        return devices.known(connection)


def _unfinished(db: Database) -> list[str]:
    with db.reading() as connection:
        return [row["run_id"] for row in runs.unfinished(connection)]


def _join(db: Database, card: DeviceCard) -> None:
    with db.writing() as connection:
        devices.join(connection, card)


def _leave(db: Database, device_id: str) -> None:
    with db.writing() as connection:
        devices.leave(connection, device_id)


def _resolve(db: Database, name: str) -> str:
    with db.reading() as connection:
        return runs.resolve(connection, name)


def _status(db: Database, name: str, since_round: int) -> list[RunStatus]:
    with db.reading() as connection:
        wanted = [runs.resolve(connection, name)] if name else reading.run_ids(connection)
        return [reading.run_status(connection, run_id, since_round) for run_id in wanted]


def _spent(db: Database) -> dict[str, tuple[float | None, int]]:
    with db.reading() as connection:
        return devices.spent(connection)


def _stop_waiting(db: Database, run_id: str) -> None:
    with db.reading() as connection:
        over = runs.row(connection, run_id)["state"] not in runs.OPEN_STATES
    if not over:
        ledger.end_run(db, run_id, "stopped", "stopped before it began")
