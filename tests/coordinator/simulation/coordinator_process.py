"""The coordinator as a process that can die: real run scheduler, driver, services and SQLite, on virtual time.

What is not real: the three threads are queues of the event loop, since a thread of its own would not be a function of
the seed; and the disk can be cut before or after each commit, be full for a while, and be slow. Of later seeds reads
fail as well, as they do beside a server that is started anew.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection
from virtual_time import Died, VirtualLoop

from coordinator.run.resume import Rooms
from coordinator.run.workers import Store, Worker
from coordinator.server.operations import Operations
from coordinator.server.run_scheduler import RunScheduler
from coordinator.server.services.device_service import DeviceService
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models.bundle_store import BundleStore
from protos.errors import StoreError

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """What becomes of commits.

    Attributes:
        faulty: whether anything goes wrong at all.
        share: of commits that something happens to.
        reads_share: of looks into the books that fail.
        full: every commit fails.
        slow: works of the database may take seconds.
        committed: called after each commit that is on disk.
        die_in: commits until the process dies at one, or None.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.faulty, self.share, self.full, self.slow = True, 0.03, False, False
        self.reads_share = 0.0
        self.committed: Callable[[], None] = lambda: None
        self.die_in: int | None = None
        self.counts: Counter[str] = Counter()

    def attend(self, db: Database, process: CoordinatorProcess) -> None:
        """Stand between a database and its commits."""
        dialect: Any = db._engine.dialect
        real = dialect.do_commit

        def do_commit(connection: Any) -> None:
            if process.dead:
                raise Died
            luck = self._dice.random() if self.faulty else 1.0
            if self.full:
                self.counts["commits on a full disk"] += 1
                raise sqlite3.OperationalError("database or disk is full")
            dies = self._dies()
            if dies and luck < 0.5:
                self.counts["deaths before a commit"] += 1
                process.kill()
                raise Died
            if not dies and luck < self.share / 2:
                self.counts["commits that failed"] += 1
                raise sqlite3.OperationalError("disk I/O error")
            real(connection)
            self.committed()
            if dies:
                self.counts["deaths after a commit"] += 1
                process.kill()
                raise Died
            if luck < self.share:
                self.counts["commits without an answer"] += 1
                raise sqlite3.OperationalError("the connection was lost")

        dialect.do_commit = do_commit
        reading = db.reading

        @contextmanager
        def may_fail() -> Iterator[Connection]:
            # A coordinator that cannot read when it starts ends, and is started again: no more than a death.
            if self.faulty and self.reads_share and process.up and self._dice.random() < self.reads_share:
                self.counts["reads that failed"] += 1
                raise StoreError("the server is shutting down", where="database")
            with reading() as connection:
                yield connection

        db.reading = may_fail  # type: ignore[method-assign]

    def _dies(self) -> bool:
        if self.die_in is None or not self.faulty:
            return False
        self.die_in -= 1
        if self.die_in > 0:
            return False
        self.die_in = None
        return True

    def takes_s(self) -> float:
        """How long a piece of work on the database takes."""
        if self.slow and self._dice.random() < 0.3:
            return self._dice.choice((0.3, 2.0, 8.0, 25.0)) * self._dice.random()
        return self._dice.uniform(0.0, 0.01)


class VirtualWorker(Worker):
    """One thing at a time, in the order in which it was asked for."""

    def __init__(self, process: CoordinatorProcess, takes_s: Callable[[], float]) -> None:
        self._process, self._takes_s = process, takes_s
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async def body() -> T:
            async with self._turn:
                await asyncio.sleep(self._takes_s())
                if self._process.dead:
                    raise asyncio.CancelledError
                try:
                    made = work(*args, **kwargs)
                except Died:
                    raise asyncio.CancelledError from None
            await asyncio.sleep(0)
            return made

        if self._process.dead:
            raise asyncio.CancelledError
        return await asyncio.shield(asyncio.create_task(body()))

    def close(self) -> None:
        return None


class CoordinatorProcess:
    """One start of the coordinator on a state folder."""

    def __init__(self, loop: VirtualLoop, state: Path, bundles: Path, disk: Disk) -> None:
        self._loop, self.dead, self.up = loop, False, False
        self.db = Database(sqlite_url(state / "coordinator.db"))
        disk.attend(self.db, self)
        store = Store(self.db, VirtualWorker(self, disk.takes_s))
        looks = Store(self.db, VirtualWorker(self, lambda: 0.0))
        models, readers = (VirtualWorker(self, lambda: 0.0) for _ in range(2))
        self.rooms = Rooms(store, looks, models, readers, BundleStore(bundles), state / "evaluations")
        self.run_scheduler = RunScheduler(self.rooms)
        self.service = DeviceService(self.run_scheduler)
        self.operations = Operations(self.rooms, self.run_scheduler)
        loop.start(self, self._open())

    async def _open(self) -> None:
        await self.run_scheduler.open()
        self.up = True

    def kill(self) -> None:
        """It is gone, in the middle of whatever it did: nothing it holds in memory counts any more."""
        if self.dead:
            return
        self.dead, self.up = True, False
        for task in self._loop.of(self):
            task.cancel()
        # Not while a transaction of the database is on the stack.
        self._loop.call_soon(self.db.close)

    def failures(self) -> list[BaseException]:
        """Background tasks that ended by an error nobody expected."""
        tasks = [task for task in self.run_scheduler._tasks if task.done() and not task.cancelled()]
        return [error for task in tasks if (error := task.exception()) is not None]
