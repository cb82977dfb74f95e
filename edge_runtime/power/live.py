"""The power of this board as it is, sent while somebody looks at it, by a thread that begins when it is asked for and
ends when nobody looks any more.

Rules kept here:

* Nobody looks: no thread, no listener, no call.
* Samples become bins of 20 ms with least and largest (:mod:`protos.energy.bins`). What a slow line keeps waiting is
  joined to longer bins, never dropped: a burst stays in the largest of its bin.
* A bin is told once, when samples reach past it. Samples that come later, as those that a bridge makes good, are in the
  joules of the round and not in what is looked at.
* Its faults are its own: no round waits for it, and no error of it ends anything else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import numpy as np

from edge_runtime.power.events import Block, Event
from edge_runtime.power.sensor import PowerSensor
from protos.energy.bins import BIN_S, PowerBins, binned, joined_bins
from protos.energy.trace import PowerTrace

__all__ = ["EACH_S", "MOST_BINS", "LivePower", "Send"]

log = logging.getLogger(__name__)

EACH_S = 0.5
"""How often bins are sent."""
MOST_BINS = 500
"""In one message: ten seconds."""
# Of what comes after a longer silence, only so many bins are told, the newest, so that what is made at once is bounded.
_MOST_WAITING = 20 * MOST_BINS
# Samples that are held until they are sent: a thousand a second for a minute.
_MOST_SAMPLES = 60_000
# To end, it is waited for so long at most, and looked so often whether it has.
_ENDS_S, _LOOK_S = 2.0, 0.05
NO_SENSOR = "no sensor measures this board"


Send = Callable[[PowerBins, str, bool], bool]
"""Sends bins, with what is wrong with them, and whether they are the last; whether more are wanted. False when nobody
answers."""


class _Heard:
    """Samples of one sensor that are not told yet. The sensor's thread adds, ours takes."""

    def __init__(self, sensor: PowerSensor) -> None:
        self.sensor = sensor
        self._blocks: list[PowerTrace] = []
        self._held = 0
        self._next: int | None = None
        self._leave = sensor.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Block) and len(event.trace):
            self._blocks.append(event.trace)
            self._held += len(event.trace)
            while self._held > _MOST_SAMPLES and len(self._blocks) > 1:
                self._held -= len(self._blocks.pop(0))

    def close(self) -> None:
        self._leave()

    def take(self) -> PowerBins:
        """The bins that are full since the last time."""
        with self.sensor.lock:
            blocks, self._blocks, self._held = self._blocks, [], 0
        if not blocks:
            return PowerBins.none()
        trace = _joined(blocks)
        reached = math.floor(float(trace.stop_s.max()) / BIN_S + 1e-6)
        first = self._next if self._next is not None else math.ceil(float(trace.start_s.min()) / BIN_S - 1e-6)
        # After a long silence, or a sensor whose clock was fitted anew, begin where it is now: what was left of the
        # last time is as old as that.
        first = max(first, reached - _MOST_WAITING)
        count = max(0, reached - first)
        self._next = first + count
        rest = trace.stop_s > self._next * BIN_S
        if rest.any():
            kept = PowerTrace(trace.start_s[rest], trace.stop_s[rest], trace.power_w[rest], trace.flags[rest])
            with self.sensor.lock:
                self._blocks.insert(0, kept)
                self._held += len(kept)
        return joined_bins(binned(trace, first, count), -(-count // MOST_BINS))


class LivePower:
    """Sends what a sensor measures while it is wanted.

    Args:
        sensor: that measures now, or None; asked again and again, for it may come and go.
        trouble: what is wrong with what it measures, in one line; empty when nothing is.
        send: takes them to who looks.
        give_up: ends a ``send`` that waits, at once.
    """

    def __init__(
        self,
        sensor: Callable[[], PowerSensor | None],
        trouble: Callable[[], str],
        send: Send,
        give_up: Callable[[], None],
    ) -> None:
        self._sensor, self._trouble, self._send, self._give_up = sensor, trouble, send, give_up
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Whether somebody is sent anything."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> None:
        """Begin to send, unless that is done already."""
        if not self.is_on and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="live watts", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End it, and never begin again."""
        self._stop.set()
        until_s = time.monotonic() + _ENDS_S
        while (thread := self._thread) is not None and thread.is_alive() and time.monotonic() < until_s:
            # Again and again: it may have been about to send when it was told to stop.
            self._give_up()
            thread.join(_LOOK_S)

    def _run(self) -> None:
        heard: _Heard | None = None
        try:
            while not self._stop.is_set():
                sensor = self._sensor()
                if heard is not None and heard.sensor is not sensor:
                    heard.close()
                    heard = None
                if sensor is None:
                    self._send(PowerBins.none(), self._trouble() or NO_SENSOR, True)
                    return
                if heard is None:
                    heard = _Heard(sensor)
                # Its thread reads rarely while the board rests; what it has is asked for, and comes within the wait.
                sensor.request()
                self._stop.wait(EACH_S)
                if self._stop.is_set() or not self._send(heard.take(), self._trouble(), False):
                    return
        except Exception:
            log.exception("watts are not sent any more")
        finally:
            if heard is not None:
                heard.close()


def _joined(blocks: list[PowerTrace]) -> PowerTrace:
    arrays = (
        np.concatenate([getattr(block, name) for block in blocks]) for name in ("start_s", "stop_s", "power_w", "flags")
    )
    return PowerTrace(*arrays)
