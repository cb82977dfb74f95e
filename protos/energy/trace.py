"""What energy is made of: phases, marks, power samples, and joules with what one must know to believe them.

Rules kept here:

* Where samples overlap, the one that begins first keeps the shared time; no instant counts twice.
* Unknown energy is ``None``, never 0.
* A sample that says nothing of the board's power is no sample: its time is uncovered, and its flag stays.

How samples and marks become joules is in :mod:`protos.energy.attribution`. Times are seconds on any one clock (the
meter uses the host's monotonic clock).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from protos.energy.uncertainty import UncertaintyTerm

__all__ = [
    "UNUSABLE",
    "Floats",
    "Mark",
    "Method",
    "Phase",
    "PhaseEnergy",
    "PowerTrace",
    "SampleFlag",
    "covered_share",
    "flag_words",
]

Method = Literal["measured", "estimated", "unknown"]
Floats = npt.NDArray[np.float64]


class Phase(StrEnum):
    """What a device was doing."""

    IDLE = "idle"
    RECEIVE = "receive"
    """An order or a bundle comes in, from its first byte. Said to coordinators that know it; idle time to others."""
    EMBED = "embed"
    TRAIN = "train"
    ENCODE = "encode"
    SEND = "send"
    INFER = "infer"
    """Predictions of the model at work. They are the application's joules, and no part of a round."""

    @property
    def is_work(self) -> bool:
        """Whether its joules are those of a round, and count against budgets."""
        return self not in (Phase.IDLE, Phase.INFER)


class SampleFlag(IntFlag):
    """What is known to be odd about a sample."""

    CLIPPED = 1
    """The shunt register sat at the end of its range: the real current was as large or larger."""
    OVERFLOW = 2
    """The sensor reported a math overflow."""
    RECOVERED = 4
    """The samples were lost on the wire; the mean comes from the bridge's energy accumulator."""
    BUS_FULL = 8
    """The bus voltage register sat at the end of its range: the real voltage was as large or larger."""
    BUS_LOW = 16
    """The bus voltage is under what can power a board: the sensor does not see the supply of the load."""
    SHUNT_UNKNOWN = 32
    """The current was reckoned with a default shunt that nobody has confirmed."""


UNUSABLE = SampleFlag.BUS_FULL | SampleFlag.BUS_LOW | SampleFlag.SHUNT_UNKNOWN
"""Samples with one of these flags say nothing of the power; they cover no time."""


def flag_words(bits: int) -> tuple[str, ...]:
    """The names of a sample's flags, as they stand in reports.

    >>> flag_words(5 | SampleFlag.BUS_LOW)
    ('clipped', 'recovered', 'bus-low')
    """
    return tuple(bit.name.lower().replace("_", "-") for bit in SampleFlag if bits & bit and bit.name)


