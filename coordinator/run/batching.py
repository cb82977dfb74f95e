"""Works that wait are done in one go: while one batch is on its way to the disk, the next one gathers.

Whoever comes alone is served at once; under load a commit is shared by all that came during the one before. Where many
come at once the next of them are waited for, for a moment: a batch costs what it costs, whether of eight or of sixty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Bounds how long a commit takes, and with it the answer to whoever comes next.
MOST = 256
# A batch of so many says that more are coming: unless so many wait already, this long is waited for them.
CROWD, FULL = 8, 64
GATHER_S = 0.05


class Batching(Generic[T, R]):
    """Works of one kind, done in the order in which they came.

    Args:
        work: does many; one result, or one exception, for each.
        most: in one go.
        gathers: after a batch of :data:`CROWD`, wait :data:`GATHER_S` seconds where fewer than :data:`FULL` have come.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Awaitable[Sequence[R | BaseException]]],
        most: int = MOST,
        *,
        gathers: bool = False,
    ) -> None:
        self._work, self._most, self._gathers = work, most, gathers
        self._last = 0
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def do(self, item: T) -> R:
        """One more. It is done even when the caller is cancelled meanwhile."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._gathers and self._last >= CROWD and len(self._waiting) < FULL:
                    await asyncio.sleep(GATHER_S)
                self._last = min(len(self._waiting), self._most)
                some, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                try:
                    made = await self._work([item for item, _ in some])
                except asyncio.CancelledError:
                    for _, future in some:
                        future.cancel()
                    raise
                except Exception as error:
                    made = [error] * len(some)
                for (_, future), result in zip(some, made, strict=True):
                    _tell(future, result)
        finally:
            self._task = None
            if self._waiting:
                # Cancelled: nobody was told that it was done.
                for _, future in self._waiting:
                    future.cancel()
                self._waiting = []


def _tell(future: asyncio.Future[R], result: R | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        # Whoever waited may be gone.
        future.exception()
    else:
        future.set_result(result)
