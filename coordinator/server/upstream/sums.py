"""What the devices of a site sent, as one report of the site: exact sums, examples, joules by phase.

Rules kept here:

* Sums are of whole numbers, so their order and how they are grouped change no bit: the head above is the one that there
  would be if every device reported there itself.
* Every example must count alike: with weights by unlike budgets a site's sum could not be weighed above.
* Joules of devices are added up, and so are their half widths. One that is unknown makes the sum unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from sqlalchemy import Connection

from coordinator.run.reports.statistics_fold import decoded, fixed_weights
from coordinator.store import reading
from coordinator.store.models.statistics import Held, examples_of, held_by
from protos.energy.trace import Method, Phase, PhaseEnergy
from protos.errors import EmptyShardError, UsageError
from protos.model.bundle import Bundle
from protos.statistics.coding import MAX_TRAVELLING, CodedMoments, encode
from protos.statistics.features import FeatureMap

_WORST: Sequence[Method] = ("unknown", "estimated", "measured")


@dataclass(frozen=True)
class Summed:
    """The sums of a site.

    Attributes:
        examples: behind them.
        devices: by name, how many examples each of them has in the sum.
    """

    coded: CodedMoments
    examples: int
    devices: dict[str, int]


def held(connection: Connection, run_id: str) -> dict[str, int]:
    """Devices whose statistics a run of the site holds, and how many examples of each."""
    return examples_of(connection, run_id)


def summed(connection: Connection, run_id: str, bundle: Bundle, features: FeatureMap) -> Summed:
    """The sum over all devices that a run of the site holds.

    Raises:
        EmptyShardError: it holds none.
        UsageError: its devices do not count alike, or have more examples than one report may stand for.
        UpdateError: what is held is not what was ordered.
    """
    found: list[Held] = [held_sums for held_sums in held_by(connection, run_id) if held_sums.examples]
    if not found:
        raise EmptyShardError("no device of this site has sent sums of any example", where=run_id)
    if set(fixed_weights(found).values()) != {1}:
        raise UsageError("the devices of this site do not count alike an example: their sum has no one weight")
    examples = sum(held_sums.examples for held_sums in found)
    if examples > MAX_TRAVELLING:
        raise UsageError(f"{examples} examples; a report stands for at most {MAX_TRAVELLING}")
    total = reduce(
        lambda moments, other: moments + other, (decoded(held_sums.coded, bundle, features) for held_sums in found)
    )
    return Summed(
        encode(total, features.summed_offset),
        examples,
        {held_sums.device_id: held_sums.examples for held_sums in found},
    )


def spent(connection: Connection, run_ids: Iterable[str], site: str) -> tuple[tuple[PhaseEnergy, ...], int]:
    """Joules of the devices in some runs of the site, by phase, and how many examples were embedded for them."""
    by_phase: dict[Phase, list[PhaseEnergy]] = {}
    embedded = 0
    for run_id in run_ids:
        for this_round in reading.run_status(connection, run_id).rounds:
            for device in this_round.devices:
                embedded += device.embedded
                for record in device.energy:
                    by_phase.setdefault(record.phase, []).append(record)
    return tuple(_added(phase, by_phase[phase], site) for phase in Phase if phase in by_phase), embedded


def _added(phase: Phase, records: Sequence[PhaseEnergy], site: str) -> PhaseEnergy:
    known = [record.energy_j for record in records if record.energy_j is not None]
    bounds = [record.uncertainty_j for record in records if record.uncertainty_j is not None]
    return PhaseEnergy(
        phase=phase,
        energy_j=sum(known) if len(known) == len(records) else None,
        covered_s=sum(record.covered_s for record in records),
        uncovered_s=sum(record.uncovered_s for record in records),
        method=min((record.method for record in records), key=_WORST.index),
        sensor=f"site:{site}",
        uncertainty_j=sum(bounds) if len(bounds) == len(records) else None,
    )
