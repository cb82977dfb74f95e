"""A meter on a virtual clock: power by phase is a table, time passes when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.period import Period
from protos.energy.trace import Phase, PhaseEnergy


class VirtualClock:
    """Time moves by :meth:`pass_` and by a fixed tick at each look, so that loops come to an end."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.now_s, self.tick_s = 100.0, tick_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def process_time(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.now_s += timeout_s
        return event.is_set()


class ScriptedMeter:
    """Exact energy: watts by phase times virtual seconds. ``silent`` makes it lose its sensor."""

    def __init__(self, clock: VirtualClock, watts: Mapping[Phase, float], method: str = "measured") -> None:
        self.identity = MeterIdentity(method, "scripted", "none", "calibrated")  # type: ignore[arg-type]
        self._clock, self._watts = clock, watts
        self.silent = False
        self.phases: list[Phase] = []
        self.start()

    def start(self) -> None:
        self._period = Period(self._clock.now_s)

    def mark(self, phase: Phase) -> None:
        self.phases.append(phase)
        self._period.mark(self._clock.now_s, phase)

    def spent_j(self) -> float | None:
        if self.silent or self.identity.method == "unknown":
            return None
        joules = self._joules(self._period.marks, self._clock.now_s)
        return sum(value for phase, (value, _) in joules.items() if phase is not Phase.IDLE)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        marks, stop_s = self._period.close()
        return tuple(
            PhaseEnergy(phase, None if self.silent else energy_j, seconds, 0.0, "measured", "scripted", 0.01)
            for phase, (energy_j, seconds) in self._joules(marks, stop_s).items()
        )

    def close(self) -> None:
        return None

    def _joules(self, marks: list, stop_s: float) -> dict[Phase, tuple[float, float]]:  # type: ignore[type-arg]
        sums: dict[Phase, tuple[float, float]] = {}
        ends = [*(mark.t_s for mark in marks[1:]), stop_s]
        for mark, end_s in zip(marks, ends, strict=True):
            before = sums.get(mark.phase, (0.0, 0.0))
            seconds = end_s - mark.t_s
            sums[mark.phase] = (before[0] + self._watts.get(mark.phase, 1.0) * seconds, before[1] + seconds)
        return sums
