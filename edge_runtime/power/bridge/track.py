"""What a bridge's raw events amount to: watts over host time, in a bounded store.

The live sensor and the replay of a recording both go through here, so that the same events give the same joules to
the last bit. Each boot of the bridge is an *epoch* with its own ticks, clock fit and sequence numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edge_runtime.power.bridge.alignment import Alignment
from edge_runtime.power.bridge.samples import CAPACITY, SampleStore
from edge_runtime.power.bridge.stream import Piece, SensorStream, SensorTrouble
from edge_runtime.power.events import Batch, Block, Exchanged, Greeting, RawEvent, Realigned, Sums
from protos.bridge.hello import Feature
from protos.bridge.messages import Samples
from protos.energy.ina219 import Calibration, Config
from protos.energy.trace import PowerTrace, SampleFlag
from protos.energy.uncertainty import ErrorModel

__all__ = ["RegisterTrack"]

NOMINAL_V = 5.0


class RegisterTrack:
    """One sensor of one bridge, over its boots. Not locked: its owner holds the lock.

    Args:
        tell: called with each new block of samples, and when times changed at large.
        capacity: samples stored before the oldest give way.
    """

    def __init__(self, tell: Callable[[Block | Realigned], None] | None = None, *, capacity: int = CAPACITY) -> None:
        self._tell = tell or (lambda event: None)
        self._store = SampleStore(capacity)
        self._pending: list[Samples] = []
        self._stream: SensorStream | None = None
        self._unplaced = False
        self._lost_before, self._recovered_before, self._trouble_before = 0, 0.0, SensorTrouble()
        self.greeting: Greeting | None = None
        self.alignment = Alignment()
        self.covered_to_s = float("-inf")

    def take(self, event: RawEvent) -> None:
        """Take in one event. Batches are worked on together, at :meth:`work` or before an event of another kind."""
        if isinstance(event, Batch):
            self._pending.append(event.samples)
            return
        self.work()
        if isinstance(event, Sums):
            if self._stream is not None:
                self._place(self._stream.stats(event.stats))
        elif isinstance(event, Exchanged):
            self.alignment.add(event.exchange)
            if self._unplaced:
                self._realign()
        elif isinstance(event, Greeting):
            self._greet(event)

    def work(self) -> None:
        """Turn the batches that wait into samples."""
        pending, self._pending = self._pending, []
        if pending and self._stream is not None:
            self._place(self._stream.samples(pending))

    @property
    def calibration(self) -> Calibration:
        """The calibration in use; an uncalibrated default before the first greeting."""
        greeting = self.greeting
        if greeting is None or greeting.sensor >= len(greeting.hello.sensors):
            return Calibration()
        record = replace(greeting.hello.sensors[greeting.sensor].calibration, bus_ppm=greeting.bus_ppm)
        if greeting.shunt_ohm is None:
            return record
        return Calibration(0, round(greeting.shunt_ohm * 1e6), record.offset_nv, 0, 0, greeting.bus_ppm)

    @property
    def shunt_known(self) -> bool:
        """Whether the shunt is a calibration's, or the user's; not the default of the firmware."""
        return self.greeting is None or self.greeting.shunt_ohm is not None or not self.calibration.is_default

    @property
    def config(self) -> Config:
        """The sensor setting in use, range included."""
        greeting = self.greeting
        if greeting is None or greeting.sensor >= len(greeting.hello.sensors):
            return Config()
        return Config.of(greeting.hello.sensors[greeting.sensor].config)

    @property
    def bus_v(self) -> float:
        """Last bus voltage read, V; 0 before the first sample."""
        return self._stream.bus_v if self._stream else 0.0

    @property
    def incomplete(self) -> bool:
        """Whether energy is missing that the next sums may bring."""
        return self._stream is not None and self._stream.has_holes

    @property
    def lost_batches(self) -> int:
        """Batches that never arrived, over all boots."""
        return self._lost_before + (self._stream.lost_batches if self._stream else 0)

    @property
    def recovered_s(self) -> float:
        """Seconds of them whose energy the accumulators gave."""
        return self._recovered_before + (self._stream.recovered_s if self._stream else 0.0)

    @property
    def trouble(self) -> SensorTrouble:
        """What the bridge told of the sensor and its bus, over all boots."""
        return self._trouble_before + (self._stream.trouble if self._stream else SensorTrouble())

    @property
    def nearly_full(self) -> bool:
        """Whether the oldest samples are about to give way."""
        return self._store.nearly_full

    def trace(self) -> PowerTrace:
        """Every stored sample whose time is known, with the newest clock fits."""
        self.work()
        return self._store.trace()

    def forget_before(self, host_s: float) -> None:
        """Drop samples that ended by ``host_s``."""
        self._store.forget_before(host_s)

    def errors(self) -> ErrorModel:
        """Limits of this chain now: calibration, setting and clock fit."""
        dithered = self.greeting is not None and bool(self.greeting.hello.features & Feature.DITHER)
        errors = self.calibration.errors(self.config, self.bus_v or NOMINAL_V, dithered=dithered)
        fit = self.alignment.fit
        return replace(errors, sync_s=fit.limit_s, clock_relative=fit.rate_error) if fit else errors

    def _greet(self, greeting: Greeting) -> None:
        before, self.greeting = self.greeting, greeting
        if before is not None and before.epoch == greeting.epoch and self._stream is not None:
            self._stream.recalibrate(self.calibration, self.config)
            self._stream.told(greeting.hello.tick)
            return
        if self._stream is not None:
            self._lost_before += self._stream.lost_batches
            self._recovered_before += self._stream.recovered_s
            self._trouble_before += self._stream.trouble
        self.alignment = Alignment()
        self._stream = SensorStream(self.calibration, self.config, greeting.hello.tick, greeting.hello.batch)

    def _place(self, piece: Piece | None) -> None:
        if piece is None or self.greeting is None:
            return
        if not self.shunt_known:
            # Another bridge came in the place of the one that was opened.
            piece = replace(piece, flags=piece.flags | np.uint8(SampleFlag.SHUNT_UNKNOWN))
        self._store.append(self.greeting.epoch, self.alignment, piece.begin, piece.end, piece.power_w, piece.flags)
        fit = self.alignment.fit
        if fit is None:
            self._unplaced = True
            return
        start, stop = fit.host_s(piece.begin), fit.host_s(piece.end)
        self.covered_to_s = max(self.covered_to_s, float(stop[-1]))
        self._tell(Block(PowerTrace(start, stop, piece.power_w, piece.flags)))

    def _realign(self) -> None:
        """The first clock fit of a boot: samples that waited for it have a time now."""
        self._unplaced = False
        trace = self._store.trace()
        if len(trace):
            self.covered_to_s = max(self.covered_to_s, float(trace.stop_s.max()))
            self._tell(Realigned())