@dataclass(frozen=True, slots=True)
class Mark:
    """From ``t_s`` on, and until the next mark, the device is in ``phase``."""

    t_s: float
    phase: Phase


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """Samples as arrays of one length N: mean power ``power_w[i]`` from ``start_s[i]`` to ``stop_s[i]``.

    ``start_s``, ``stop_s``, ``power_w`` are float64; ``flags`` is uint8 of :class:`SampleFlag` bits.
    """

    start_s: Floats
    stop_s: Floats
    power_w: Floats
    flags: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        lengths = {len(self.start_s), len(self.stop_s), len(self.power_w), len(self.flags)}
        if len(lengths) != 1:
            raise ValueError(f"arrays of a power trace differ in length: {sorted(lengths)}")

    @classmethod
    def of(cls, start_s: Any, stop_s: Any, power_w: Any, flags: Any = None) -> PowerTrace:
        """Make a trace from anything numpy can read as arrays; missing flags are zero."""
        start = np.asarray(start_s, np.float64)
        bits = np.zeros(len(start), np.uint8) if flags is None else np.asarray(flags, np.uint8)
        return cls(start, np.asarray(stop_s, np.float64), np.asarray(power_w, np.float64), bits)

    def __len__(self) -> int:
        return len(self.start_s)

    def usable(self) -> PowerTrace:
        """Without the samples that say nothing of the power (:data:`UNUSABLE`)."""
        good = (self.flags & UNUSABLE) == 0
        if good.all():
            return self
        return PowerTrace(self.start_s[good], self.stop_s[good], self.power_w[good], self.flags[good])

    def disjoint(self) -> PowerTrace:
        """The same samples in order of time, without empty, non-finite or doubly covered intervals."""
        start, stop = self.start_s, self.stop_s
        keep = np.isfinite(start) & np.isfinite(stop) & np.isfinite(self.power_w) & (stop > start)
        if keep.all() and (len(start) < 2 or (start[1:] >= stop[:-1]).all()):
            return self
        order = np.flatnonzero(keep)[np.argsort(start[keep], kind="stable")]
        start, stop = start[order], stop[order]
        reached = np.concatenate([[-np.inf], np.maximum.accumulate(stop)[:-1]])
        start = np.maximum(start, reached)
        rest = stop > start
        order = order[rest]
        return PowerTrace(start[rest], stop[rest], self.power_w[order], self.flags[order])


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """The energy of one phase, with what one must know to believe it.

    Args:
        phase: what the device was doing.
        energy_j: joules seen in the covered seconds, or None when there is no figure.
        covered_s: seconds with samples.
        uncovered_s: seconds without.
        method: ``measured``, ``estimated`` or ``unknown``.
        sensor: identity of the sensor.
        uncertainty_j: half width of the 95 % interval, or None when it cannot be bounded.
        flags: words such as ``degraded``, ``clipped``, ``no-sensor``; empty when all is well.
        budget: the terms behind ``uncertainty_j``.
        coverage_factor: half width over combined standard uncertainty, gaps apart; None without a budget.
        worst_case_j: sum of the limits of all errors; None without a budget.
    """

    phase: Phase
    energy_j: float | None
    covered_s: float
    uncovered_s: float
    method: Method
    sensor: str
    uncertainty_j: float | None
    flags: tuple[str, ...] = ()
    budget: tuple[UncertaintyTerm, ...] = ()
    coverage_factor: float | None = None
    worst_case_j: float | None = None

    @property
    def coverage(self) -> float:
        """Covered share of the phase, 0 to 1; a phase of no duration is covered."""
        return covered_share(self.covered_s, self.uncovered_s)


def joined(first: PhaseEnergy, second: PhaseEnergy) -> PhaseEnergy:
    """Two stretches of one phase as one record.

    Half widths are added as they are: both rest on the same sensor and board, so their errors go together. If one
    part is unknown, so is the whole.

    Raises:
        ValueError: the phases differ.
    """
    if first.phase is not second.phase:
        raise ValueError(f"cannot join {first.phase} and {second.phase}")
    known = first.energy_j is not None and second.energy_j is not None
    bounded = known and first.uncertainty_j is not None and second.uncertainty_j is not None
    same = first.method == second.method
    return PhaseEnergy(
        phase=first.phase,
        energy_j=(first.energy_j or 0.0) + (second.energy_j or 0.0) if known else None,
        covered_s=first.covered_s + second.covered_s,
        uncovered_s=first.uncovered_s + second.uncovered_s,
        method=first.method if known and same else ("estimated" if known else "unknown"),
        sensor=first.sensor or second.sensor,
        uncertainty_j=(first.uncertainty_j or 0.0) + (second.uncertainty_j or 0.0) if bounded else None,
        flags=tuple(dict.fromkeys((*first.flags, *second.flags))),
    )


def covered_share(covered_s: float, uncovered_s: float) -> float:
    """Covered part of a time, 0 to 1; a time of no duration is covered.

    >>> covered_share(3.0, 1.0), covered_share(0.0, 0.0)
    (0.75, 1.0)
    """
    whole = covered_s + uncovered_s
    return covered_s / whole if whole > 0 else 1.0
