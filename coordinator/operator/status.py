"""What an operator is shown, as frozen values: runs, rounds, devices. An unknown figure is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import Engine, MeterCard, StopReason, Strain


@dataclass(frozen=True)
class Refusal:
    """Reports of one device and round that were refused for one reason: a key of
    :data:`coordinator.run.reports.reasons.REASONS`, how often, and what was said of the last one."""

    code: str
    count: int
    detail: str


@dataclass(frozen=True)
class DeviceRound:
    """What one device did in one round.

    Attributes:
        outcome: ordered, accepted, late, rejected or missing.
        weight: share of the round's mean, 0 to 1.
        bytes_up: serialised reports, received.
        bytes_down: serialised orders, sent.
        strain: pauses, heat and voltage; None where the device did not say.
        counted_in: the later round that its report counts in, and ``weight`` is a share of; None: this one.
        refusals: reports that were refused, by reason.
    """

    device_id: str
    outcome: str
    steps_planned: int
    steps_done: int
    stop_reason: StopReason | None
    budget_j: float | None
    weight: float
    bytes_up: int
    bytes_down: int
    energy: tuple[PhaseEnergy, ...]
    examples: int
    loss: float | None
    embedded: int
    strain: Strain | None = None
    counted_in: int | None = None
    refusals: tuple[Refusal, ...] = ()

    @property
    def spent_j(self) -> float | None:
        """Joules of all phases but idling; None when one is not known or nothing was reported."""
        known = [record.energy_j for record in self.energy if record.phase is not Phase.IDLE]
        return sum(j for j in known if j is not None) if known and None not in known else None


@dataclass(frozen=True)
class WeightBias:
    """How far the say that devices have in a round, in expectation, is from another.

    Attributes:
        from_plan: total variation to the weights of the plan, 0 to 1; 0 when the round is unbiased.
        from_plan_ratio: the largest ratio of two shares; None when somebody has no say.
        from_examples: the same, to weights by examples alone: what the plan itself prefers.
        left_out: devices that could not be asked.
    """

    from_plan: float
    from_plan_ratio: float | None
    from_examples: float
    from_examples_ratio: float | None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceBudget:
    """Joules of one device in one run, idling left out; see :mod:`coordinator.store.ledger.accounts`.

    Attributes:
        price: of each kind of work, by name, as fitted; empty before anything was metered.
        deviation: their standard deviations.
        fitted_rounds: rounds that the fit has seen.
    """

    device_id: str
    orders: int
    granted_j: float
    spent_j: float
    uncertain_j: float
    today_j: float
    unlimited: int
    price: Mapping[str, float]
    deviation: Mapping[str, float]
    fitted_rounds: int


@dataclass(frozen=True)
class FederatedEvaluation:
    """How good a head is on the held-out examples of the devices, weighted by their counts.

    Attributes:
        devices: that have such examples and looked.
        examples, correct: counts over all of them.
        loss: mean cross-entropy over all examples, nats.
        class_examples, class_correct: the counts by class.
        adopted, kept: devices that took the head to work with, and that kept what they had.
    """

    devices: int
    examples: int
    correct: int
    loss: float
    class_examples: tuple[int, ...] = ()
    class_correct: tuple[int, ...] = ()
    adopted: int = 0
    kept: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where there were no examples."""
        return self.correct / self.examples if self.examples else None


@dataclass(frozen=True)
class RoundStatus:
    """One round; round 0 is the head before any training. ``head_version`` is the head after it.

    Attributes:
        accuracy: on held-out data, 0..1; None where nobody looked, or the head is no classifier.
        loss: mean cross-entropy; of a regression the mean squared error over all quantities, in their own units; of
            an anomaly head the mean score of normal examples.
        bias: of the weights; None where nobody was asked.
        federated: what devices say of the head after the round; None where none did.
        r2: explained share of the variance of a regression's quantities, their mean; at most 1.
        rmse: root mean squared error of each of them, in its own unit.
        auc: of an anomaly head: the chance that an anomaly scores higher than a normal example.
    """

    round: int
    state: str
    accuracy: float | None
    loss: float | None
    devices: tuple[DeviceRound, ...]
    opened_unix_s: float
    closed_unix_s: float | None
    head_version: str
    bias: WeightBias | None = None
    federated: FederatedEvaluation | None = None
    r2: float | None = None
    rmse: Mapping[str, float] = field(default_factory=dict)
    auc: float | None = None

    @property
    def score(self) -> float | None:
        """What heads are ranked by: the more the better."""
        return next((value for value in (self.accuracy, self.r2, self.auc) if value is not None), None)

    @property
    def measure(self) -> str:
        """The name of `score`."""
        return "AUC" if self.auc is not None else "R2" if self.r2 is not None else "accuracy"

    @property
    def bytes_up(self) -> int:
        return sum(device.bytes_up for device in self.devices)

    @property
    def bytes_down(self) -> int:
        return sum(device.bytes_down for device in self.devices)


