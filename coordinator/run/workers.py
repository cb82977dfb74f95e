"""Threads for what would block the event loop: `books` for the database, `models` for TFLite and files, `looks` for
what people ask to see, which no device waits for, and `readers`, which decode reports.

All but the readers are single: database work happens in the order in which it was asked for, so a report is folded in
the order in which it was accepted; and no TFLite model is used by two threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

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

    def close(self) -> None:
        """Finish what was begun; what waits in the queue is not begun, and nobody was told that it was done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
