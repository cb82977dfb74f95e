"""A run as other programs take it: a row of named figures for each closed round, its settings, and how it ended."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.operator.status import DeviceStatus, RoundStatus, RunDetails, RunStatus
from coordinator.report.joules import JouleSum, work_of
from coordinator.results.straight_times import straight

__all__ = ["RoundFigures", "RunFigures", "figures_of"]


@dataclass(frozen=True)
class RoundFigures:
    """One closed round.

    Attributes:
        round: 0 is the head before any training.
        at_unix_s: when it closed.
        figures: by name, with units in the names; what is not known is not there.
    """

    round: int
    at_unix_s: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class RunFigures:
    """All that an export writes of one run.

    Attributes:
        run: with its rounds.
        details: its plan, and what happened.
        cards: what devices said of themselves, by name.
        rounds: closed ones, in order.
        moved_s: by so much its last times were moved on, since the clock went back while it went on.
    """

    run: RunStatus
    details: RunDetails
    cards: Mapping[str, DeviceStatus]
    rounds: tuple[RoundFigures, ...]
    moved_s: float = 0.0

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """Keys of the plan with dots between, and what names the run."""
        made: dict[str, str | int | float | bool] = dict(_flat(tomllib.loads(self.details.plan_toml)))
        version = self.details.software_version
        return made | {"plan_id": self.run.plan_id, "bundle_id": self.run.bundle_id, "edgejoule": version}


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value if isinstance(value, str | int | float) else str(value)


def figures_of(run: RunStatus, details: RunDetails, cards: Mapping[str, DeviceStatus]) -> RunFigures:
    """What to write of a run, out of what a coordinator says of it."""
    so_far, all_known, rounds = 0.0, True, []
    run, moved_s = straight(run)
    for this_round in run.rounds:
        spent = joules_of(this_round)
        so_far += spent.known_j
        all_known = all_known and not spent.unknown
        if this_round.state != "closed" or this_round.closed_unix_s is None:
            continue
        found: dict[str, float | None] = {
            this_round.measure.lower(): this_round.score,
            "loss": this_round.loss,
            **{f"rmse.{name}": value for name, value in this_round.rmse.items()},
        }
        if this_round.round:
            # What is known of joules is a bound from below where some devices said none.
            said = spent.known > 0
            found |= {
                "spent_j" if not spent.unknown else "spent_at_least_j": spent.known_j if said else None,
                "spent_so_far_j" if all_known else "spent_so_far_at_least_j": so_far if said else None,
                "spent_uncertainty_j": spent.uncertainty_j,
                "bytes_up": this_round.bytes_up,
                "bytes_down": this_round.bytes_down,
                "devices_asked": len(this_round.devices),
                "devices_accepted": sum(device.outcome == "accepted" for device in this_round.devices),
                "round_s": this_round.closed_unix_s - this_round.opened_unix_s,
            }
        figures = {name: float(value) for name, value in found.items() if value is not None}
        rounds.append(RoundFigures(this_round.round, this_round.closed_unix_s, figures))
    return RunFigures(run, details, cards, tuple(rounds), moved_s)


def joules_of(this_round: RoundStatus) -> JouleSum:
    """Joules of all devices of a round, idling left out."""
    spent = JouleSum()
    for device in this_round.devices:
        for record in work_of(device.energy):
            spent.add(record, device.device_id)
    return spent
