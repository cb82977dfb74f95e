"""Energy from a model: idle watts of the board plus watts per CPU second of this process.

Not modelled: other processes, memory, radio, accelerator, frequency. The method says ``estimated``, and the
uncertainty is the limit below, which is a judgement and not a measurement.
"""

from __future__ import annotations

from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.period import Period
from protos.energy.attribution import attribute
from protos.energy.boards import BoardProfile
from protos.energy.trace import Phase, PhaseEnergy, PowerTrace
from protos.energy.uncertainty import ErrorModel

__all__ = ["MODEL_LIMIT", "EstimateMeter"]

MODEL_LIMIT = 0.5
"""Relative limit of the model's error: real boards of one kind differ by this much with their load."""


class EstimateMeter:
    """Method ``estimated``: each stretch between two marks is one sample of the model's mean power.

    ``P = idle_w + cpu_w * min(cpu_s / wall_s, cores)`` with the CPU seconds of this process, all threads.
    """

    def __init__(self, board: BoardProfile, clock: Clock) -> None:
        self.identity = MeterIdentity("estimated", f"estimate:{board.name}", "none", "model")
        self._board, self._clock = board, clock
        self._errors = ErrorModel(supply_v=board.supply_v, gain_relative=MODEL_LIMIT)
        self.start()

    def start(self) -> None:
        self._period = Period(self._clock.monotonic())
        self._cpu_s = self._clock.process_time()
        self._stretches: list[tuple[float, float, float]] = []
        self._spent_j = 0.0

    def mark(self, phase: Phase) -> None:
        last, now_s, cpu_s = self._period.last, self._clock.monotonic(), self._clock.process_time()
        power_w = self._power_w(now_s - last.t_s, cpu_s - self._cpu_s)
        if now_s > last.t_s:
            self._stretches.append((last.t_s, now_s, power_w))
            if last.phase.is_work:
                self._spent_j += power_w * (now_s - last.t_s)
        self._cpu_s = cpu_s
        self._period.mark(now_s, phase)

    def spent_j(self) -> float | None:
        last = self._period.last
        if not last.phase.is_work:
            return self._spent_j
        wall_s = self._clock.monotonic() - last.t_s
        return self._spent_j + wall_s * self._power_w(wall_s, self._clock.process_time() - self._cpu_s)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        marks, stop_s = self._period.close()
        rows, self._stretches, self._spent_j = self._stretches, [], 0.0
        trace = PowerTrace.of(*(zip(*rows, strict=True) if rows else ([], [], [])))
        return tuple(
            attribute(trace, marks, stop_s, errors=self._errors, method="estimated", sensor=self.identity.sensor)
        )

    def close(self) -> None:
        return None

    def _power_w(self, wall_s: float, cpu_s: float) -> float:
        return self._board.power_w(cpu_s / wall_s if wall_s > 0 else 0.0)
