"""What a round costs each device of a fleet on this machine, measured before the run, and budgets made of that.

The joules of a simulated board follow the processor time of its program here. A budget that is fixed in joules would
cut every device short on a slow machine and none on a fast one; one that is so many times what was measured makes the
same story everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.operator.status import DeviceRound, RunStatus
from protos.energy.trace import Phase
from protos.errors import UsageError

# Of the work of a round. A shorter piece would be a few samples of a sensor.
SHARE = 0.25
# The first round warms engines and caches up; both count for the most, either for the least.
ROUNDS = 2
# Coding and sending vary more than training: a device keeps 1.2 times the most and half of the range back for them.
_SENDINGS = 2.0


@dataclass(frozen=True)
class Times:
    """A budget as so many times what the training of a round was measured to cost: less than once, the device itself;
    once or more, the dearest of all that have such a budget, so that what these have beside each other, and with it
    their say in the mean, does not depend on the machine."""

    of_training: float

    @property
    def is_scarce(self) -> bool:
        """Whether it pays for a part of a round alone."""
        return self.of_training < 1


Budget = float | Times | None


@dataclass(frozen=True)
class RoundCost:
    """Joules of a whole round of one device: the least and the most of training that the measured rounds amount to,
    and the most of coding and sending."""

    least_train_j: float
    most_train_j: float
    sending_j: float


def shortened(train: Mapping[str, float]) -> dict[str, Any]:
    """The keys of a plan's ``[train]`` for a measured round: ``SHARE`` of the work, one step at least."""
    if "steps" in train:
        return {**train, "steps": max(1, round(SHARE * train["steps"]))}
    return {**train, "epochs": SHARE * train.get("epochs", 1.0)}


def costs_of(status: RunStatus, names: Sequence[str]) -> dict[str, RoundCost]:
    """Costs by device, from a run of rounds with ``SHARE`` of the work. Whoever could not be metered is left out."""
    found: dict[str, RoundCost] = {}
    for name in names:
        mine = [device for status_of in status.rounds for device in status_of.devices if device.device_id == name]
        told = [cost for device in mine if (cost := _cost(device)) is not None]
        if told:
            trains = [train_j for train_j, _ in told]
            found[name] = RoundCost(min(trains), max(trains), max(sending_j for _, sending_j in told))
    return found


def resolved(budgets: Sequence[Budget], names: Sequence[str], costs: Mapping[str, RoundCost]) -> list[float | None]:
    """Budgets in joules: what training costs by the least that was measured where it is to be too little, by the most
    where it is to be enough, so that neither depends on a moment's load; and twice the sending, in two digits.

    Raises:
        UsageError: what the round of a device costs is not known, and its budget is a multiple of that.
    """
    for name, budget in zip(names, budgets, strict=True):
        if isinstance(budget, Times) and name not in costs:
            raise UsageError(
                f"what a round costs {name} could not be metered", where="--budget-j", fix="give joules, or none"
            )
    ample = [
        costs[name].most_train_j + _SENDINGS * costs[name].sending_j
        for name, budget in zip(names, budgets, strict=True)
        if isinstance(budget, Times) and not budget.is_scarce
    ]

    def joules(name: str, budget: Times) -> float:
        if not budget.is_scarce:
            return budget.of_training * max(ample)
        return budget.of_training * costs[name].least_train_j + _SENDINGS * costs[name].sending_j

    return [
        float(f"{joules(name, budget):.2g}") if isinstance(budget, Times) else budget
        for name, budget in zip(names, budgets, strict=True)
    ]


def _cost(device: DeviceRound) -> tuple[float, float] | None:
    """Joules of a whole round's training, and of its coding and sending; None when any is not known."""
    joules = {record.phase: record.energy_j for record in device.energy}
    train_j, encode_j, send_j = (joules.get(phase) for phase in (Phase.TRAIN, Phase.ENCODE, Phase.SEND))
    if device.outcome != "accepted" or not device.steps_done or train_j is None or encode_j is None or send_j is None:
        return None
    # A sensor whose zero is off may see a little less than nothing.
    return max(0.0, train_j) / device.steps_done * device.steps_planned / SHARE, max(0.0, encode_j) + max(0.0, send_j)
