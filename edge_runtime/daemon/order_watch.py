"""Whether an order is still wanted, asked while it is worked on: a run that is stopped stops the joules.

One call stays open beside the work, and is looked at before each step without waiting. A coordinator of an earlier
release does not know the call; the order is then wanted until its deadline, as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

# Short work is not worth a call.
FIRST_S = 0.5
AGAIN_S = 10.0


class Asking(Protocol):
    """A call that is out."""

    def done(self) -> bool:
        """Whether there is an answer."""
        ...

    def cancel(self) -> Any:
        """Wait for none."""
        ...


class OrderWatch:
    """Watches one order.

    Args:
        ask: begins the call.
        wanted: what the answer of a call says; None when it failed.
        now_s: a monotonic clock.
    """

    def __init__(
        self, ask: Callable[[], Asking], wanted: Callable[[Any], bool | None], now_s: Callable[[], float]
    ) -> None:
        self._ask, self._wanted, self._now_s = ask, wanted, now_s
        self._next_s = now_s() + FIRST_S
        self._call: Asking | None = None
        self._ended = False

    def ended(self) -> bool:
        """Whether the order is not wanted any more. Never waits."""
        if self._ended:
            return True
        if self._call is None:
            if self._now_s() >= self._next_s:
                self._call = self._ask()
        elif self._call.done():
            wanted = self._wanted(self._call)
            self._call, self._ended = None, wanted is False
            self._next_s = self._now_s() + (0.0 if wanted else AGAIN_S)
        return self._ended

    def close(self) -> None:
        """Watch no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
