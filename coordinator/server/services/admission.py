"""Room for reports on their way in, and for orders on their way out: what all of them may weigh together, however many
devices send or ask at once.

A report that finds no room is not read: the flow control of HTTP/2 then holds its device, which waits as it does for
any slow network. An order that finds none is put together a little later. Whoever came first is let in first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Received, decoded and as a tree of float32, a report takes several times its size for a moment.
MOST_BYTES = 32 << 20


class Admission:
    """So many bytes at once.

    Args:
        most_bytes: of all that is let in; one report alone may weigh more.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """What is let in now."""
        return self._used

    async def take(self, size_bytes: int) -> None:
        """Wait until there is room, and keep it until :meth:`give_back`."""
        if self._waiting or not self._fits(size_bytes):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size_bytes, future))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    # Let in at the very moment when its device hung up.
                    self.give_back(size_bytes)
                else:
                    self._waiting = deque(pair for pair in self._waiting if pair[1] is not future)
                    self._let_in()
                raise
        else:
            self._used += size_bytes

    @asynccontextmanager
    async def room(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until there is room, and keep it until the block ends."""
        await self.take(size_bytes)
        try:
            yield
        finally:
            self.give_back(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return not self._used or self._used + size_bytes <= self._most

    def give_back(self, size_bytes: int) -> None:
        """The room that somebody took is free again."""
        self._used -= size_bytes
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size_bytes, future = self._waiting.popleft()
            if not future.done():
                self._used += size_bytes
                future.set_result(None)
