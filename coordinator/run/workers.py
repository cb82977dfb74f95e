"""Threads for what would block the event loop, and the database in one of them.

A coordinator has a thread for its database, one for TFLite and files, one for what people ask to see, which no device
waits for, and a few readers, which decode reports. All but the readers are single: database work happens in the order
in which it was asked for, so a report is folded in the order in which it was accepted; and no TFLite model is used by
two threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from coordinator.store.database import Database

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """One thread that does one thing at a time, or a few that touch nothing in common."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the thread. It is done even when the caller is cancelled meanwhile."""
        future = self._pool.submit(work, *args, **kwargs)
        return await asyncio.shield(asyncio.wrap_future(future))

    def soon(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run ``work`` in its turn, and let nobody wait for it. Nothing happens when the thread is closed before."""
        with suppress(RuntimeError):
            self._pool.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Finish what was begun; what waits in the queue is not begun, and nobody was told that it was done."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Store:
    """A database, and the thread that everything asked of it here is done in.

    Any function whose first argument is a database, or a connection, can be awaited: the store adds that argument.

    Attributes:
        database: for what runs in the thread already, or before there is an event loop.
        thread: for what must keep its turn among the works of the database without using it.
    """

    def __init__(self, database: Database, thread: Worker) -> None:
        self.database, self.thread = database, thread

    async def do(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(database, ...)``, which has transactions of its own; see :meth:`Worker.do`."""
        return await self.thread.do(work, self.database, *args, **kwargs)

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(connection, ...)`` in one transaction that changes nothing."""

        def reads() -> T:
            with self.database.reading() as connection:
                return work(connection, *args, **kwargs)

        return await self.thread.do(reads)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(connection, ...)`` in one transaction: whole, and on disk when this returns, or not at all."""

        def writes() -> T:
            with self.database.writing() as connection:
                return work(connection, *args, **kwargs)

        return await self.thread.do(writes)
