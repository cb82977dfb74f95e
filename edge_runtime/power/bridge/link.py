"""The thread that keeps a bridge's port open and feeds the session.

A port that goes away is closed and opened again **by its path**: after a replug the same name leads to another
device. Nothing that happens here reaches the training thread as an exception.

A port that is open and silent is asked again through the same opening; closing and opening it may pulse DTR, which
resets some boards, so that is tried ever more rarely. Trouble that goes on is said ever more rarely too.

The thread wakes about ten times a second and takes in all that has come meanwhile, because each waking costs the
device more than the samples do. While the board rests (:meth:`BridgeLink.relax`) it wakes once a second, as far as the
kernel holds the bytes of a second, and the clocks are compared every five seconds. It reads without pause only while an
answer is expected whose time of arrival counts, or while somebody waits for news.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.clock import Clock
from protos.bridge.line import Opener, SerialTransport, Transport
from protos.energy.ina219 import Config
from protos.errors import SensorError

__all__ = ["BridgeLink"]

log = logging.getLogger(__name__)

REOPEN_EACH_S = 0.2
SILENT_S = 5.0
REOPEN_SILENT_S, REOPEN_SILENT_MOST_S = 30.0, 1800.0
"""How long a port may be silent before it is opened again, at first and at most."""
SAY_EACH_S, SAY_MOST_S = 60.0, 3600.0
"""How often trouble is said that comes again and again, at first and at most."""
READ_EACH_S = 0.1
RELAXED_EACH_S = 1.0
HELD_BYTES = 2048
"""What the kernel surely keeps until it is read: half of a terminal's buffer."""
SAMPLE_BYTES = 7.0
"""Of a sample on the line, with its part of a frame."""
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
        self._heard_s = self._asked_s = 0.0
        self._reopen_s = REOPEN_SILENT_S
        self._said_s, self._say_each_s = float("-inf"), SAY_EACH_S
        self._relaxed = False

    @property
    def connected(self) -> bool:
        """Whether the port is open."""
        return self._transport is not None

    def open(self) -> None:
        """Open the port and start reading. Raises SensorError as the opener does."""
        self._transport = self._opener(self._path)
        self._heard_s = self._asked_s = self._clock.monotonic()
        self._session.opened(again=False)
        self._thread = threading.Thread(target=self._run, name=f"power:{self._path}", daemon=True)
        self._thread.start()

    def request_flush(self) -> None:
        """Ask the bridge, at once, for what it has not sent yet."""
        with self._lock:
            self._session.flush_wanted = True
        self.attend()
        self._send_due()

    def relax(self, relaxed: bool) -> None:
        """Read once a second, or ten times."""
        if relaxed != self._relaxed:
            self._relaxed = relaxed
            with self._lock:
                self._session.relaxed = relaxed
            self._hurry.set()

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
                if now_s - self._heard_s > SILENT_S:
                    self._say("heard again after %.0f s", now_s - self._heard_s)
                self._heard_s = self._asked_s = now_s
                self._reopen_s = REOPEN_SILENT_S
                with self._lock:
                    self._session.receive(data, now_s)
                    self._work()
                self._news.set()
            elif now_s - self._heard_s > self._reopen_s:
                self._reopen_s = min(REOPEN_SILENT_MOST_S, 2 * self._reopen_s)
                self._lost("silent for so long that it is opened again")
                continue
            elif now_s - self._asked_s > SILENT_S:
                self._asked_s = now_s
                self._say("nothing heard for %.0f s, asking again", now_s - self._heard_s)
                with self._lock:
                    self._session.opened(again=False)
            self._send_due()
            self._pause(now_s)

    def _pause(self, now_s: float) -> None:
        """Let more bytes come, unless somebody waits for them."""
        if now_s >= self._attentive_to_s and not self._session.expects_answer:
            self._clock.wait(self._hurry, self._each_s())
        self._hurry.clear()

    def _each_s(self) -> float:
        """How long to wait for more bytes."""
        hello = self._session.hello
        if not self._relaxed or hello is None:
            return READ_EACH_S
        rate_hz = sum(1.0 / Config.of(sensor.config).period_s for sensor in hello.sensors)
        return max(READ_EACH_S, min(RELAXED_EACH_S, HELD_BYTES / (SAMPLE_BYTES * rate_hz)))

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
            self._heard_s = self._asked_s = self._clock.monotonic()
        self._say("port is back")

    def _lost(self, why: str) -> None:
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        self._say("port lost (%s), trying again", why)
        self._clock.wait(self._stop, REOPEN_EACH_S)

    def _say(self, text: str, *values: object) -> None:
        """A warning; trouble that repeats itself is told ever more rarely to people, and always to those who debug."""
        now_s = self._clock.monotonic()
        quiet_s = now_s - self._said_s
        if quiet_s > 2 * SAY_MOST_S:
            self._say_each_s = SAY_EACH_S
        if told := quiet_s >= self._say_each_s:
            self._said_s, self._say_each_s = now_s, min(SAY_MOST_S, 2 * self._say_each_s)
        (log.warning if told else log.debug)(f"power bridge %s: {text}", self._path, *values)
