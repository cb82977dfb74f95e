"""The sections of a plan: every key once, with its type, its limits and its default.

A key with numbers for limits says them with :func:`within`; the type of every other key is its annotation. What
two keys may not say together is in :mod:`protos.plan.contradictions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protos.plan.plan_rules import Rule, rules_of, within
from protos.update.codecs import DEFAULT_CODEC

WEIGHTS = ("by_examples", "by_budget")
NORMALISATIONS = ("fednova", "none")
POLICIES = ("none", "joules", "on_demand")
PARTICIPATIONS = ("known", "fedau")
SERVERS = ("mean", "momentum", "adam", "yogi")
ROBUST = ("mean", "multi_krum", "geometric_median", "centred_clipping", "median", "trimmed_mean")
# What is done about devices whose own data pull them apart. FedProx is `proximal_mu`.
CORRECTIONS = ("none", "scaffold")
DELIVERIES = ("last", "best", "none")
METHODS = ("sgd", "closed_form", "closed_form+sgd")
HEADS = ("lda", "ridge")
PRIORS = ("data", "uniform")
CHOICES = ("held_out", "devices")


@dataclass(frozen=True)
class RunSection:
    """[run] What is trained, and for how long.

    Attributes:
        start_from: a run, whose newest head is meant, a head, or a file HEAD.npz; None: the bundle's.
        beside: it begins at once, whatever else is on, and shares the devices; else it waits for its turn.
        priority: a run of a higher one goes first, in the queue and at the devices.
        share: of runs of one priority, how much of the devices' orders it gets beside the others.
        deliver: the head that boards get to work with when the run has finished: its "last", the "best" evaluated one,
            or "none".
        schedule: it starts by itself, each time anew: "daily 02:00", "mon,thu 02:00 Europe/Berlin"; None: at once.
        every: the same, so far apart: "6h".
    """

    bundle: str
    name: str = "run"
    rounds: int = within(1, 100_000, default=10)
    seed: int = within(0, 2**63 - 1, default=0)
    start_from: str | None = None
    beside: bool = False
    priority: int = within(-100, 100, default=0)
    share: float = within(0.001, 1000.0, default=1.0)
    deliver: str = "last"
    schedule: str | None = None
    every: str | None = None


@dataclass(frozen=True)
class RoundSection:
    """[round] When a round opens and closes.

    Attributes:
        devices: devices that must be present before round 1 opens.
        quorum: share of the ordered devices whose reports make a round, 0 to 1.
        deadline_s: a round closes then with a quorum, and is abandoned without.
        sample: how many of the devices that are present are asked, drawn alike; None: all.
        enough: share of those whose reports close the round at once, the quorum to 1; who is slower comes late.
        late: a report that comes up to so many rounds late counts in the round that is open then; 0: it does not.
        buffer: a round closes with so many reports, of whichever round, and leaves whoever is at work at work (FedBuff,
            Nguyen et al., AISTATS 2022); None: rounds close with those whom they asked.
    """

    devices: int = within(1, 1_000_000, default=1)
    quorum: float = within(0.0, 1.0, default=0.5)
    deadline_s: float = within(0.001, 1e7, default=600.0)
    sample: int | None = within(1, 1_000_000, default=None)
    enough: float = within(0.0, 1.0, default=1.0)
    late: int = within(0, 1000, default=0)
    buffer: int | None = within(1, 1_000_000, default=None)


@dataclass(frozen=True)
class TrainSection:
    """[train] What a device does with its data. Just one of epochs and steps counts.

    Attributes:
        method: "sgd"; "closed_form", no step at all: devices send statistics, and the coordinator solves;
            "closed_form+sgd", steps from there.
        epochs: passes over the device's own training examples.
        steps: optimiser steps, the same on each device.
        rate_decay: factor on ``rate`` from each round of steps to the next.
        correction: of each gradient: "none", or "scaffold", by control variates (:mod:`protos.update.controls`); None:
            see :attr:`RunPlan.correction`.
        inputs: further inputs of the bundle's train signature, by name.
    """

    epochs: float | None = within(0.001, 100_000, default=None)
    steps: int | None = within(1, 10_000_000, default=None)
    rate: float = within(1e-9, 1e3, default=0.05)
    momentum: float = within(0.0, 0.999, default=0.0)
    proximal_mu: float = within(0.0, 1e6, default=0.0)
    inputs: Mapping[str, float] = field(default_factory=dict)
    method: str = "sgd"
    rate_decay: float = within(0.01, 1.0, default=1.0)
    correction: str | None = None


@dataclass(frozen=True)
class ClosedFormSection:
    """[closed_form] How a head is solved for from statistics; see :mod:`coordinator.learning.closed_form`.

    Attributes:
        head: "lda", Gaussians with one covariance; "ridge", least squares.
        priors: of the classes: "data", as frequent as they are, or "uniform".
        shrinkage: of the covariance; None: it is chosen.
        choose: by what: "held_out", the accuracy on held-out data, where there are any; or "devices", leaving out
            some, from the same statistics.
        project: embeddings are projected to so many numbers before they are summed; 0: they are not.
        add_to: id of an earlier run of the same bundle, whose statistics count as well; only devices that it does not
            hold are asked.
    """

    head: str = "lda"
    priors: str = "data"
    shrinkage: float | None = within(1e-9, 1e6, default=None)
    project: int = within(0, 4096, default=0)
    add_to: str | None = None
    choose: str = "held_out"


@dataclass(frozen=True)
class UpdateSection:
    """[update] How changes travel."""

    codec: str = DEFAULT_CODEC
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DownlinkSection:
    """[downlink] How heads travel: as coded differences, or whole ("float32")."""

    codec: str = DEFAULT_CODEC
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregateSection:
    """[aggregate] How much say each device has.

    Attributes:
        weight: factors of a device's weight, multiplied.
        normalise: "fednova" removes the pull of devices that made more steps (Wang et al., NeurIPS 2020).
        server_rate: factor on the mean change, or on what ``server`` makes of it.
        server: what becomes of the mean of changes: "mean", itself; "momentum" (FedAvgM); "adam" (FedAdam); "yogi"
            (FedYogi). See :mod:`coordinator.aggregate.server_optimisers`.
        server_momentum, server_second, server_tau: beta, beta2 and tau of these.
        rule: how the changes of a round become one; see :mod:`coordinator.aggregate.robust`.
        clip: changes are cut to so many times the round's median size; 0: they are not.
        mix: 1: each change is first replaced by the mean of those nearest to it.
        malicious: share of the reports that may be false.
        weight_cap: no weight counts more than so many times the median; None: as it is.
        staleness: a report that is s rounds late weighs (1 + s)^-staleness times what it would have.
    """

    weight: tuple[str, ...] = WEIGHTS
    normalise: str = "fednova"
    server_rate: float = within(1e-6, 100.0, default=1.0)
    server: str = "mean"
    server_momentum: float = within(0.0, 0.999, default=0.9)
    server_second: float = within(0.0, 0.9999, default=0.99)
    server_tau: float = within(1e-9, 1.0, default=1e-3)
    rule: str = "mean"
    clip: float = within(0.0, 100.0, default=0.0)
    mix: int = within(0, 1, default=0)
    malicious: float = within(0.0, 0.45, default=0.1)
    weight_cap: float | None = within(1.0, 1e6, default=None)
    staleness: float = within(-1.0, 10.0, default=0.5)

    @property
    def gathers(self) -> bool:
        """Whether all changes of a round are held until it closes."""
        return self.resists or self.weight_cap is not None

    @property
    def resists(self) -> bool:
        """Whether anything is done against false changes."""
        return self.rule != "mean" or self.clip > 0 or self.mix > 0


@dataclass(frozen=True)
class BudgetSection:
    """[budget] Joules that devices may spend, idling left out; None is no limit. Several limits all hold.

    Attributes:
        per_round_j: on one round, for every device that has no line of its own.
        device: device id to joules a round.
        per_day_j: of one device, from midnight to midnight UTC.
        total_j: of one device, on this run and all others that the coordinator has in its books.
        battery_j: of a full battery; ``battery_share`` of it may go into the run.
        harvest: a table of watts over a day; ``harvest_share`` of them may be spent.
        scale: device id to a factor on ``per_day_j``, ``total_j``, ``battery_j`` and the harvest; 1 for others.
        fleet_j: of all devices together, on the whole run.
    """

    per_round_j: float | None = within(1e-6, 1e9, default=None)
    device: Mapping[str, float] = field(default_factory=dict)
    per_day_j: float | None = within(1e-6, 1e9, default=None)
    battery_j: float | None = within(1e-6, 1e9, default=None)
    battery_share: float = within(0.001, 1.0, default=1.0)
    harvest: str | None = None
    harvest_share: float = within(0.001, 1.0, default=1.0)
    scale: Mapping[str, float] = field(default_factory=dict)
    fleet_j: float | None = within(1e-6, 1e12, default=None)
    total_j: float | None = within(1e-6, 1e12, default=None)

    def of(self, device_id: str) -> float | None:
        """Joules that one device may spend on one round, or None."""
        return self.device.get(device_id, self.per_round_j)

    @property
    def has_accounts(self) -> bool:
        """Whether there is a limit on more than one round."""
        limits = (self.per_day_j, self.total_j, self.battery_j, self.harvest, self.fleet_j)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True)
class PlannerSection:
    """[planner] Who takes part in a round, with how many steps, in how many bits.

    Attributes:
        policy: "none" asks everyone for what [train] and [update] say; "joules" spends the budgets where they buy the
            most; "on_demand" takes the fewest bits whose error is at most ``error_bound``.
        p_min: no device is asked with a smaller probability, so that no weight is larger than 1 / p_min.
        error_bound: of one coding, E ||decoded - x||^2 / ||x||^2.
        participation: what stands for p in the weights: "known", or "fedau", estimated from who took part.
    """

    policy: str = "none"
    p_min: float = within(0.001, 1.0, default=0.05)
    error_bound: float = within(1e-5, 100.0, default=0.1)
    participation: str = "known"


@dataclass(frozen=True)
class PrivacySection:
    """[privacy] How much one device can move the head, and noise that hides it; see
    :mod:`coordinator.aggregate.privacy`.

    Attributes:
        clip: length to which each device's change is cut, over all tensors; None: it is not.
        noise: standard deviation on the sum of changes, over ``clip``; None: none.
        epsilon: what may be spent on each device in this run; it is not asked again after that.
        delta: of (epsilon, delta).
        masked: 1: devices mask their changes, and the coordinator sees sums alone; see :mod:`protos.secure_sum`.
        bits: of a coordinate on the grid of masked changes.
    """

    clip: float | None = within(1e-6, 1e6, default=None)
    noise: float | None = within(0.01, 1e3, default=None)
    epsilon: float | None = within(0.01, 100.0, default=None)
    delta: float = within(1e-12, 0.1, default=1e-5)
    masked: int = within(0, 1, default=0)
    bits: int = within(4, 24, default=16)


@dataclass(frozen=True)
class EvaluateSection:
    """[evaluate] Held-out data on the coordinator: an .npz, idx pair or folder; its test part where it has one.

    Attributes:
        patience: rounds in a row whose accuracy may lie below the best by more than chance; the run ends after them.
            0: it never ends early.
        until: the run ends when the measure of its heads, accuracy, R2 or AUC, is at least this; None: it goes on.
        until_j: no further round opens when the run's devices have spent so many joules together; None: it goes on.
    """

    data: str | None = None
    patience: int = within(0, 100_000, default=3)
    until: float | None = within(-1e6, 1.0, default=None)
    until_j: float | None = within(1e-6, 1e12, default=None)


SECTIONS: dict[str, type] = {
    "run": RunSection,
    "round": RoundSection,
    "train": TrainSection,
    "update": UpdateSection,
    "downlink": DownlinkSection,
    "aggregate": AggregateSection,
    "budget": BudgetSection,
    "planner": PlannerSection,
    "evaluate": EvaluateSection,
    "closed_form": ClosedFormSection,
    "privacy": PrivacySection,
}
# Section -> key -> what its value may be.
RULES: dict[str, dict[str, Rule]] = {name: rules_of(section) for name, section in SECTIONS.items()}
