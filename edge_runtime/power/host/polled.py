"""A sensor that is polled: the thread that asks a source, and what the source told so far.

A source that fails is closed and opened again, for as long as the sensor is open; meanwhile there are no samples, and
the time stays uncovered. It is never replaced by another.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from edge_runtime.power.audience import Audience
from edge_runtime.power.bridge.samples import CAPACITY
from edge_runtime.power.clock import Clock
from edge_runtime.power.events import Block, Trouble
from edge_runtime.power.host.source import Source
from edge_runtime.power.host.trace_store import TraceStore
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.sensor import Capabilities, Listener
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError

__all__ = ["PolledSensor"]

log = logging.getLogger(__name__)

SAMPLE_WAIT_S = 3.0
REOPEN_EACH_S = 0.5
SAY_EACH_S = 60.0
"""A source that comes and goes more often than this is said once, for as long as it does."""


class PolledSensor:
    """A :class:`edge_runtime.power.sensor.PowerSensor` over a source.

    Args:
        source: what to ask.
        clock: the host's clock.
        capacity: samples stored before the oldest give way.
    """

    incomplete = False

    def __init__(self, source: Source, clock: Clock, *, capacity: int = CAPACITY) -> None:
        self._source, self._clock = source, clock
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store = TraceStore(capacity)
        self._audience = Audience()
        self._words: list[str] = []
        self._said_s = float("-inf")
        self._random = random.Random(clock.monotonic())

    @property
    def identity(self) -> MeterIdentity:
        return self._source.identity

    @property
    def capabilities(self) -> Capabilities:
        return self._source.capabilities

    @property
    def lock(self) -> threading.RLock:
        return self._lock

    @property
    def covered_to_s(self) -> float:
        with self._lock:
            return self._store.covered_to_s

    @property
    def nearly_full(self) -> bool:
        with self._lock:
            return self._store.nearly_full

    def open(self) -> None:
        """Open the source and wait for its first sample. Raises SensorError."""
        self._source.open(self._clock.monotonic())
        self._thread = threading.Thread(target=self._run, name=f"power:{self.identity.sensor}", daemon=True)
        self._thread.start()
        deadline_s = self._clock.monotonic() + SAMPLE_WAIT_S
        while self.covered_to_s == float("-inf"):
            if self._clock.monotonic() >= deadline_s:
                where = self.identity.sensor
                self.close()
                raise SensorError(
                    f"is there, but gave no sample within {SAMPLE_WAIT_S:g} s", where=where, fix="look at its readings"
                )
            self.request()
            self.wait_for_news(0.05)

    def request(self) -> None:
        self._news.clear()
        self._wake.set()

    def wait_for_news(self, timeout_s: float) -> None:
        self._clock.wait(self._news, timeout_s)
        self._news.clear()

    def trace(self) -> PowerTrace:
        with self._lock:
            return self._store.trace()

    def forget_before(self, host_s: float) -> None:
        with self._lock:
            self._store.forget_before(host_s)

    def errors(self) -> ErrorModel:
        return self._source.errors()

    def flags(self) -> tuple[str, ...]:
        with self._lock:
            words, self._words = self._words, []
        return tuple(dict.fromkeys(words))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            return self._audience.add(listener)

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._source.close()

    def _run(self) -> None:
        due_s = self._clock.monotonic()
        while not self._stop.is_set():
            self._wake.clear()
            now_s = self._clock.monotonic()
            try:
                trace = self._source.take(now_s)
            except Exception as error:  # whatever a driver says, the thread that trains must not feel it
                self._lost(f"{type(error).__name__}: {error}")
                continue
            self._keep(trace, now_s)
            each_s = self._source.poll_s * (self._random.uniform(0.5, 1.5) if self._source.dithers else 1.0)
            # A late look does not make the next ones hurry.
            due_s = max(due_s + each_s, now_s)
            self._clock.wait(self._wake, max(0.0, due_s - self._clock.monotonic()))

    def _keep(self, trace: PowerTrace, now_s: float) -> None:
        words = self._source.flags()
        if not len(trace) and not words:
            return
        with self._lock:
            for word in words:
                self._trouble(now_s, word)
            if len(trace):
                self._store.append(trace)
                self._audience.tell(Block(trace))
        self._news.set()

    def _lost(self, why: str) -> None:
        """Open the source again until it is back or the sensor is closed."""
        name = self.identity.sensor
        now_s = self._clock.monotonic()
        say = log.warning if now_s - self._said_s >= SAY_EACH_S else log.debug
        self._said_s = now_s
        say("%s: lost (%s), trying again", name, why)
        with self._lock:
            self._trouble(self._clock.monotonic(), "sensor-lost")
        self._source.close()
        while not self._clock.wait(self._stop, REOPEN_EACH_S):
            try:
                self._source.open(self._clock.monotonic())
            except (SensorError, OSError):
                continue
            say("%s: is back", name)
            with self._lock:
                self._trouble(self._clock.monotonic(), "reconnected")
            return

    def _trouble(self, at_s: float, word: str) -> None:
        self._words.append(word)
        self._audience.tell(Trouble(at_s, word))
