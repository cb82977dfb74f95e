"""Sums of joules with their uncertainty, where some may be unknown.

A sum says how much is known, how many records are not, and how wrong the known part may be:

* The errors of one sensor go together (its gain, its shunt), so half widths of one sensor are added as they are:
  ``u_s = sum_i u_i``.
* The errors of different sensors are independent: ``u = sqrt(sum_s u_s^2)``.

Estimates of one board table are one "sensor" as well: a wrong watt of the table is wrong for all of its boards. Source:
JCGM 100:2008 (GUM), 5.2.2, with correlations of one within a sensor and none between sensors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from protos.energy.trace import Phase, PhaseEnergy

__all__ = ["JouleSum", "work_of"]


def work_of(energy: Iterable[PhaseEnergy]) -> list[PhaseEnergy]:
    """The records that are joules of a round: all but idling, as :attr:`DeviceRound.spent_j` counts them."""
    return [record for record in energy if record.phase is not Phase.IDLE]


@dataclass
class JouleSum:
    """A growing sum.

    Attributes:
        known_j: joules of all records that say some.
        known, unknown: how many records said joules, and how many did not.
        covered_s, uncovered_s: seconds with and without samples.
        methods: of the records that said joules: "measured", "estimated".
        flags: how many records had each.
        unbounded: records that said joules, and not how wrong they may be.

    >>> total = JouleSum()
    >>> for sensor, j, u in (("a", 2.0, 0.3), ("a", 1.0, 0.1), ("b", 5.0, 0.3)):
    ...     total.add(PhaseEnergy(Phase.TRAIN, j, 1.0, 0.0, "measured", sensor, u), "pi")
    >>> total.energy_j, round(total.uncertainty_j or 0, 3)
    (8.0, 0.5)
    """

    known_j: float = 0.0
    known: int = 0
    unknown: int = 0
    covered_s: float = 0.0
    uncovered_s: float = 0.0
    methods: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    unbounded: int = 0
    _half_widths: dict[str, float] = field(default_factory=dict)

    def add(self, record: PhaseEnergy, device_id: str) -> None:
        """Take one more record of a device in."""
        self.covered_s += record.covered_s
        self.uncovered_s += record.uncovered_s
        self.flags.update(record.flags)
        if record.energy_j is None:
            self.unknown += 1
            return
        self.known += 1
        self.known_j += record.energy_j
        self.methods[record.method] += 1
        if record.uncertainty_j is None:
            self.unbounded += 1
            return
        # A record that names no sensor is of one that nobody else has.
        sensor = f"{record.method}:{record.sensor}" if record.sensor else f"device:{device_id}"
        self._half_widths[sensor] = self._half_widths.get(sensor, 0.0) + record.uncertainty_j

    @property
    def energy_j(self) -> float | None:
        """All of it; None when a record is unknown, or there are none."""
        return self.known_j if self.known and not self.unknown else None

    @property
    def at_least_j(self) -> float | None:
        """What is known of it; None when nothing is."""
        return self.known_j if self.known else None

    @property
    def uncertainty_j(self) -> float | None:
        """Half width of the 95 % interval of the known joules; None when it cannot be bounded."""
        if not self.known or self.unbounded:
            return None
        return math.sqrt(sum(width * width for width in self._half_widths.values()))

    @property
    def mean_w(self) -> float | None:
        """Mean watts over the covered seconds; None where there are none or joules are missing."""
        return self.known_j / self.covered_s if self.energy_j is not None and self.covered_s > 0 else None
