"""The meter of a device without a sensor: it knows the time, and says that it does not know the energy."""

from __future__ import annotations

from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import MeterIdentity, unknown_phases
from edge_runtime.power.meters.period import Period
from protos.energy.trace import Phase, PhaseEnergy

__all__ = ["UnknownMeter"]


class UnknownMeter:
    """Method ``unknown``: durations by phase, energy None."""

    identity = MeterIdentity("unknown", "none", "none", "none")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._period = Period(clock.monotonic())

    def start(self) -> None:
        self._period = Period(self._clock.monotonic())

    def mark(self, phase: Phase) -> None:
        self._period.mark(self._clock.monotonic(), phase)

    def spent_j(self) -> float | None:
        return None

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        marks, stop_s = self._period.close()
        return unknown_phases(marks, stop_s, sensor="none", flags=("no-sensor",))

    def close(self) -> None:
        return None
