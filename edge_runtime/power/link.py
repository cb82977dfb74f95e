"""The thread that keeps a bridge's port open and feeds the session.

A port that goes away is closed and opened again **by its path**: after a replug the same name leads to another
device. Nothing that happens here reaches the training thread as an exception.
"""

from __future__ import annotations

import logging
import threading

from edge_runtime.power.clock import Clock
from edge_runtime.power.session import BridgeSession
from edge_runtime.power.transport import Opener, SerialTransport, Transport
from protos.errors import SensorError

__all__ = ["BridgeLink"]

log = logging.getLogger(__name__)

REOPEN_EACH_S = 0.2
SILENT_S = 5.0


class BridgeLink:
    """Owns the transport; calls the session under ``lock`` only.

    Args:
        path: the port.
        session: protocol state.
        lock: guards the session and what it delivers to.
        news: set whenever something arrived.
        clock: the host's clock.
        opener: makes a transport from a path.
    """

    def __init__(
        self,
        path: str,
        session: BridgeSession,
        *,
        lock: threading.RLock,
        news: threading.Event,
        clock: Clock,
        opener: Opener = SerialTransport,
    ) -> None:
        self._path, self._session, self._lock, self._news = path, session, lock, news
        self._clock, self._opener = clock, opener
        self._transport: Transport | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether the port is open."""
        return self._transport is not None

    def open(self) -> None:
        """Open the port and start reading. Raises SensorError as the opener does."""
        self._transport = self._opener(self._path)
        self._heard_s = self._clock.monotonic()
        self._session.opened(again=False)
        self._thread = threading.Thread(target=self._run, name=f"power:{self._path}", daemon=True)
        self._thread.start()

    def request_flush(self) -> None:
        """Ask the bridge, at once, for what it has not sent yet."""
        with self._lock:
            self._session.flush_wanted = True
        self._send_due()

    def close(self) -> None:
        """Stop the thread and close the port."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._transport is None:
                self._open_again()
                continue
            try:
                data = self._transport.read()
            except OSError as error:
                self._lost(str(error))
                continue
            now_s = self._clock.monotonic()
            if data:
                self._heard_s = now_s
                with self._lock:
                    self._session.receive(data, now_s)
                self._news.set()
            elif now_s - self._heard_s > SILENT_S:
                self._lost(f"nothing heard for {SILENT_S:g} s")
                continue
            self._send_due()

    def _send_due(self) -> None:
        # The session stamps a SYNC with the time it is given: sent under the lock, right after.
        with self._lock:
            transport = self._transport
            commands = self._session.due(self._clock.monotonic()) if transport else b""
            if transport is None or not commands:
                return
            try:
                transport.write(commands)
            except OSError as error:
                # The reading thread finds the same and closes the port.
                log.debug("power bridge %s: not sent (%s)", self._path, error)

    def _open_again(self) -> None:
        try:
            transport = self._opener(self._path)
        except SensorError:
            self._clock.wait(self._stop, REOPEN_EACH_S)
            return
        with self._lock:
            self._session.opened(again=True)
            self._transport = transport
            self._heard_s = self._clock.monotonic()
        log.warning("power bridge %s: port is back", self._path)

    def _lost(self, why: str) -> None:
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        log.warning("power bridge %s: port lost (%s), trying again", self._path, why)
        self._clock.wait(self._stop, REOPEN_EACH_S)
