"""A recording as a sensor: the same events through the same code, on the time that the recording has.

A bridge's raw events go through the :class:`edge_runtime.power.bridge.track.RegisterTrack` that made the live samples,
so the joules are the live ones to the last bit. Nothing here waits: time is that of the next entry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from edge_runtime.power.audience import Audience
from edge_runtime.power.bridge.samples import CAPACITY
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.events import Batch, Block, Event, Exchanged, Greeting, RawEvent, Sums, Trouble
from edge_runtime.power.host.trace_store import TraceStore
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.recording.entries import Entry, Gap, Note, Worked
from edge_runtime.power.recording.reader import Recording
from edge_runtime.power.sensor import Capabilities, Listener
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError

__all__ = ["ReplayClock", "ReplaySensor"]

_RAW = get_args(RawEvent)


class ReplayClock:
    """A clock that shows the time of the recording; waiting brings it forward, and sleeps not."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s

    def monotonic(self) -> float:
        return self._now_s

    def process_time(self) -> float:
        return 0.0

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if not event.is_set():
            self._now_s += timeout_s
        return event.is_set()

    def reach(self, now_s: float) -> None:
        """It is ``now_s`` now, if it was not later already."""
        self._now_s = max(self._now_s, now_s)

    def show(self, now_s: float) -> None:
        """It is exactly ``now_s``: the time that a note was taken, whatever samples have said before."""
        self._now_s = now_s


class ReplaySensor:
    """A :class:`edge_runtime.power.sensor.PowerSensor` that plays a recording.

    Args:
        path: the recording.
        capacity: samples stored before the oldest give way, as in the live sensor.

    Raises:
        DataError: it is no recording, or cannot be read.
    """

    def __init__(self, path: Path, *, capacity: int = CAPACITY) -> None:
        self.recording = Recording(path)
        header = self.recording.header
        self.clock = ReplayClock(header.begun_s)
        self._lock = threading.RLock()
        self._audience = Audience()
        self._track = RegisterTrack(self._audience.tell, capacity=capacity)
        self._store = TraceStore(capacity)
        self._entries: Iterator[Entry] = iter(())
        self._words: list[str] = []
        self._unsure = False
        self._held: list[Exchanged] = []
        self.ended = False

    @property
    def identity(self) -> MeterIdentity:
        identity = self.recording.header.identity
        with self._lock:
            if self._track.greeting is None:
                return identity
            number = self._track.calibration.id
        return replace(
            identity,
            calibration_id=f"{number:08x}" if number else "none",
            quality="calibrated" if number else "uncalibrated",
        )

    @property
    def capabilities(self) -> Capabilities:
        return self.recording.header.capabilities

    @property
    def lock(self) -> threading.RLock:
        return self._lock

    @property
    def covered_to_s(self) -> float:
        with self._lock:
            return max(self._store.covered_to_s, self._track.covered_to_s)

    @property
    def incomplete(self) -> bool:
        with self._lock:
            return self._track.incomplete

    @property
    def nearly_full(self) -> bool:
        with self._lock:
            return self._track.nearly_full or self._store.nearly_full

    def open(self) -> None:
        """Play up to the first sample whose time is known.

        Raises:
            SensorError: there is none.
            DataError: the file cannot be read.
        """
        self.start()
        while not self.ended and self.covered_to_s == float("-inf"):
            self.play()
        if self.covered_to_s == float("-inf"):
            raise SensorError("the recording holds no sample", where=str(self.recording.path), fix="record again")

    def start(self) -> None:
        """Stand at the beginning, with nothing played; for those who want every note."""
        self._entries = self.recording.entries()

    def request(self) -> None:
        return None

    def wait_for_news(self, timeout_s: float) -> None:
        """Play up to the next sample or note; at the end only the time goes on."""
        if self.ended:
            self.clock.reach(self.clock.monotonic() + timeout_s)
            return
        before_s = self.covered_to_s
        while not self.ended and self.covered_to_s == before_s:
            if self.play() is not None:
                return

    def next_note(self) -> Note | None:
        """Play up to the next note of the program that measured, and return it; None at the end."""
        while not self.ended:
            note = self.play()
            if note is not None:
                return note
        return None

    def trace(self) -> PowerTrace:
        with self._lock:
            return self._store.trace() if len(self._store) else self._track.trace()

    def forget_before(self, host_s: float) -> None:
        with self._lock:
            self._track.forget_before(host_s)
            self._store.forget_before(host_s)

    def errors(self) -> ErrorModel:
        with self._lock:
            return self.recording.header.errors if self._track.greeting is None else self._track.errors()

    def flags(self) -> tuple[str, ...]:
        with self._lock:
            words, self._words = self._words, []
            return tuple(dict.fromkeys(words))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            if self._track.greeting is not None:
                listener(self._track.greeting)
            return self._audience.add(listener)

    def close(self) -> None:
        self._entries, self.ended = iter(()), True

    def play(self) -> Note | None:
        """Take in one entry; a note is returned."""
        entry = next(self._entries, None)
        with self._lock:
            if entry is None or isinstance(entry, (Note, Worked)):
                self._track.work()
            if entry is None:
                self.ended = True
            elif isinstance(entry, Note):
                self.clock.show(entry.at_s)
                return entry
            elif isinstance(entry, Gap):
                self._unsure = True
            elif not isinstance(entry, Worked) and (not self._unsure or self._sure_of(entry)):
                self._take(entry)
        return None

    def _sure_of(self, event: Event) -> bool:
        """After a gap the bridge may be in another boot, whose ticks and exchanges are not those of the greeting.

        What follows is held back until a batch or sums tell the boot; of another boot it is left out up to the next
        greeting.
        """
        greeting = self._track.greeting
        if isinstance(event, Exchanged):
            self._held.append(event)
            return False
        if isinstance(event, (Batch, Sums)):
            boot = event.samples.boot if isinstance(event, Batch) else event.stats.boot
            if greeting is None or boot != greeting.hello.boot:
                self._held.clear()
                return False
        elif not isinstance(event, Greeting):
            return isinstance(event, (Block, Trouble))
        self._unsure = False
        held, self._held = self._held, []
        if not isinstance(event, Greeting):
            for exchanged in held:
                self._take(exchanged)
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, _RAW):
            self._track.take(event)
            if isinstance(event, Exchanged):
                self.clock.reach(event.exchange.back_s)
        elif isinstance(event, Block):
            if not len(event.trace):
                return
            self._store.append(event.trace)
        elif isinstance(event, Trouble):
            self._words.append(event.word)
        self._audience.tell(event)
        self.clock.reach(self.covered_to_s)
