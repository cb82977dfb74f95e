"""The host's clock as tests use it: waiting for something that must come about, with a net below."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_runtime.power.clock import SystemClock

__all__ = ["HANG_S", "HostClock"]

HANG_S = 60.0
"""Longer than anything on a bench takes; only a hang gets there."""
LOOK_EACH_S = 0.01


class HostClock(SystemClock):
    """CLOCK_MONOTONIC, and two ways to wait."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        time.sleep(seconds)

    def until(self, condition: Callable[[], object], what: str, *, hang_s: float = HANG_S) -> float:
        """Wait until ``condition`` is true; the seconds that took.

        Raises:
            AssertionError: it never came about.
        """
        begun_s = self.monotonic()
        while not condition():
            if self.monotonic() - begun_s > hang_s:
                raise AssertionError(f"{what} did not come about in {hang_s:g} s")
            time.sleep(LOOK_EACH_S)
        return self.monotonic() - begun_s
