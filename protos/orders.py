"""What is said between device and coordinator, as frozen values. :mod:`protos.convert` turns them into messages.

A *card* says who a device is, an *order* goes down, a *report* comes up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from protos.energy.trace import PhaseEnergy
from protos.statistics.coding import CodedMoments
from protos.statistics.features import FeatureMap
from protos.update.downlink import Difference
from protos.update.tensors import EncodedTensor

# Major: a peer with another number is refused. Minor: fields were added; older peers are served.
PROTOCOL = (1, 3)
# One part of a streamed message; the sweet spot of grpc.aio is 256 KiB to 1 MiB.
PART_BYTES = 256 * 1024
# Of a report larger than the first, what came before its call was cut is kept, in whole parts of the second: what a bad
# line loses of them is sent again.
RESUMES_BYTES = 128 * 1024
RESUMED_PART_BYTES = 32 * 1024
# What one report or order may weigh beyond its tensors: names, energy records, reasons.
ENVELOPE_BYTES = 64 * 1024


class StopReason(StrEnum):
    """Why a device stopped training. All of them are normal: what was trained is sent."""

    COMPLETED = "completed"
    BUDGET = "budget"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    HEAT = "heat"
    BUSY = "busy"


class Verdict(StrEnum):
    """What became of a report. ACCEPTED means: it is on disk."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Engine:
    """What runs the models. Engines differ in the last bit of int8 results, so each report names its own.

    Attributes:
        accelerator: on a card, what would run backbones that were compiled for it; in a report, what did run the
            backbone: ``edgetpu``, or empty for the CPU.
    """

    name: str
    version: str
    delegate: str
    accelerator: str = ""

    def __str__(self) -> str:
        kernels = f"{self.delegate}, {self.accelerator}" if self.accelerator else self.delegate
        return f"{self.name} {self.version} ({kernels})"


@dataclass(frozen=True)
class MeterCard:
    """What measures the joules: ``method`` is measured, estimated or unknown.

    Attributes:
        id: stands for all of it in reports, so that they need not name the sensor; 0 from a device that names it in
            each phase.
    """

    method: str
    sensor: str = ""
    calibration_id: str = ""
    quality: str = ""
    id: int = 0


@dataclass(frozen=True)
class DeviceCard:
    """Who a device is.

    Attributes:
        session: drawn anew by each start of the daemon, so that a restart is seen.
        budget_j: the most that the device will spend in a round, or None.
        reason: why it cannot train now, or what of its data it set aside; empty when there is nothing to say.
        declined_run: a run whose orders it cannot do, for that reason; empty when there is none.
        instance: names the state that it keeps, which no two devices share; empty from one that does not say.
        account: what became of its data, in one line: read, held out, set aside, left out, changed; empty from one that
            does not say, or has not looked.
    """

    device_id: str
    session: str
    software_version: str
    board: str
    engine: Engine
    meter: MeterCard
    train_examples: int
    test_examples: int
    budget_j: float | None = None
    reason: str = ""
    declined_run: str = ""
    instance: str = ""
    account: str = ""


@dataclass(frozen=True)
class SettledEnergy:
    """Energy that became known after the report of its round had left: that of sending, above all.

    Attributes:
        attempt: of the order that it was spent on, or None when that is not known.
        meter_id: of the meter of records without a sensor; 0 when there are none.
    """

    run_id: str
    round: int
    energy: tuple[PhaseEnergy, ...]
    attempt: int | None = None
    meter_id: int = 0


UPGRADE_STATES = ("none", "checked", "trial", "kept", "failed")
"""What a device may say of an upgrade: it was offered none; it has fetched and checked it, and installs it; the new
version is on trial; it stays; it does not."""


@dataclass(frozen=True)
class UpgradeOffer:
    """A signed wheel of the service, to fetch, to check, and to put on trial.

    Attributes:
        wheel: the file's name.
        sha256: of it, 32 bytes.
        trial_s: until the new version must have shown that it works.
    """

    upgrade_id: str
    wheel: str
    size_bytes: int
    sha256: bytes
    trial_s: float


@dataclass(frozen=True)
class UpgradeState:
    """What a device did with the upgrade of that id, empty before any: one of :data:`UPGRADE_STATES`, and why."""

    upgrade_id: str = ""
    state: str = "none"
    reason: str = ""


