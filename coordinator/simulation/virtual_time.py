"""An event loop whose time passes only when nothing is left to do, and the coordinator's threads within it.

The loop waits for nothing but its own timers, so its clock jumps from one to the next. Work that a coordinator gives to
its threads is done at once, in the order in which it was asked for: a run is then a function of its seed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from coordinator.run.workers import Worker

P = ParamSpec("P")
T = TypeVar("T")

# A Monday morning, 2026-01-05 06:00 UTC: budgets a day begin at midnight, and harvests of the sun with it.
EPOCH_UNIX_S = 1_767_592_800.0


class StuckError(AssertionError):
    """Nothing will ever happen again, and the simulation is not over: a mistake of this room."""


class _Jump(selectors.BaseSelector):
    """A selector that waits by moving the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._idle = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            # Calls from other threads, such as that of Ctrl-C, come without a file: one look more is allowed.
            self._idle += 1
            if self._idle > 2:
                raise StuckError("nothing is left to wait for")
            return []
        self._idle = 0
        self.now_s += max(0.0, timeout)
        return []

    def get_map(self) -> Any:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual seconds, which begin at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


class VirtualWorker(Worker):
    """A thread of the coordinator that is none: one thing at a time, in the order in which it was asked for.

    Args:
        takes_s: virtual seconds of each piece of work.
    """

    def __init__(self, takes_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            # What comes meanwhile waits, and is done together, as while a real thread writes.
            await asyncio.sleep(self._takes_s)
            return work(*args, **kwargs)

    def close(self) -> None:
        return None
