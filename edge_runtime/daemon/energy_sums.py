"""Sums of energy records, for the log and for figures that come in two parts."""

from __future__ import annotations

from collections.abc import Iterable

from protos.energy.trace import Phase, PhaseEnergy, joined


def with_idle(after: Iterable[PhaseEnergy], before: Iterable[PhaseEnergy]) -> tuple[PhaseEnergy, ...]:
    """The records of ``after``, its idle time joined with that of ``before``: a round has one figure per phase.

    Idle time of a round begins with the end of the previous round of its run, or with the run's first order.
    """
    idle = next((phase_energy for phase_energy in before if phase_energy.phase is Phase.IDLE), None)
    return tuple(
        joined(idle, phase_energy) if idle and phase_energy.phase is Phase.IDLE else phase_energy
        for phase_energy in after
    )


def in_words(records: Iterable[PhaseEnergy]) -> str:
    """Energy of all phases but idling, with its coverage: ``4.21 J (coverage 1.00)``.

    >>> in_words([PhaseEnergy(Phase.TRAIN, 2.0, 3.0, 1.0, "measured", "s", None)])
    '2.00 J (coverage 0.75)'
    """
    worked = [record for record in records if record.phase is not Phase.IDLE]
    seen_s = sum(phase_energy.covered_s for phase_energy in worked)
    whole_s = seen_s + sum(phase_energy.uncovered_s for phase_energy in worked)
    known = [phase_energy.energy_j for phase_energy in worked if phase_energy.energy_j is not None]
    coverage = f"coverage {seen_s / whole_s if whole_s > 0 else 1.0:.2f}"
    if not known:
        return f"energy unknown ({coverage})"
    estimated = "" if all(phase_energy.method == "measured" for phase_energy in worked) else "estimated, "
    if len(known) < len(worked):
        return f"over {sum(known):.2f} J ({estimated}{coverage}, {len(worked) - len(known)} phases unknown)"
    return f"{sum(known):.2f} J ({estimated}{coverage})"