@dataclass(frozen=True)
class Holding:
    """What a device says of heads when it asks for an order.

    Attributes:
        head_version: the head that it holds, or "".
        rebuilds: it makes heads from that one, or from its bundle's starting head, and differences; a device that
            does not is sent whole heads.
        basis_version: the basis that it holds, or "".
        bundle_id: the bundle that it works with, or "".
        published: name of the publication that it has dealt with, or ""; None from a device that takes none.
        upgrade: what it did with the last upgrade that it was offered; None from a device that takes none.
    """

    head_version: str = ""
    rebuilds: bool = False
    basis_version: str = ""
    bundle_id: str = ""
    published: str | None = None
    upgrade: UpgradeState | None = None


@dataclass(frozen=True)
class HeadEvaluation:
    """How good a head is on the held-out examples of one device.

    Attributes:
        examples, correct: counts.
        loss: mean cross-entropy, nats.
        class_examples, class_correct: the counts by class.
    """

    head_version: str
    examples: int
    correct: int
    loss: float
    class_examples: tuple[int, ...] = ()
    class_correct: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.examples


@dataclass(frozen=True)
class Publication:
    """The head that a run ended with, on its way to the boards.

    Attributes:
        name: of the run.
        round: that it came of.
        head: whole, or empty when the reader holds ``base``, which is the head itself.
        accuracy, loss: on the coordinator's held-out data, or None.
        evaluate: the device is to say how good the head is on its own examples.
        signed: what the coordinator signed of it (:mod:`protos.trust.delegated`); empty where nobody let it.
    """

    run_id: str
    name: str
    bundle_id: str
    round: int
    head_version: str
    head: tuple[EncodedTensor, ...]
    base: str = ""
    accuracy: float | None = None
    loss: float | None = None
    evaluate: bool = False
    signed: bytes = b""

    @property
    def id(self) -> str:
        """What both ends call it."""
        return f"{self.run_id}/{self.head_version}"


@dataclass(frozen=True)
class Reception:
    """What a device did with a publication, in words; ``evaluation`` is None where it has no held-out examples."""

    publication: str
    adopted: bool
    reason: str
    evaluation: HeadEvaluation | None = None


@dataclass(frozen=True)
class CodecOrder:
    """Which codec the update is to travel in."""

    name: str
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class CostHint:
    """What the coordinator expects a device's work to cost, on the safe side; watts are the mean at work. What was
    never metered is 0.

    Attributes:
        sending_j: coding and sending the report.
    """

    embedding_j: float
    step_j: float
    sending_j: float
    work_w: float


@dataclass(frozen=True)
class BasisOrder:
    """Coordinates to train in; see :mod:`protos.statistics.whitening`.

    Attributes:
        version: of the content.
        tensors: the basis, or empty when the device holds it.
    """

    version: str
    tensors: tuple[EncodedTensor, ...] = ()


@dataclass(frozen=True)
class MaskOrder:
    """Changes are cut to the length ``clip``, put on one grid of ``bits``, and masked; see :mod:`protos.secure_sum`."""

    clip: float
    bits: int


@dataclass(frozen=True)
class RevealOrder:
    """What unmasks the sum over ``sent`` is to be revealed; ``missing`` agreed on masks and sent nothing."""

    run_id: str
    round: int
    attempt: int
    sent: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class MaskedChange:
    """A change under masks: whole numbers of ``width`` bits, little-endian, in the order of names."""

    width: int
    numbers: bytes


@dataclass(frozen=True)
class ControlOrder:
    """The coordinator's control variate of SCAFFOLD; see :mod:`protos.update.controls`.

    Attributes:
        version: of epoch and content.
        epoch: a device's own control counts only if it is of this one; else it is zero.
        tensors: of the head's shapes, or empty for zero.
    """

    version: str
    epoch: int
    tensors: tuple[EncodedTensor, ...] = ()


