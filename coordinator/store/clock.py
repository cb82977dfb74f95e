"""What time it is for the coordinator: that of the machine, or of whoever simulates one.

Within :func:`shown` both clocks are those that were handed in, for the code that runs in that context alone: other
threads and tasks of the same process keep the machine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SHOWN: ContextVar[tuple[Callable[[], float], Callable[[], float]] | None] = ContextVar("clock", default=None)


def now_s() -> float:
    """Seconds of a monotonic clock."""
    clocks = _SHOWN.get()
    return time.monotonic() if clocks is None else clocks[0]()


def unix_s() -> float:
    """Seconds since 1970, UTC."""
    clocks = _SHOWN.get()
    return time.time() if clocks is None else clocks[1]()


@contextmanager
def shown(now: Callable[[], float], unix: Callable[[], float]) -> Iterator[None]:
    """Within, and in tasks that are begun within, these are the clocks."""
    token = _SHOWN.set((now, unix))
    try:
        yield
    finally:
        _SHOWN.reset(token)
