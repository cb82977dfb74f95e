"""The meter over any sensor: marks in, joules by phase out.

Each block of samples is added to the sums as it comes, so that ``spent_j`` only adds the part that no sample covers
yet. ``settle`` reads the stored samples again with the newest clock fit and attributes them exactly.

A sensor that does not see the board (:mod:`edge_runtime.power.wiring`) has the method ``unknown`` and its fault as its
quality. Samples that say nothing, and work at which less power was seen than the zero may be wrong by, are charged like
time without samples, and where nothing else was seen the spent joules are unknown: a budget is never gained by a wire.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from edge_runtime.power.clock import Clock
from edge_runtime.power.events import Block, Event, Realigned
from edge_runtime.power.meters.meter import MeterIdentity, unknown_phases
from edge_runtime.power.meters.period import Period
from edge_runtime.power.sensor import PowerSensor, Relaxes
from edge_runtime.power.wiring import NO_CURRENT, WiringWatch
from protos.energy.attribution import Tally, integrate, judge, tally, zero_limit_j
from protos.energy.trace import Mark, Phase, PhaseEnergy, PowerTrace

__all__ = ["SensorMeter"]

ASK_EACH_S = 0.02
ZERO_EACH_S = 1.0
STALE_S = 2.0
"""A sample that is older than this, and than three samples last, is not the power of now."""


class SensorMeter:
    """A :class:`edge_runtime.power.meters.meter.Meter`; its method is the sensor's.

    Args:
        sensor: an open sensor, closed with the meter.
        clock: the host's clock.
        own_board: the sensor measures the board that this program runs on. Such a board always draws power, so a phase
            in which less was seen than the zero may be wrong by is unknown, with the flag ``no-current``.
    """

    def __init__(self, sensor: PowerSensor, clock: Clock, *, own_board: bool = False) -> None:
        self._own_board, self._watch = own_board, WiringWatch(own_board=own_board)
        self._zero_w, self._zero_due_s = 0.0, float("-inf")
        self.sensor, self._clock, self._lock = sensor, clock, sensor.lock
        self._period = Period(clock.monotonic())
        # Summed up early to make room: phases that ended, and the part of the running one.
        self._folded: dict[Phase, Tally] = {}
        self._running: Tally | None = None
        self._worked_j = self._worked_s = 0.0
        self._last_w = self._usual_w = self._expected_w = 0.0
        self._peak_w: float | None = None
        self._counted = False
        with self._lock:
            self._look_at_zero()
            self._watch.see(sensor.trace(), self._zero_w)
            self._recount()
            self._leave = sensor.subscribe(self._hear)

    @property
    def identity(self) -> MeterIdentity:
        identity, fault = self.sensor.identity, self.fault
        return identity if fault is None else replace(identity, method="unknown", quality=fault)

    @property
    def fault(self) -> str | None:
        """Why the sensor does not see the board, as its samples tell; None while it does."""
        with self._lock:
            return self._watch.fault

    @property
    def has_samples(self) -> bool:
        """Whether a sample has come and its time is known."""
        with self._lock:
            return self._counted

    @property
    def power_w(self) -> float | None:
        with self._lock:
            age_s = self._clock.monotonic() - self.sensor.covered_to_s
            stale = age_s > max(STALE_S, 3.0 / self.sensor.capabilities.rate_hz)
            return self._last_w if self._counted and not stale else None

    @property
    def peak_w(self) -> float | None:
        with self._lock:
            return self._peak_w

    def start(self) -> None:
        with self._lock:
            now_s = self._clock.monotonic()
            self._period = Period(now_s)
            self._folded.clear()
            self._running = self._peak_w = None
            self.sensor.flags()
            self.sensor.forget_before(now_s)
            self._recount()
        self._relax(True)

    def mark(self, phase: Phase) -> None:
        self._relax(phase is Phase.IDLE)
        with self._lock:
            self._period.mark(self._clock.monotonic(), phase)
            if self._running is not None:
                self._add(self._running)
                self._running = None

    def _relax(self, relaxed: bool) -> None:
        """A board that rests is not worth ten looks a second: they would be a good part of its rest."""
        if isinstance(self.sensor, Relaxes):
            self.sensor.relax(relaxed)

    def expect(self, power_w: float | None) -> None:
        with self._lock:
            self._expected_w = power_w or 0.0

    def spent_j(self) -> float | None:
        with self._lock:
            worked_s = self._period.worked_s(self._clock.monotonic())
            if not self._counted or (self._watch.fault is not None and self._worked_s == 0):
                return None
            missing_s = worked_s - self._worked_s
            if missing_s <= 0:
                return self._worked_j
            mean_w = self._worked_j / self._worked_s if self._worked_s > 0 else self._usual_w
            return self._worked_j + missing_s * max(self._last_w, mean_w, self._expected_w)

    def await_samples(self, timeout_s: float) -> None:
        """Wait until samples reach past the last mark, so long at most. Marks may be made meanwhile."""
        with self._lock:
            stop_s = self._period.last.t_s
        self._await_samples(stop_s, timeout_s)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        with self._lock:
            if len(self._period.marks) < 2 and not self._folded:
                return ()
            stop_s = self._period.last.t_s
        self._await_samples(stop_s, timeout_s)
        with self._lock:
            if self._worked_s > 0:
                self._usual_w = self._worked_j / self._worked_s
            marks, stop_s = self._period.close()
            flags = self.sensor.flags()
            trace = self.sensor.trace()
            self._see_peak(trace, marks, stop_s)
            for part in tally(trace, marks, stop_s, errors=self.sensor.errors()):
                self._add(part)
            sums, self._folded = self._folded, {}
            self.sensor.forget_before(stop_s)
            self._recount()
        identity = self.sensor.identity
        if not any(part.covered_s or part.bits for part in sums.values()):
            unknown = unknown_phases(marks, stop_s, sensor=identity.sensor, flags=("no-samples", *flags))
            return tuple(self._with_fault(phase_energy) for phase_energy in unknown)
        judged = (
            judge(sums[phase], method=identity.method, sensor=identity.sensor, flags=flags)
            for phase in Phase
            if phase in sums
        )
        found = (self._of_own_board(phase_energy, sums[phase_energy.phase]) for phase_energy in judged)
        return tuple(self._with_fault(phase_energy) for phase_energy in found)

    def _with_fault(self, phase_energy: PhaseEnergy) -> PhaseEnergy:
        """Where joules are unknown, the sensor's fault is told: also of a phase too short for a sample to show it."""
        fault = self._watch.fault
        if fault is None or phase_energy.energy_j is not None or fault in phase_energy.flags:
            return phase_energy
        return replace(phase_energy, flags=(*phase_energy.flags, fault))

    def _of_own_board(self, phase_energy: PhaseEnergy, sums: Tally) -> PhaseEnergy:
        """A figure of the board that runs this; none where it is within the error of the zero."""
        if not self._own_board or phase_energy.energy_j is None or not sums.covered_s:
            return phase_energy
        # A chain without such lines, as a counter's, has no zero to be wrong.
        if phase_energy.energy_j >= zero_limit_j(sums.terms):
            return phase_energy
        return PhaseEnergy(
            phase_energy.phase,
            None,
            phase_energy.covered_s,
            phase_energy.uncovered_s,
            "unknown",
            phase_energy.sensor,
            None,
            (*phase_energy.flags, NO_CURRENT),
        )

    def close(self) -> None:
        self._leave()
        self.sensor.close()

    def _await_samples(self, stop_s: float, timeout_s: float) -> None:
        deadline_s = self._clock.monotonic() + timeout_s
        while True:
            with self._lock:
                done = self.sensor.covered_to_s >= stop_s and not self.sensor.incomplete
            left_s = deadline_s - self._clock.monotonic()
            if done or left_s <= 0:
                return
            self.sensor.request()
            # One wait for the answer to the request; when it does not reach far enough, ask again.
            self.sensor.wait_for_news(min(ASK_EACH_S, left_s))

    def _hear(self, event: Event) -> None:
        """The sensor's thread, with the lock held."""
        if isinstance(event, Block):
            self._look_at_zero()
            self._watch.see(event.trace, self._zero_w)
            usable = event.trace.usable()
            if len(usable):
                self._last_w = float(usable.power_w[-1])
                self._counted = True
                self._count(usable)
        elif isinstance(event, Realigned):
            self._recount()
        else:
            return
        if self.sensor.nearly_full:
            self._fold()

    def _look_at_zero(self) -> None:
        """By how much the chain's zero may be wrong, W: asked now and then, since it takes a clock fit."""
        if self._clock.monotonic() >= self._zero_due_s:
            self._zero_due_s, errors = self._clock.monotonic() + ZERO_EACH_S, self.sensor.errors()
            self._zero_w = (errors.offset_a + errors.current_step_a) * errors.supply_v

    def _count(self, trace: PowerTrace) -> None:
        """Add usable samples to the sums of work (every phase but idle)."""
        marks = self._period.marks
        first = max(0, bisect_right(marks, float(trace.start_s.min()), key=lambda mark: mark.t_s) - 1)
        marks = marks[first:]
        if len(marks) == 1 and trace.start_s[0] >= marks[0].t_s:
            # Usually a block lies within one phase: no need to cut it at marks.
            if marks[0].phase is not Phase.IDLE:
                width_s = trace.stop_s - trace.start_s
                self._add_work(float(width_s @ trace.power_w), float(width_s.sum()))
            return
        edges = [*(mark.t_s for mark in marks), max(float(trace.stop_s.max()), marks[-1].t_s)]
        for mark, energy_j, covered_s in zip(marks, *integrate(trace, edges), strict=True):
            if mark.phase.is_work:
                self._add_work(float(energy_j), float(covered_s))

    def _add_work(self, energy_j: float, covered_s: float) -> None:
        """What is less than the zero may be wrong by was not seen: its time is charged like a silence."""
        least_w = self._zero_w if self._own_board else -self._zero_w
        if energy_j >= least_w * covered_s:
            self._worked_j += energy_j
            self._worked_s += covered_s

    def _recount(self) -> None:
        """Make the sums of work anew from the stored samples."""
        folded = [*self._folded.values(), *([self._running] if self._running else [])]
        working = [part for part in folded if part.phase.is_work]
        self._worked_j = sum(part.energy_j for part in working)
        self._worked_s = sum(part.covered_s for part in working)
        trace = self.sensor.trace().usable().disjoint()
        if len(trace):
            self._counted = True
            self._last_w = float(trace.power_w[-1])
            self._count(trace)

    def _fold(self) -> None:
        """Sum up what is stored, up to the last sample, to make room."""
        trace, errors, to_s = self.sensor.trace(), self.sensor.errors(), self.sensor.covered_to_s
        *ended, running = self._period.marks
        self._see_peak(trace, self._period.marks, to_s)
        for part in tally(trace, ended, min(to_s, running.t_s), errors=errors):
            self._add(part)
        for part in tally(trace, [running], to_s, errors=errors):
            self._running = self._running + part if self._running else part
        self.sensor.forget_before(to_s)
        self._period.fold(to_s)

    def _see_peak(self, trace: PowerTrace, marks: list[Mark], stop_s: float) -> None:
        """Raise the peak to the largest sample between these marks that touches a phase of work."""
        # No marks at all: everything before the last one has been folded, and seen then.
        ends_s = [*(mark.t_s for mark in marks[1:]), stop_s]
        for mark, end_s in zip(marks, ends_s, strict=False):
            inside = (trace.stop_s > mark.t_s) & (trace.start_s < end_s)
            if mark.phase.is_work and inside.any():
                largest_w = float(trace.power_w[inside].max())
                self._peak_w = largest_w if self._peak_w is None else max(self._peak_w, largest_w)

    def _add(self, part: Tally) -> None:
        known = self._folded.get(part.phase)
        self._folded[part.phase] = known + part if known else part
