"""A meter opened for measuring: the sensor, the recording that listens from the first byte on, the curve to draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.measure.envelope import Envelope
from edge_runtime.measure.period import HeldClock, PeriodMeter
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.events import Block, Event
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.writer import Recorder
from edge_runtime.power.sensor_factory import make_sensor, open_meter

__all__ = ["opened"]


@contextmanager
def opened(spec: str, *, record: Path | None = None, envelope: Envelope | None = None) -> Iterator[PeriodMeter]:
    """Open the meter that ``spec`` names; closed, and the recording complete, at the end.

    A spec without samples (an estimate, ``none``) has neither recording nor curve.

    Raises:
        UsageError: the spec names no sensor.
        SensorError: it cannot be opened.
        StoreError: the file to record to is there already, or cannot be made.
    """
    clock = HeldClock(SystemClock())
    if spec == "none" or spec.startswith("estimate:"):
        meter = open_meter(spec, clock=clock)
        try:
            yield PeriodMeter(meter, clock)
        finally:
            meter.close()
        return
    sensor = make_sensor(spec)

    def draw(event: Event) -> None:
        if envelope is not None and isinstance(event, Block):
            envelope.add(event.trace)

    recorder = Recorder(record, sensor) if record is not None else None
    try:
        sensor.open()
        meter = SensorMeter(sensor, clock)
        if envelope is not None:
            sensor.subscribe(draw)
        if recorder is not None:
            recorder.begin(clock.monotonic())
        yield PeriodMeter(meter, clock, recorder)
    finally:
        if recorder is not None:
            recorder.close()
        sensor.close()
