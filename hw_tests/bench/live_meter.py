"""The device's own meter on a bench's bridge: phases in, joules out, beside what the load truly drew.

All between the port and the joules is the code that a device runs; every measurement is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.measure.period import HeldClock, PeriodMeter
from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.bridge.sensor import BridgeSensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.writer import Recorder
from hw_tests.bench.bench import Bench, Disturbed
from hw_tests.bench.load import Truth
from protos.energy.trace import PhaseEnergy

__all__ = ["LiveMeter", "Reading"]

TRIES = 5
"""A computer that is shared may be too slow for a moment: then the moment says nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One phase.

    Args:
        energy: what the meter says.
        truth: what the load drew in the same time; None on a bench that does not know it.
        seconds: how long it was.
    """

    energy: PhaseEnergy
    truth: Truth | None
    seconds: float

    @property
    def error(self) -> float | None:
        """Relative error of the joules; None when there are none, or none that are true."""
        if self.truth is None or self.energy.energy_j is None:
            return None
        return self.energy.energy_j / self.truth.energy_j - 1

    @property
    def error_uncertainty(self) -> float | None:
        """Half width of the 95 % interval that the truth's own uncertainty gives the error."""
        return None if self.truth is None else self.truth.uncertainty_j / self.truth.energy_j


class LiveMeter:
    """A meter on the bench's port, from the beginning on open. Closed by the fixture that made it.

    Args:
        bench: an open one.
        profile: setting of the sensor.
        record: file to record to; it must not exist. None records nothing.
    """

    def __init__(self, bench: Bench, *, profile: str, record: Callable[[], Path] | None = None) -> None:
        self._bench, self._profile, self._record = bench, profile, record
        self._open()

    def _open(self) -> None:
        clock = HeldClock(self._bench.clock)
        options = {"profile": self._profile, "sensor": str(self._bench.sensor)}
        self.sensor: BridgeSensor = bridge_sensor(
            self._bench.port, options, self._bench.clock, opener=self._bench.wire.open,
            hello_wait_s=self._bench.tolerance("hello_s"),
        )  # fmt: skip
        self._recorder = None if self._record is None else Recorder(self._record(), self.sensor)
        try:
            self.sensor.open()
            self.meter = SensorMeter(self.sensor, clock)
            if self._recorder is not None:
                self._recorder.begin(clock.monotonic())
        except BaseException:
            self.close()
            raise
        self._periods = PeriodMeter(self.meter, clock, self._recorder)

    def close(self) -> None:
        """Let go of the port; the recording is whole. Harmless when repeated."""
        if self._recorder is not None:
            self._recorder.close()
        self.sensor.close()

    def begin(self, name: str) -> float:
        """Begin a phase; the host time of its beginning."""
        return self._periods.begin(name)

    def end(self) -> Reading:
        """End it, wait for its last samples, and hold it against the truth."""
        period = self._periods.end()
        load = self._bench.load
        truth = None if load is None else load.truth(period.start_s, period.stop_s)
        return Reading(period.energy, truth, period.stop_s - period.start_s)

    def phase(self, name: str, seconds: float) -> Reading:
        """A phase of so many seconds in which nothing changes.

        Raises:
            Disturbed: this computer was too slow each time.
        """
        for _ in range(TRIES):
            before = self._bench.disturbances()
            self.begin(name)
            self._bench.clock.sleep(seconds)
            reading = self.end()
            if self._bench.disturbances() == before:
                return reading
            # The machine let time go: clocks no longer agree. A new port has a new clock fit.
            self._bench.diary.note(f"{name}: this computer was too slow; once more")
            self.close()
            self._open()
        raise Disturbed(f"{name}: this computer was too slow {TRIES} times")

    def heard_since(self, instant_s: float) -> bool:
        """Whether a sample is there that ended after ``instant_s`` of host time."""
        return self.sensor.covered_to_s > instant_s
