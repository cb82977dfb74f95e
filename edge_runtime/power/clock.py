"""The clock that every timing decision in the power room asks; tests hand in a virtual one."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Monotonic seconds, and a way to wait that a stop request can cut short."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary instant; never goes back."""
        ...

    def process_time(self) -> float:
        """CPU seconds that this process has used, all threads together."""
        ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set or ``timeout_s`` has passed; True when it is set."""
        ...


class SystemClock:
    """The machine's own clocks: CLOCK_MONOTONIC and the process CPU clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def process_time(self) -> float:
        return time.process_time()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(timeout_s)
