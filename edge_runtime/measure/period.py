"""Periods of a measurement, one after another.

A period is one phase of the meter. Its beginning, its end and the moment at which its samples were read are noted in
the recording, in order with what the sensor said; :mod:`edge_runtime.measure.replay` does the same things in
the same order, and comes to the same joules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Event
from typing import Any

from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import Meter, ShowsPower
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.writer import Recorder
from edge_runtime.power.sensor import PowerSensor
from protos.energy.trace import Phase, PhaseEnergy

__all__ = [
    "BEGIN",
    "END",
    "FACT",
    "MEASURED",
    "READ",
    "HeldClock",
    "MeasuredPeriod",
    "PeriodMeter",
    "peak_of",
    "settled",
]

MEASURED = Phase.TRAIN
"""Any phase but idle would do: a meter adds up what is not idle while it goes on."""
SETTLE_S = 2.0
ASK_EACH_S = 0.02
BEGIN, END, READ, FACT = "begin", "end", "read", "fact"
"""Words of the notes in a recording."""


@dataclass(frozen=True, slots=True)
class MeasuredPeriod:
    """What one period came to.

    Args:
        name: which one it is.
        start_s: host time of its beginning.
        stop_s: host time of its end.
        energy: joules with coverage, method, uncertainty and flags.
        peak_w: largest sample, W; None when there was none.
    """

    name: str
    start_s: float
    stop_s: float
    energy: PhaseEnergy
    peak_w: float | None


class HeldClock:
    """A clock that can be held for a moment, so that a meter and a recording are told one and the same time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held_s: float | None = None

    def monotonic(self) -> float:
        return self._clock.monotonic() if self._held_s is None else self._held_s

    def process_time(self) -> float:
        return self._clock.process_time()

    def wait(self, event: Event, timeout_s: float) -> bool:
        return self._clock.wait(event, timeout_s)

    @contextmanager
    def held(self) -> Iterator[float]:
        """The time stands still within; gives it."""
        self._held_s = self._clock.monotonic()
        try:
            yield self._held_s
        finally:
            self._held_s = None


class PeriodMeter:
    """Measures one period after another.

    Args:
        meter: made with ``clock``.
        clock: the clock of the meter; the sensor has its own.
        recorder: where the periods are noted.
    """

    def __init__(self, meter: Meter, clock: HeldClock, recorder: Recorder | None = None) -> None:
        self.meter, self._clock, self._recorder = meter, clock, recorder
        self._sensor: PowerSensor | None = meter.sensor if isinstance(meter, SensorMeter) else None
        self._lock = self._sensor.lock if self._sensor else nullcontext()
        self._name, self._start_s = "", 0.0

    @property
    def warning(self) -> str | None:
        """Why the recording ended before the measurement; None when it did not."""
        return self._recorder.stopped if self._recorder is not None else None

    def begin(self, name: str) -> float:
        """Begin a period; gives its host time."""
        with self._lock, self._clock.held() as now_s:
            self.meter.start()
            self.meter.mark(MEASURED)
            self._name, self._start_s = name, now_s
            self._note(now_s, BEGIN, {"name": name})
        return now_s

    def end(self) -> MeasuredPeriod:
        """End the period, wait for its last samples, and say what it came to."""
        with self._lock, self._clock.held() as stop_s:
            self.meter.mark(Phase.IDLE)
            self._note(stop_s, END, {})
        self._await_samples(stop_s)
        with self._lock, self._clock.held() as now_s:
            energy = settled(self.meter)
            self._note(now_s, READ, {})
        return MeasuredPeriod(self._name, self._start_s, stop_s, energy, peak_of(self.meter))

    def fact(self, fields: Mapping[str, Any]) -> None:
        """Note something else of the measurement, such as its command."""
        self._note(self._clock.monotonic(), FACT, fields)

    def _note(self, at_s: float, word: str, fields: Mapping[str, Any]) -> None:
        if self._recorder is not None:
            self._recorder.note(at_s, word, fields)

    def _await_samples(self, stop_s: float) -> None:
        sensor = self._sensor
        if sensor is None:
            return
        deadline_s = self._clock.monotonic() + SETTLE_S
        while self._clock.monotonic() < deadline_s:
            with sensor.lock:
                if sensor.covered_to_s >= stop_s and not sensor.incomplete:
                    return
            sensor.request()
            sensor.wait_for_news(ASK_EACH_S)


def settled(meter: Meter) -> PhaseEnergy:
    """Close the period of a meter whose samples are there."""
    parts = {part.phase: part for part in meter.settle(0.0)}
    return parts[MEASURED]


def peak_of(meter: Meter) -> float | None:
    """The largest sample, W; None for a meter that has none."""
    return meter.peak_w if isinstance(meter, ShowsPower) else None
