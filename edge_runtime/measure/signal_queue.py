"""SIGINT and SIGTERM taken from the queue, because only the queue says who sent one.

A terminal sends Ctrl-C to every process of its foreground group, the measured command among them: passing it on would
interrupt the command twice. ``kill -INT`` reaches this process alone, and has to be passed on. Rules kept here:

* The signals are blocked before any thread starts, so that no thread but this one can be given them. Import numpy
  after that: its threads begin with the import.
* They are unblocked for the moment in which a child starts, since a child inherits the mask. What comes then, or by
  way of a thread that was there before, is noted by a handler.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Asked", "SignalQueue"]

_TAKEN = frozenset({signal.SIGINT, signal.SIGTERM})
_SI_KERNEL = 0x80
"""``si_code`` of a signal that the terminal driver sent (sigaction(2))."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A signal, and whether a terminal sent it to the whole foreground group."""

    number: signal.Signals
    from_terminal: bool


class SignalQueue:
    """A context in which signals wait to be asked for. Main thread only."""

    def __enter__(self) -> SignalQueue:
        self._noted: deque[Asked] = deque()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN | {signal.SIGCHLD})
        self._handlers: dict[signal.Signals, Any] = {one: signal.signal(one, self._note) for one in _TAKEN}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Mask first: what is still in the queue then goes to our handler, and ends nobody.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def wait(self, timeout_s: float) -> Asked | None:
        """The next signal; None when the time has passed or a child has ended."""
        if self._noted:
            return self._noted.popleft()
        info = signal.sigtimedwait(_TAKEN | {signal.SIGCHLD}, max(0.0, timeout_s))
        if info is not None and info.si_signo in _TAKEN:
            return Asked(signal.Signals(info.si_signo), info.si_code == _SI_KERNEL)
        return self._noted.popleft() if self._noted else None

    @contextmanager
    def starting_a_child(self) -> Iterator[None]:
        """Give the child that starts within the mask that this process was given."""
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(Asked(signal.Signals(number), from_terminal=False))
