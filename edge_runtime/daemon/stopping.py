"""Being asked to stop, and waiting in a way that such a request cuts short.

Rules kept here:

* A signal handler sets a flag and writes one byte to a pipe, nothing else: locks (those of ``threading.Event`` and of
  gRPC among them) can be held by the very thread that the handler interrupts.
* The first SIGTERM, SIGINT or SIGHUP asks for a clean end, which is exit code 0. A SIGHUP that was ignored when the
  process began, as `nohup` does, stays ignored. The handlers are then the default ones
  again, so a second signal ends the process at once (status 143 or 130 in a shell).
* Long work that is cut short loses nothing: reading data, trying a model, embedding. It is given up at the next file or
  block (:meth:`Stopping.loading`), and each of them counts as progress.
* A wait has an end that is known when it begins. Each turn of it counts as progress, so that a watchdog does not
  take an idle device for a hung one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

from protos.progress import heard_by

__all__ = ["STOP_S", "Interrupted", "Stopping"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TURN_S = 5.0
STOP_S = 2.0
"""From a request to stop to the end of the process. What is not done by then is kept on disk for the next start."""


class Interrupted(Exception):
    """Something was given up since the daemon was asked to stop."""


class Stopping:
    """A request to stop that any thread or signal handler may make, and one thread waits for."""

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self._asked_s = float("inf")
        self._signalled = ""
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def tell_progress(self, *listeners: Callable[[], None]) -> None:
        """From now on call these, in the thread that works, whenever something was done."""
        self._listeners = listeners

    def progressed(self) -> bool:
        """Say that something was done: a step, a call, a turn of a wait. True when a stop is requested."""
        for listener in self._listeners:
            listener()
        return self.requested

    def request(self, reason: str) -> None:
        """Ask to stop; the first reason is kept."""
        self.reason = self.reason or reason
        if not self.requested:
            self._asked_s = time.monotonic()
        self.requested = True
        self.wake()

    def withdraw(self) -> None:
        """The request is met and work goes on, unless a signal asked as well."""
        self.reason, self.requested = self._signalled, bool(self._signalled)

    def left_s(self, keep_s: float = 0.0) -> float:
        """Seconds that are left to end in good time, less ``keep_s`` for what comes after; a tenth at least."""
        return max(0.1, min(STOP_S, self._asked_s + STOP_S - time.monotonic()) - keep_s)

    def loading(self) -> contextlib.AbstractContextManager[None]:
        """Within, long work tells its progress, and is given up with :class:`Interrupted` when a stop is requested."""
        return heard_by(self._go_on)

    def _go_on(self) -> None:
        if self.progressed():
            raise Interrupted

    def wake(self) -> None:
        """End a running :meth:`nap` early; safe from any thread and from a signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._writer, b".")

    def nap(self, timeout_s: float) -> None:
        """Wait until something wakes this up, or the time has passed; may return early for no reason."""
        ready, _, _ = select.select([self._reader], [], [], max(0.0, timeout_s))
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)

    def wait(self, timeout_s: float) -> bool:
        """Wait until a stop is requested or the time has passed; True when it is requested."""
        end_s = time.monotonic() + timeout_s
        while not self.requested and (left_s := end_s - time.monotonic()) > 0:
            self.nap(min(left_s, _TURN_S))
            self.progressed()
        return self.requested

    def catch_signals(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP as requests. Main thread only."""
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for each_signal in _SIGNALS:
            if signal.getsignal(each_signal) != signal.SIG_IGN:
                signal.signal(each_signal, signal.SIG_DFL)
        self._signalled = signal.Signals(number).name
        self.request(self._signalled)

    def close(self) -> None:
        """Give the pipe back."""
        for number in (self._reader, self._writer):
            with contextlib.suppress(OSError):
                os.close(number)