@dataclass(frozen=True)
class PrivacySpent:
    """What a run with noise has spent on the device that it has asked most often.

    Attributes:
        epsilon: spent, at ``delta``; infinite where nothing is private.
        limit: of the plan.
        rounds: in which that device took part.
    """

    epsilon: float
    delta: float
    limit: float
    rounds: int


@dataclass(frozen=True)
class RunStatus:
    """One run. ``state`` is waiting, running, paused, finished, stopped or failed, or "scheduled" of a plan that starts
    runs at its times and is none itself; ``reason`` says why, in words; ``privacy`` is None for a run without noise."""

    run_id: str
    name: str
    state: str
    reason: str
    plan_id: str
    bundle_id: str
    rounds_planned: int
    rounds: tuple[RoundStatus, ...]
    started_unix_s: float
    finished_unix_s: float | None
    privacy: PrivacySpent | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "stopped", "failed")

    @property
    def is_on(self) -> bool:
        """Whether there is a run, and it is not over."""
        return not self.is_over and self.state != "scheduled"

    def because(self, reason: str) -> RunStatus:
        """The same with another reason."""
        return replace(self, reason=reason)


@dataclass(frozen=True)
class RunEvent:
    """Something that happened to a run, in words; ``round`` is None where it is of the run as a whole."""

    round: int | None
    unix_s: float
    kind: str
    detail: str


@dataclass(frozen=True)
class RunDetails:
    """What a run was made of, and what happened to it.

    Attributes:
        plan_toml: the plan as it was given; of a run that went on by another plan, that one. Empty where the
            coordinator is too old to say.
        plan_directory: what relative paths in it are relative to, on the coordinator.
        events: in the order in which they happened.
        software_version: of the coordinator that answered.
    """

    plan_toml: str
    plan_directory: str
    events: tuple[RunEvent, ...]
    software_version: str


@dataclass(frozen=True)
class DeviceStatus:
    """One device. ``energy_j`` is all that was reported and known; ``unknown_phases`` counts what was not known;
    ``reason`` says what is wrong with it, and is empty when nothing is; ``account`` what became of its data."""

    device_id: str
    state: str
    board: str
    engine: Engine
    meter: MeterCard
    software_version: str
    train_examples: int
    test_examples: int
    last_seen_unix_s: float
    energy_j: float | None
    unknown_phases: int
    budget_j: float | None
    reason: str = ""
    account: str = ""


@dataclass(frozen=True)
class Measured:
    """The float head on the integer backbone, and the exported model, on the same examples.

    Attributes:
        measure: R2 or AUC.
        float_score, exported_score: it; None where the examples cannot tell.
        float_rmse, exported_rmse: by quantity, in its unit; empty for anomalies.
    """

    measure: str
    float_score: float | None
    exported_score: float | None
    float_rmse: Mapping[str, float]
    exported_rmse: Mapping[str, float]


@dataclass(frozen=True)
class ExportSummary:
    """An assembled model; accuracies are on the run's held-out data, or None when it has none. ``note`` is what a
    reader must know of them, or empty. ``measured``: the figures of a head that is no classifier."""

    size_bytes: int
    sha256: bytes
    head_version: str
    float_accuracy: float | None
    exported_accuracy: float | None
    operators: tuple[str, ...]
    note: str = ""
    measured: Measured | None = None


@dataclass(frozen=True)
class RoundedHead:
    """How good a head is with its kernels on ``2^bits`` evenly spaced levels; 32 bits: as it is.

    Attributes:
        ranges: "minmax" or "mse", see :mod:`protos.model.head_kinds.weight_grids`.
        granularity: one range for a "tensor", or for each "channel".
        accuracy, loss: on the run's held-out data.
        size_bytes: of codes, ranges and biases.
    """

    bits: int
    ranges: str
    granularity: str
    accuracy: float
    loss: float
    size_bytes: int


@dataclass(frozen=True)
class HeadEvaluation:
    """A head of a run at several widths."""

    run_id: str
    head_version: str
    examples: int
    heads: tuple[RoundedHead, ...]


@dataclass(frozen=True)
class ForgottenDevice:
    """A run without one of its devices.

    Attributes:
        head_version: of the head without the device.
        devices, examples: that are left.
        accuracy: of that head on held-out data, or None.
        also_in: other runs whose heads were made with the device.
    """

    run_id: str
    head_version: str
    devices: int
    examples: int
    accuracy: float | None
    also_in: tuple[str, ...]