@dataclass(frozen=True)
class TrainOrder:
    """One round of work for one device.

    Attributes:
        head: the head to start from, whole, or empty when ``base`` is set; ``head_version`` names its content.
        steps: optimiser steps at most.
        inputs: inputs of the bundle's train signature by name; others keep the manifest's defaults.
        budget_j: joules for everything but idling, or None for no limit.
        deadline_s: seconds from the sending of the order until the round closes.
        base: version of a head that the device holds; ``differences`` lead from it to ``head_version``.
        costs: None from a coordinator that does not say.
        attempt: at this round, from 1: an order of a further attempt is a new one. None from an older coordinator.
        statistics: what to sum of all training examples; no step is asked for then, and no head is sent.
        basis: the update is made and sent in these coordinates.
        mask: the change is sent masked; the codec does not count.
        control: each gradient is corrected by this less the device's own control.
        evaluate: the head to start from is to be evaluated on the device's own held-out examples.
    """

    run_id: str
    round: int
    plan_id: str
    bundle_id: str
    head_version: str
    head: tuple[EncodedTensor, ...]
    steps: int
    inputs: Mapping[str, float]
    codec: CodecOrder
    budget_j: float | None
    deadline_s: float
    seed: int
    base: str = ""
    differences: tuple[Difference, ...] = ()
    costs: CostHint | None = None
    attempt: int | None = None
    statistics: FeatureMap | None = None
    basis: BasisOrder | None = None
    mask: MaskOrder | None = None
    control: ControlOrder | None = None
    evaluate: bool = False


@dataclass(frozen=True)
class WaitOrder:
    """Nothing to do: come again after ``retry_after_s``. ``publication`` is a head to take to work, or None;
    ``upgrade`` a version of the service; ``watts``: somebody looks at the power of this device."""

    retry_after_s: float
    reason: str
    publication: Publication | None = None
    upgrade: UpgradeOffer | None = None
    watts: bool = False


@dataclass(frozen=True)
class RejoinOrder:
    """The coordinator does not know this session: join first."""


Order = TrainOrder | WaitOrder | RejoinOrder | RevealOrder


@dataclass(frozen=True)
class Strain:
    """What a device had to bear in one round. Pauses lie between two steps; what they cost is idle energy.

    Attributes:
        heat_s: seconds paused because the board was too hot.
        busy_s: seconds paused because other programs needed the processor.
        hottest_c: highest temperature of the processor that was seen, or None.
        throttled: its clock was held down while it worked: joules per step of this round are not typical.
        under_voltage: the supply sagged while it worked; the same holds.
    """

    heat_s: float = 0.0
    busy_s: float = 0.0
    hottest_c: float | None = None
    throttled: bool = False
    under_voltage: bool = False

    @property
    def typical(self) -> bool:
        """Whether the work cost what it usually does."""
        return not (self.throttled or self.under_voltage)


@dataclass(frozen=True)
class DeviceReport:
    """What a device did in one round.

    Attributes:
        update: trained head minus received head, encoded.
        local_normaliser: FedNova's ||a||_1 of the steps done (Wang et al., NeurIPS 2020); 0 when no step was done.
        energy: by phase; sending is not in it and follows as :class:`SettledEnergy`.
        embedded: examples embedded in this round; the rest came from the cache.
        train_s: seconds of training, pauses left out.
        strain: None from a device that does not look.
        attempt: of the order that it answers, or None from a device that does not say.
        meter_id: of the meter of phases without a sensor; 0 when there are none.
        statistics: when the order asked for them.
        basis_version: of the coordinates of the update; empty for those of the head.
        masked: instead of the update, when the order asked for it.
        control_version: of the control that corrected its gradients; empty for none.
        control_held: it had a control of its own to go with it.
        evaluation: of the head that it started from, where the order asked for it and there are held-out examples.
    """

    run_id: str
    round: int
    device_id: str
    plan_id: str
    bundle_id: str
    head_version: str
    steps_planned: int
    steps_done: int
    examples: int
    local_normaliser: float
    stop_reason: StopReason
    loss_first: float | None
    loss_last: float | None
    engine: Engine
    energy: tuple[PhaseEnergy, ...]
    update: tuple[EncodedTensor, ...]
    embedded: int
    train_s: float
    strain: Strain | None = None
    attempt: int | None = None
    meter_id: int = 0
    statistics: CodedMoments | None = None
    basis_version: str = ""
    masked: MaskedChange | None = None
    control_version: str = ""
    control_held: bool = False
    evaluation: HeadEvaluation | None = None


@dataclass(frozen=True)
class Receipt:
    """The coordinator's answer to a report.

    Attributes:
        attempt: that the report said, or None.
    """

    verdict: Verdict
    reason: str = ""
    attempt: int | None = None
