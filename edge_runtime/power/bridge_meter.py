"""The measuring meter: an INA219 serial bridge, phases in, joules out.

The reading thread adds each batch to the sums as it comes, so that ``spent_j`` only adds the part that no sample
covers yet. ``settle`` reads the stored samples again with the newest clock fit and attributes them exactly.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import replace

from edge_runtime.power.alignment import Alignment
from edge_runtime.power.clock import Clock
from edge_runtime.power.link import BridgeLink
from edge_runtime.power.meter import MeterIdentity, unknown_phases
from edge_runtime.power.period import Period
from edge_runtime.power.samples import CAPACITY, SampleStore
from edge_runtime.power.session import BridgeSession, Losses, since
from edge_runtime.power.stream import Piece
from edge_runtime.power.transport import Opener, SerialTransport
from protos.attribution import Tally, integrate, judge, tally
from protos.energy import Mark, Phase, PhaseEnergy, PowerTrace
from protos.ina219 import Profile
from protos.uncertainty import ErrorModel

__all__ = ["BridgeMeter"]

FLUSH_EACH_S = 0.02
FEW = 32
"""At most this many samples come in one piece; they never overlap each other."""


class BridgeMeter:
    """Method ``measured``. Made by :func:`edge_runtime.power.opening.open_meter`.

    Args:
        path: serial port.
        sensor: index of the sensor on the bridge.
        clock: the host's clock.
        profile: sensor setting to ask for; None takes the bridge's.
        shunt_ohm: shunt to use instead of the calibration's.
        opener: makes a transport from a path.
        capacity: samples stored before the older ones are summed up.
    """

    def __init__(
        self,
        path: str,
        *,
        sensor: int = 0,
        clock: Clock,
        profile: Profile | None = None,
        shunt_ohm: float | None = None,
        opener: Opener = SerialTransport,
        capacity: int = CAPACITY,
    ) -> None:
        self._path, self._sensor, self._clock = path, sensor, clock
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._store = SampleStore(capacity)
        self.session = BridgeSession(sensor, self._absorb, profile=profile, shunt_ohm=shunt_ohm)
        self.link = BridgeLink(path, self.session, lock=self._lock, news=self._news, clock=clock, opener=opener)
        self._period = Period(clock.monotonic())
        # Summed up early to make room: phases that ended, and the part of the running one.
        self._folded: dict[Phase, Tally] = {}
        self._running: Tally | None = None
        self._covered_to_s = float("-inf")
        self._worked_j = self._worked_s = 0.0
        self._last_w = self._usual_w = self._expected_w = 0.0
        self._peak_w: float | None = None
        self._counted = False
        self._stale = True
        self._losses_before = Losses()

    @property
    def identity(self) -> MeterIdentity:
        calibration = self.session.calibration
        return MeterIdentity(
            "measured",
            f"ina219:{self._path}#{self._sensor}",
            f"{calibration.id:08x}" if calibration.id else "none",
            "calibrated" if calibration.id else "uncalibrated",
        )

    @property
    def losses(self) -> Losses:
        """What was lost or damaged since the port was first opened."""
        with self._lock:
            return self.session.losses

    @property
    def has_samples(self) -> bool:
        """Whether a sample has come and its time is known."""
        with self._lock:
            return self._counted

    @property
    def power_w(self) -> float | None:
        with self._lock:
            return self._last_w if self._counted else None

    @property
    def peak_w(self) -> float | None:
        with self._lock:
            return self._peak_w

    def wait_for_news(self, timeout_s: float) -> None:
        """Wait until something arrives."""
        self._clock.wait(self._news, timeout_s)
        self._news.clear()

    def start(self) -> None:
        with self._lock:
            now_s = self._clock.monotonic()
            self._period = Period(now_s)
            self._folded.clear()
            self._running = self._peak_w = None
            self._losses_before = self.session.losses
            self._store.forget_before(now_s)
            self._recount()

    def mark(self, phase: Phase) -> None:
        with self._lock:
            self._period.mark(self._clock.monotonic(), phase)
            if self._running is not None:
                self._add(self._running)
                self._running = None

    def expect(self, power_w: float | None) -> None:
        with self._lock:
            self._expected_w = power_w or 0.0

    def spent_j(self) -> float | None:
        with self._lock:
            worked_s = self._period.worked_s(self._clock.monotonic())
            if not self._counted:
                return None
            missing_s = worked_s - self._worked_s
            if missing_s <= 0:
                return self._worked_j
            mean_w = self._worked_j / self._worked_s if self._worked_s > 0 else self._usual_w
            return self._worked_j + missing_s * max(self._last_w, mean_w, self._expected_w)

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
            flags = self._flags()
            trace = self._store.trace()
            self._see_peak(trace, marks, stop_s)
            for part in tally(trace, marks, stop_s, errors=self._errors()):
                self._add(part)
            sums, self._folded = self._folded, {}
            self._losses_before = self.session.losses
            self._store.forget_before(stop_s)
            self._recount()
        sensor = self.identity.sensor
        if not any(part.covered_s for part in sums.values()):
            return unknown_phases(marks, stop_s, sensor=sensor, flags=("no-samples", *flags))
        return tuple(judge(sums[phase], sensor=sensor, flags=flags) for phase in Phase if phase in sums)

    def close(self) -> None:
        self.link.close()

    def _await_samples(self, stop_s: float, timeout_s: float) -> None:
        deadline_s = self._clock.monotonic() + timeout_s
        while True:
            with self._lock:
                self._news.clear()
                done = self._covered_to_s >= stop_s and not self.session.has_holes
            left_s = deadline_s - self._clock.monotonic()
            if done or left_s <= 0:
                return
            self.link.request_flush()
            # One wait for the answer to the flush; when it does not reach far enough, ask again.
            self._clock.wait(self._news, min(FLUSH_EACH_S, left_s))

    def _absorb(self, epoch: int, alignment: Alignment, piece: Piece) -> None:
        """Samples from the session; called by the reading thread with the lock held."""
        self._store.append(epoch, alignment, piece.begin, piece.end, piece.power_w, piece.flags)
        fit = alignment.fit
        if fit is None:
            self._stale = True
            return
        start, stop = fit.host_s(piece.begin), fit.host_s(piece.end)
        self._last_w = float(piece.power_w[-1])
        if self._stale:
            self._recount()
        else:
            self._covered_to_s = max(self._covered_to_s, float(stop[-1]))
            self._count(PowerTrace(start, stop, piece.power_w, piece.flags))
        if self._store.nearly_full:
            self._fold()

    def _count(self, trace: PowerTrace) -> None:
        """Add samples to the sums of work (every phase but idle)."""
        marks = self._period.marks
        first = max(0, bisect_right(marks, float(trace.start_s.min()), key=lambda mark: mark.t_s) - 1)
        marks = marks[first:]
        if len(marks) == 1 and trace.start_s[0] >= marks[0].t_s and len(trace) <= FEW:
            # The usual batch, within one phase: no need to cut it at marks.
            if marks[0].phase is not Phase.IDLE:
                width_s = trace.stop_s - trace.start_s
                self._worked_j += float(width_s @ trace.power_w)
                self._worked_s += float(width_s.sum())
            return
        edges = [*(mark.t_s for mark in marks), max(float(trace.stop_s.max()), marks[-1].t_s)]
        for mark, energy_j, covered_s in zip(marks, *integrate(trace, edges), strict=True):
            if mark.phase is not Phase.IDLE:
                self._worked_j += float(energy_j)
                self._worked_s += float(covered_s)

    def _recount(self) -> None:
        """Make the sums of work anew from the stored samples."""
        folded = [*self._folded.values(), *([self._running] if self._running else [])]
        working = [part for part in folded if part.phase is not Phase.IDLE]
        self._worked_j = sum(part.energy_j for part in working)
        self._worked_s = sum(part.covered_s for part in working)
        trace = self._store.trace()
        if len(trace):
            self._counted, self._stale = True, False
            self._covered_to_s = float(trace.stop_s.max())
            self._count(trace)

    def _fold(self) -> None:
        """Sum up what is stored, up to the last sample, to make room."""
        trace, errors, to_s = self._store.trace(), self._errors(), self._covered_to_s
        *ended, running = self._period.marks
        self._see_peak(trace, self._period.marks, to_s)
        for part in tally(trace, ended, min(to_s, running.t_s), errors=errors):
            self._add(part)
        for part in tally(trace, [running], to_s, errors=errors):
            self._running = self._running + part if self._running else part
        self._store.forget_before(to_s)
        self._period.fold(to_s)

    def _see_peak(self, trace: PowerTrace, marks: list[Mark], stop_s: float) -> None:
        """Raise the peak to the largest sample between these marks that touches a phase of work."""
        # No marks at all: everything before the last one has been folded, and seen then.
        ends_s = [*(mark.t_s for mark in marks[1:]), stop_s]
        for mark, end_s in zip(marks, ends_s, strict=False):
            inside = (trace.stop_s > mark.t_s) & (trace.start_s < end_s)
            if mark.phase is not Phase.IDLE and inside.any():
                largest_w = float(trace.power_w[inside].max())
                self._peak_w = largest_w if self._peak_w is None else max(self._peak_w, largest_w)

    def _add(self, part: Tally) -> None:
        known = self._folded.get(part.phase)
        self._folded[part.phase] = known + part if known else part

    def _errors(self) -> ErrorModel:
        session = self.session
        errors = session.calibration.errors(session.config, session.bus_v or 5.0)
        fit = session.alignment.fit
        return replace(errors, sync_s=fit.limit_s, clock_relative=fit.rate_error) if fit else errors

    def _flags(self) -> tuple[str, ...]:
        """Words for what happened in this period."""
        lost = since(self.session.losses, self._losses_before)
        words = {
            "bridge-restarted": lost.restarts,
            "bridge-changed": lost.other_bridges,
            "reconnected": lost.reconnects,
            "batches-lost": lost.lost_batches,
        }
        return tuple(word for word, count in words.items() if count)
