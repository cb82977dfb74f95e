"""One meter for the rounds of a device and for the model that works on it.

Rounds mark phases from one thread. A prediction, from any thread, marks INFER for as long as it takes, then the phase
of the round goes on. Its joules are kept apart: they are in no report, and count against no budget of a round.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

from edge_runtime.power.meters.meter import ExpectsPower, Meter, MeterIdentity, ShowsPower
from protos.energy.trace import Phase, PhaseEnergy, joined

__all__ = ["InferTotals", "SharedMeter"]

_MOST_UNSETTLED = 512
"""Predictions after which their joules are settled, so that marks do not grow without end while no round is on."""
_PATIENCE_S = 0.3


@runtime_checkable
class _AwaitsSamples(Protocol):
    def await_samples(self, timeout_s: float) -> None:
        """Wait until samples reach past the last mark, so long at most."""
        ...


class InferTotals:
    """All predictions since the start.

    Attributes:
        calls: predictions.
        energy: their joules, added up; None before any was settled. A part that is unknown makes all unknown.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.energy: PhaseEnergy | None = None

    def add(self, record: PhaseEnergy) -> None:
        """Take one more settled part."""
        self.energy = record if self.energy is None else joined(self.energy, record)


class SharedMeter:
    """A :class:`edge_runtime.power.meters.meter.Meter` over another one.

    Args:
        inner: what measures; nobody else may mark on it.
    """

    def __init__(self, inner: Meter) -> None:
        self.inner = inner
        self.totals = InferTotals()
        self._lock = threading.RLock()
        self._phase, self._inferring = Phase.IDLE, False
        self._unsettled = 0
        # What was settled for the sake of predictions, and belongs to the period that is still running.
        self._carried: dict[Phase, PhaseEnergy] = {}

    @property
    def identity(self) -> MeterIdentity:
        return self.inner.identity

    def start(self) -> None:
        with self._lock:
            self.inner.start()
            self._carried.clear()

    def mark(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase
            if not self._inferring:
                self.inner.mark(phase)

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """A prediction; one at a time."""
        with self._lock:
            self._inferring = True
            self.inner.mark(Phase.INFER)
        try:
            yield
        finally:
            with self._lock:
                self._inferring = False
                self.inner.mark(self._phase)
                self.totals.calls += 1
                self._unsettled += 1
                due = self._unsettled >= _MOST_UNSETTLED and self._phase is Phase.IDLE
            if due:
                self.settle_predictions()

    def settle_predictions(self, timeout_s: float = _PATIENCE_S) -> PhaseEnergy | None:
        """The joules of the predictions since they were settled last; None when there was none. What a round has spent
        so far stays its own."""
        self._await_samples(timeout_s)
        with self._lock:
            self._carry_settled(timeout_s)
            return self._take_predictions()

    def no_order_came(self, timeout_s: float = _PATIENCE_S) -> None:
        """What came in since the last settlement was no order: those joules are of waiting, and no run's.

        A device that waits for days gets hundreds of such answers; the next run would be charged for them all, and be
        told that it is not known what they cost as soon as the sensor was away during one.
        """
        self._await_samples(timeout_s)
        with self._lock:
            self._carry_settled(timeout_s)
            self._take_predictions()
            if (arrived := self._carried.pop(Phase.RECEIVE, None)) is not None:
                self._carry(replace(arrived, phase=Phase.IDLE))

    def spent_j(self) -> float | None:
        with self._lock:
            spent_j = self.inner.spent_j()
            known = [phase_energy.energy_j for phase_energy in self._carried.values() if phase_energy.phase.is_work]
        if spent_j is None or None in known:
            return None
        return spent_j + sum(value for value in known if value is not None)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        self._await_samples(timeout_s)
        with self._lock:
            self._carry_settled(timeout_s)
            self._take_predictions()
            whole, self._carried = self._carried, {}
            return tuple(whole[phase] for phase in Phase if phase in whole)

    def begin_run(self, timeout_s: float = 2.0) -> None:
        """Forget what was metered so far, but for what came in since :meth:`no_order_came`: that is the order with
        which a run begins."""
        arrived = next((part for part in self.settle(timeout_s) if part.phase is Phase.RECEIVE), None)
        if arrived is not None:
            with self._lock:
                self._carry(arrived)

    def _await_samples(self, timeout_s: float) -> None:
        """Before the lock is taken: predictions go on while samples are waited for."""
        if isinstance(self.inner, _AwaitsSamples):
            self.inner.await_samples(timeout_s)

    def _carry_settled(self, timeout_s: float) -> None:
        self._unsettled = 0
        for record in self.inner.settle(0.0 if isinstance(self.inner, _AwaitsSamples) else timeout_s):
            self._carry(record)

    def _carry(self, record: PhaseEnergy) -> None:
        before = self._carried.get(record.phase)
        self._carried[record.phase] = record if before is None else joined(before, record)

    def _take_predictions(self) -> PhaseEnergy | None:
        found = self._carried.pop(Phase.INFER, None)
        if found is not None:
            self.totals.add(found)
        return found

    def expect(self, power_w: float | None) -> None:
        if isinstance(self.inner, ExpectsPower):
            self.inner.expect(power_w)

    @property
    def power_w(self) -> float | None:
        return self.inner.power_w if isinstance(self.inner, ShowsPower) else None

    @property
    def peak_w(self) -> float | None:
        return self.inner.peak_w if isinstance(self.inner, ShowsPower) else None

    def close(self) -> None:
        self.inner.close()
