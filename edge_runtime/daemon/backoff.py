"""How long to wait before asking again: exponential, with jitter, so that a fleet does not come back in step."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double up to a limit.

    Each delay is drawn evenly from the upper half of its step ("equal jitter"): a device waits long enough to spare
    the coordinator, and no two devices stay in step.

    Args:
        first_s: step of the first delay.
        limit_s: longest step.
        draw: a number in [0, 1).

    >>> backoff = Backoff(1.0, 4.0, draw=lambda: 0.0)
    >>> [backoff.next_s() for _ in range(4)]
    [0.5, 1.0, 2.0, 2.0]
    """

    def __init__(self, first_s: float = 0.25, limit_s: float = 30.0, *, draw: object = None) -> None:
        self._first_s, self._limit_s = first_s, limit_s
        self._draw = draw if callable(draw) else random.random
        self.tries = 0

    def next_s(self) -> float:
        """The next delay, seconds."""
        step_s = min(self._limit_s, self._first_s * 2.0 ** min(self.tries, 60))
        self.tries += 1
        return step_s * (0.5 + 0.5 * float(self._draw()))

    def reset(self) -> None:
        """Begin again after a success."""
        self.tries = 0
