"""The clock and the meter of a virtual board: seconds that work takes, and joules that follow the board's watts.

Rules kept here:

* The method says ``estimated`` and the sensor ``simulated:BOARD``: nothing of it was measured. The uncertainty is the
  limit of :class:`edge_runtime.power.meters.estimate.EstimateMeter`, which reckons in the same way.
* Joules are ``W(phase) x seconds``, and those of bytes and of waking a radio on top, charged as they fall due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_runtime.power.meters.estimate import MODEL_LIMIT
from edge_runtime.power.meters.meter import MeterIdentity
from protos.energy.trace import Phase, PhaseEnergy


class BoardClock:
    """The loop's time, and beyond it what the board has worked since the loop looked last.

    Args:
        now_s: of the loop.

    Attributes:
        ahead_s: seconds of work that the loop has not waited for yet.
        from_s: when the work that is being done began, in place of the loop's time; None: the loop's.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.ahead_s = 0.0
        self.from_s: float | None = None

    def monotonic(self) -> float:
        return (self._now_s() if self.from_s is None else self.from_s) + self.ahead_s

    def process_time(self) -> float:
        return self.monotonic()

    def wait(self, event: object, timeout_s: float) -> bool:
        raise NotImplementedError("a virtual board waits on the loop")


@dataclass(frozen=True)
class MeterState:
    """What a meter holds between two settlements, to go back to."""

    phase: Phase
    since_s: float
    energy_j: Mapping[Phase, float]
    seconds: Mapping[Phase, float]
    true_j: float


@dataclass
class BoardMeter:
    """Phases in, joules out, as :class:`edge_runtime.power.meters.meter.Meter` has it.

    Args:
        watts: while a phase lasts.
        fixed_s: seconds that the next mark of a phase takes before anything in it is done; each is taken once.

    Attributes:
        true_j: everything that was spent since the beginning, idling left out; also what was never reported.
    """

    identity: MeterIdentity
    clock: BoardClock
    watts: Mapping[Phase, float]
    fixed_s: dict[Phase, float] = field(default_factory=dict)
    true_j: float = 0.0

    @classmethod
    def of(cls, board: str, clock: BoardClock, watts: Mapping[Phase, float]) -> BoardMeter:
        """The meter of a board."""
        meter = cls(MeterIdentity("estimated", f"simulated:{board}", "none", "model"), clock, watts)
        meter.start()
        return meter

    def start(self) -> None:
        self._phase, self._since_s = Phase.IDLE, self.clock.monotonic()
        self._energy_j: dict[Phase, float] = {Phase.IDLE: 0.0}
        self._seconds: dict[Phase, float] = {Phase.IDLE: 0.0}

    def mark(self, phase: Phase) -> None:
        self._pass()
        self._phase = phase
        self._energy_j.setdefault(phase, 0.0)
        self._seconds.setdefault(phase, 0.0)
        self.clock.ahead_s += self.fixed_s.pop(phase, 0.0)

    def charge(self, energy_j: float) -> None:
        """Joules on top of the watts of the phase that is on."""
        self._energy_j[self._phase] += energy_j
        if self._phase.is_work:
            self.true_j += energy_j

    def arrives(self, seconds: float, energy_j: float) -> None:
        """Of the idle time that begins now, so much is that in which an order comes in; joules on top of its watts."""
        self._pass()
        idle_j = self.watts[Phase.IDLE] * seconds
        for phase, sign, more_j in ((Phase.IDLE, -1.0, 0.0), (Phase.RECEIVE, 1.0, energy_j)):
            self._energy_j[phase] = self._energy_j.get(phase, 0.0) + sign * idle_j + more_j
            self._seconds[phase] = self._seconds.get(phase, 0.0) + sign * seconds
        self.true_j += idle_j + energy_j

    def spent_j(self) -> float | None:
        self._pass()
        return sum(energy_j for phase, energy_j in self._energy_j.items() if phase.is_work)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        self._pass()
        energy_j, seconds = self._energy_j, self._seconds
        self._energy_j, self._seconds = {self._phase: 0.0}, {self._phase: 0.0}
        return tuple(
            PhaseEnergy(
                phase, energy_j[phase], seconds[phase], 0.0, "estimated", self.identity.sensor,
                MODEL_LIMIT * energy_j[phase],
            )
            for phase in Phase
            if phase in energy_j
        )  # fmt: skip

    def close(self) -> None:
        self._pass()

    def state(self) -> MeterState:
        """Where it stands, for :meth:`back_to`."""
        self._pass()
        return self.as_settled()

    def as_settled(self) -> MeterState:
        """The same, up to when it looked at the clock last."""
        return MeterState(self._phase, self._since_s, dict(self._energy_j), dict(self._seconds), self.true_j)

    def back_to(self, state: MeterState) -> None:
        """As if nothing had been done since."""
        self._phase, self._since_s = state.phase, state.since_s
        self._energy_j, self._seconds = dict(state.energy_j), dict(state.seconds)
        self.true_j = state.true_j

    def _pass(self) -> None:
        now_s = self.clock.monotonic()
        seconds, self._since_s = now_s - self._since_s, now_s
        energy_j = self.watts[self._phase] * seconds
        self._energy_j[self._phase] += energy_j
        self._seconds[self._phase] += seconds
        if self._phase.is_work:
            self.true_j += energy_j
