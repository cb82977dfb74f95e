"""What the daemon tells systemd: ready, what it is doing, that work goes on, that it ends. See sd_notify(3).

Rules kept here:

* No thread and no timer feeds the watchdog. A message goes out only from :meth:`Notifier.progress`, which the daemon
  calls when it has done something; a step that never ends is a process that systemd kills.
* Before it is ready, progress asks for more time to start: loading ten thousand photographs is no failure to start, and
  a start that does nothing any more is one.
* Nothing said here can end the daemon or hold it up: a socket that is gone or full is no error. All services of a
  machine share it, so it can be full.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

# sd_watchdog_enabled(3) asks for half of the interval at least; a quarter leaves room for one slow step.
_SHARE = 0.25
_MOST_STATUS = 200
# A start that goes on for long is given so much more time, and asks again so often.
_START_MORE_S, _START_EACH_S = 120.0, 30.0
# How long a message may wait for room. systemd would not take a unit for started whose READY was lost.
_READY_WAIT_S = 10.0
_WAIT_S = 0.5


class Notifier:
    """Messages to the service manager; silent when there is none.

    Args:
        address: of a datagram socket: a path, or ``@name`` for an abstract one. None: say nothing.
        watchdog_s: silence after which systemd kills the process, or None.
        now_s: a monotonic clock.
    """

    def __init__(
        self, address: str | None, watchdog_s: float | None = None, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else None
        self._now_s = now_s
        self._fed_s: float | None = None
        self._is_ready, self._asked_s = False, now_s()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        """The one that systemd names in ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        address = environ.get("NOTIFY_SOCKET", "")
        interval, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID") or str(os.getpid())
        watched = interval.isdecimal() and int(interval) > 0 and owner == str(os.getpid())
        return cls(address if address[:1] in ("/", "@") else None, int(interval) / 1e6 if watched else None)

    def ready(self, status: str) -> None:
        """The daemon is up. systemd counts the watchdog from here."""
        self._is_ready = True
        self._send(f"READY=1\nSTATUS={_line(status)}", wait_s=_READY_WAIT_S)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def progress(self) -> None:
        """Something was done; told to the watchdog at most four times in its interval."""
        if self.watchdog_s is None:
            return
        now_s = self._now_s()
        due = self._fed_s is None or now_s - self._fed_s >= _SHARE * self.watchdog_s
        if due and self._send("WATCHDOG=1", wait_s=0.0):
            self._fed_s = now_s

    def went_on(self) -> None:
        """Something was done: :meth:`progress`, or before the daemon is up a request for more time to start."""
        if self._is_ready:
            self.progress()
            return
        now_s = self._now_s()
        if now_s - self._asked_s >= _START_EACH_S:
            self._asked_s = now_s
            self._send(f"EXTEND_TIMEOUT_USEC={_START_MORE_S * 1e6:.0f}", wait_s=0.0)

    def stopping(self, reason: str) -> None:
        """The daemon has begun to end."""
        self._send(f"STOPPING=1\nSTATUS={_line(reason)}")

    def close(self) -> None:
        """Give the socket back. Harmless when repeated."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, message: str, *, wait_s: float = _WAIT_S) -> bool:
        if self._socket is None or self._address is None:
            return False
        with contextlib.suppress(OSError):
            self._socket.settimeout(wait_s)
            self._socket.sendto(message.encode(), socket.MSG_NOSIGNAL, self._address)
            return True
        return False


def _line(text: str) -> str:
    """One line: a newline would begin another assignment."""
    return " ".join(text.split())[:_MOST_STATUS]
