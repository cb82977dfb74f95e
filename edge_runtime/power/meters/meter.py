"""What the rest of the device asks of energy metering, whatever the sensor.

A *period* runs from one settlement to the next. ``settle`` closes it **at the last mark**: the phase that
this mark began is still running and belongs to the next period. So a round marks SEND, settles, and
reports embed, train and encode; the joules of sending come with the next settlement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from protos.energy.trace import Mark, Method, Phase, PhaseEnergy

__all__ = ["ExpectsPower", "Meter", "MeterIdentity", "ShowsPower", "unknown_phases"]


@dataclass(frozen=True, slots=True)
class MeterIdentity:
    """Who measures.

    Args:
        method: ``measured``, ``estimated`` or ``unknown``.
        sensor: what and where, such as ``ina219-bridge:/dev/ttyUSB0#0``.
        calibration_id: identity of the calibration in use; ``none`` without one.
        quality: one word: ``calibrated``, ``uncalibrated``, ``partial`` (sees a part of the board), ``model`` or
            ``none``.
    """

    method: Method
    sensor: str
    calibration_id: str
    quality: str


class Meter(Protocol):
    """Phases in, joules out. One thread calls it; a meter may own threads of its own."""

    @property
    def identity(self) -> MeterIdentity:
        """Who measures."""
        ...

    def start(self) -> None:
        """Begin metering, in phase IDLE. Marks before ``start`` are not accepted."""
        ...

    def mark(self, phase: Phase) -> None:
        """From now on the device is in ``phase``."""
        ...

    def spent_j(self) -> float | None:
        """Joules of all phases but idle since the last settlement, up to now; None when unknown.

        Cheap enough for every training step, and never too small: time that no sample covers yet is
        charged at the larger of the last and the mean power.
        """
        ...

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        """Close the period at the last mark and return its phases, idle among them.

        Waits up to ``timeout_s`` for samples past that mark. Never raises for a dead sensor: the
        energy of an uncovered phase is None. Empty when nothing was marked since the last settlement.
        """
        ...

    def close(self) -> None:
        """Let go of the sensor. Harmless when repeated."""
        ...


@runtime_checkable
class ExpectsPower(Protocol):
    """A meter whose samples come late, and that can be told what to charge until they do."""

    def expect(self, power_w: float | None) -> None:
        """From now on ``spent_j`` charges work that no sample covers yet at no less than this."""
        ...


@runtime_checkable
class ShowsPower(Protocol):
    """A meter that has samples, and so knows watts."""

    @property
    def power_w(self) -> float | None:
        """The latest sample, W; None before the first, and when it is too old to be the power of now."""
        ...

    @property
    def peak_w(self) -> float | None:
        """The largest sample that touched a phase other than idle, W, since ``start`` and up to the last settlement."""
        ...


def unknown_phases(marks: list[Mark], stop_s: float, *, sensor: str, flags: tuple[str, ...]) -> tuple[PhaseEnergy, ...]:
    """The phases of a period that nothing measured: durations are known, energy is not."""
    seconds: dict[Phase, float] = {}
    ends = [*(mark.t_s for mark in marks[1:]), stop_s][: len(marks)]  # none where nothing was marked
    for mark, end_s in zip(marks, ends, strict=True):
        seconds[mark.phase] = seconds.get(mark.phase, 0.0) + max(0.0, end_s - mark.t_s)
    return tuple(
        PhaseEnergy(phase, None, 0.0, seconds[phase], "unknown", sensor, None, flags)
        for phase in Phase
        if phase in seconds
    )
