"""The thread that keeps a bridge's port open and feeds the session.

A port that goes away is closed and opened again **by its path**: after a replug the same name leads to another
device. Nothing that happens here reaches the training thread as an exception.

The thread wakes about ten times a second and takes in all that has come meanwhile, because each waking costs the
device more than the samples do. It reads without pause only while an answer is expected whose time of arrival counts,
or while somebody waits for news.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.clock import Clock
from protos.bridge.line import Opener, SerialTransport, Transport
from protos.errors import SensorError

__all__ = ["BridgeLink"]

log = logging.getLogger(__name__)

REOPEN_EACH_S = 0.2
SILENT_S = 5.0
READ_EACH_S = 0.1
ATTENTIVE_S = 0.1
"""How long after a question the thread reads without pause."""


class BridgeLink:
    """Owns the transport; calls the session under ``lock`` only.

    Args:
        path: the port.
        session: protocol state.
        lock: guards the session and what it delivers to.
        news: set whenever something arrived.
        clock: the host's clock.
        opener: makes a transport from a path.
        work: called under ``lock`` when all bytes of one read have been given to the session.
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
        work: Callable[[], None],
    ) -> None:
        self._path, self._session, self._lock, self._news = path, session, lock, news
        self._clock, self._opener, self._work = clock, opener, work
        self._transport: Transport | None = None
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._attentive_to_s = float("-inf")
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
        self.attend()
        self._send_due()

    def attend(self) -> None:
        """Somebody waits: take in what comes without delay for a while."""
        self._attentive_to_s = self._clock.monotonic() + ATTENTIVE_S
        self._hurry.set()

    def close(self) -> None:
        """Stop the thread and close the port."""
        self._stop.set()
        self._hurry.set()
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
                    self._work()
                self._news.set()
            elif now_s - self._heard_s > SILENT_S:
                self._lost(f"nothing heard for {SILENT_S:g} s")
                continue
            self._send_due()
            self._pause(now_s)

    def _pause(self, now_s: float) -> None:
        """Let more bytes come, unless somebody waits for them."""
        if now_s >= self._attentive_to_s and not self._session.expects_answer:
            self._clock.wait(self._hurry, READ_EACH_S)
        self._hurry.clear()

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
