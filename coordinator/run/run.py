"""The run that is on: what the coordinator keeps of it in memory. All of it can be made anew from the store."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from coordinator.aggregate.controls import Controls
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.unbiased import Whole
from coordinator.run.downlink import Downlink, SentHead
from coordinator.run.evaluation import Evaluator
from coordinator.run.last_changes import LastChanges
from coordinator.run.planning import correction_of, seed_for
from coordinator.run.reports.aggregation import Corrections, Fold, Population
from coordinator.run.reports.masked_fold import MaskedFold
from coordinator.run.reports.masking import Masking
from coordinator.run.reports.statistics_fold import StatisticsFold, decoded, features_of
from coordinator.run.reports.validation import Expected, RejectedError, check, check_claims
from coordinator.run.rounds.roster import Roster, in_short
from coordinator.run.rounds.round_events import State
from coordinator.run.rounds.round_machine import RoundMachine
from coordinator.store.models.statistics import Held
from protos.errors import UpdateError
from protos.model.bundle import Bundle
from protos.model.task import CLASSIFICATION
from protos.normaliser import of_optimiser
from protos.orders import ENVELOPE_BYTES, BasisOrder, CodecOrder, DeviceReport, Holding, MaskOrder, TrainOrder
from protos.plan.plan import RunPlan
from protos.secure_sum.grid import MaskedWords, flat_size, from_bytes, width_of
from protos.statistics.coding import most_bytes
from protos.statistics.features import FeatureMap
from protos.statistics.moments import Moments
from protos.statistics.whitening import Basis
from protos.update import tensors
from protos.update.trees import Shapes, Tree


def report_limit(plan: RunPlan, shapes: Shapes, summed_width: Callable[[int], int] = int) -> int:
    """The most bytes that an honest report of a run of this plan has.

    Args:
        shapes: of the head.
        summed_width: see :meth:`protos.model.manifest.Manifest.summed_width`.
    """
    update = 4 * sum(math.prod(shape) for shape in shapes.values())
    if plan.train.method == "sgd":
        return update + ENVELOPE_BYTES
    # Of an anomaly or a regression head that is more than it sums: one class in place of K.
    width, classes = shapes["out_kernel"]
    return max(update, most_bytes(classes, summed_width(plan.closed_form.project or width))) + ENVELOPE_BYTES


def check_statistics(report: DeviceReport, expected: Expected, bundle: Bundle, features: FeatureMap) -> Moments:
    """The sums of a report that answers an order of statistics.

    Raises:
        RejectedError: for the first thing that is not as it must be.
    """
    check_claims(report, expected)
    if report.statistics is None:
        raise RejectedError("bad_statistics", "no statistics; install the coordinator's release on the device")
    if report.update:
        raise RejectedError("bad_update", "statistics, and an update that nobody asked for")
    try:
        moments = decoded(report.statistics, bundle, features)
    except UpdateError as error:
        raise RejectedError("bad_statistics", f"statistics refused: {error}") from error
    if moments.examples != report.examples:
        raise RejectedError("bad_statistics", f"sums of {moments.examples} examples, and {report.examples} are said")
    return moments


def hides_examples(plan: RunPlan) -> bool:
    """Whether a plan promises that nothing but the noisy or masked sum of changes is seen of a device."""
    return plan.privacy.noise is not None or bool(plan.privacy.masked)


def check_masked(report: DeviceReport, expected: Expected, plan: RunPlan, masking: Masking | None) -> MaskedWords:
    """Width and words of a masked report. Nothing of what is under the masks can be looked at.

    Args:
        masking: with whom its device must have agreed on masks; None: that was looked at before.

    Raises:
        RejectedError: for the first thing that is not as it must be.
    """
    check_claims(report, expected)
    masked = report.masked
    if masked is None or report.update or report.statistics is not None:
        raise RejectedError("bad_update", "the order says that changes are masked, and this one is not")
    try:
        words = from_bytes(masked.numbers, masked.width, flat_size(expected.shapes))
    except UpdateError as error:
        raise RejectedError("bad_update", f"update refused: {error}") from error
    if masking is not None:
        group = masking.group(report.round, report.attempt or 1)
        if group is None or report.device_id not in group.present:
            raise RejectedError("not_ordered", f"has agreed on no masks in attempt {report.attempt}")
        if masked.width != width_of(plan.privacy.bits, len(group.roster)):
            raise RejectedError(
                "bad_update", f"numbers of {masked.width} bits are not those of {len(group.roster)} devices"
            )
    return masked.width, words


@dataclass(frozen=True)
class LateOrder:
    """An order of a round that has closed.

    Attributes:
        head_version: the head that was trained from.
        attempt: the newest of its round.
        whole: whom its round spoke for, where devices were drawn; else None.
    """

    round: int
    line: OrderLine
    head_version: str
    attempt: int
    whole: Whole | None = None


@dataclass
class ActiveRun:
    """One run in progress.

    Attributes:
        head: the newest head; ``lines`` and ``fold`` are of the open round.
        downlink: what devices hold of it, from which they train.
        basis: coordinates in which they train, once statistics gave them; None: those of the head.
        server: the state of the server optimiser after the last round; None before any, or without a state.
        refused: devices whose report of the open round was not taken.
        in_flight: devices whose report is being written.
        sessions: to which start of each device its order belongs; "" when it left, None when that is not known.
        handed: devices whose start of today got its order of this round, at any attempt.
        charged: devices for which it was made sure, in this attempt, of what their orders grant.
        opened_here: this process opened the round, and so knows of every order that was handed out.
        sent: bytes of orders sent since they were last written down, by device.
        sent_unsure: those that went into a transaction whose end is not known.
        ready: set while the orders of the open round are on disk.
        recent: the last change of each device on disk, as far as a round was planned that guesses from it.
        resting: why no round opens although devices are present, or "".
        trouble: why the run cannot go on just now, or "".
        said: how its head was solved for, in words, or "".
        masking: who masks changes with whom; None where nobody does.
    """

    run_id: str
    name: str
    plan: RunPlan
    bundle: Bundle
    inputs: Mapping[str, float]
    machine: RoundMachine
    roster: Roster
    head: Tree
    downlink: Downlink
    evaluator: Evaluator | None
    lines: dict[str, OrderLine]
    fold: Fold | StatisticsFold
    recent: LastChanges
    basis: Basis | None = None
    server: Tree | None = None
    refused: set[str] = field(default_factory=set)
    sessions: dict[str, str | None] = field(default_factory=dict)
    handed: set[str] = field(default_factory=set)
    charged: set[str] = field(default_factory=set)
    opened_here: bool = False
    in_flight: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    sent_unsure: Counter[str] = field(default_factory=Counter)
    resting: str = ""
    trouble: str = ""
    said: str = ""
    masking: Masking | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def move_head(self, head: Tree, downlink: Downlink) -> None:
        """Take a new head, and what devices will hold of it."""
        self.head, self.downlink = head, downlink

    @property
    def report_limit_bytes(self) -> int:
        """The most that an honest report weighs."""
        return report_limit(self.plan, self.bundle.manifest.head.shapes(), self.bundle.manifest.summed_width)

    def asks_statistics(self, number: int) -> bool:
        """Whether round ``number`` gathers statistics, not changes of the head."""
        method = self.plan.train.method
        return method == "closed_form" or (method == "closed_form+sgd" and number == 1)

    @property
    def forgets_reports(self) -> bool:
        """Whether the bytes of reports are of no use once their round is settled: planners guess from them, and
        statistics are added up anew each round."""
        planner = self.plan.planner
        return self.plan.train.method == "sgd" and planner.policy == "none" and planner.participation == "known"

    def normaliser_of(self, steps: int, number: int) -> float:
        """FedNova's ``|a|_1`` after so many steps of round ``number``."""
        spec = self.bundle.manifest.head
        return of_optimiser(spec.optimiser, steps, self.all_inputs(number))

    @cached_property
    def plan_id(self) -> str:
        """The plan's, worked out once."""
        return self.plan.plan_id

    @cached_property
    def _shapes(self) -> Shapes:
        return self.bundle.manifest.head.shapes()

    def inputs_at(self, number: int) -> dict[str, float]:
        """What orders of round ``number`` tell the train signature."""
        first = 2 if self.plan.train.method == "closed_form+sgd" else 1
        inputs = dict(self.inputs)
        if "rate" in inputs:
            inputs["rate"] *= self.plan.train.rate_decay ** max(0, number - first)
        return inputs

    def all_inputs(self, number: int) -> dict[str, float]:
        """Every input of the train signature in round ``number``, defaults included."""
        return {tensor.name: tensor.default for tensor in self.bundle.manifest.head.inputs} | self.inputs_at(number)

    @cached_property
    def corrects(self) -> bool:
        """Whether steps are corrected by control variates."""
        return correction_of(self.plan, self.bundle.manifest) == "scaffold"

    def controls(self) -> Controls | None:
        """Those that orders of the open round carry; None without any."""
        return Controls.kept(self.server, self._shapes) if self.corrects else None

    def may_have_begun(self, device_id: str) -> bool:
        """Whether a start of this device may have worked on its order of the open round."""
        return device_id in self.handed or not self.opened_here

    def is_of_another_start(self, device_id: str, session: str) -> bool:
        """Whether the order that this device has not answered belongs to an earlier start of it."""
        owed = self.ready.is_set() and self.machine.owes(device_id) and device_id in self.lines
        # Who was left out, or whose report was refused, gets none in this attempt.
        owed = owed and device_id not in self.refused
        return owed and self.sessions.get(device_id) not in (None, session)

    def is_asked_again(self, device_id: str) -> bool:
        """Whether the order that this device has not answered is of a further attempt, with a limit: what it grants is
        known for sure when the device asks, since it tells before what it did until then."""
        owed = self.ready.is_set() and self.machine.owes(device_id) and device_id not in self.refused
        line = self.lines.get(device_id) if owed and self.machine.attempt > 1 else None
        return line is not None and line.budget_j is not None

    def order_for(self, device_id: str, now_s: float, holding: Holding) -> TrainOrder | None:
        """The order that this device has not answered yet: the same, however often it asks, but for the way in which
        the head travels, which is by what the device holds."""
        line = self.lines.get(device_id)
        if line is None or not self.ready.is_set() or not self.machine.owes(device_id) or device_id in self.refused:
            return None
        sums = self.asks_statistics(self.machine.round)
        controls = self.controls()
        # Sums need no head: its name is enough.
        sent = SentHead(self.downlink.version, base=self.downlink.version) if sums else self.downlink.head_for(holding)
        return TrainOrder(
            run_id=self.run_id,
            round=self.machine.round,
            plan_id=self.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=sent.version,
            head=sent.whole,
            steps=line.steps,
            inputs=self.inputs_at(self.machine.round),
            codec=self._codec_of(line),
            budget_j=line.budget_j,
            deadline_s=max(0.0, self.machine.deadline_s - now_s),
            seed=seed_for(self.plan, device_id, self.machine.round),
            base=sent.base,
            differences=sent.differences,
            costs=line.costs,
            attempt=self.machine.attempt,
            statistics=features_of(self.plan, self.bundle) if sums else None,
            basis=None if sums else self._basis_for(holding),
            mask=self._mask_order(),
            control=None if sums or controls is None else controls.order(),
            # Who has held-out data of its own asks nobody.
            evaluate=self._asks_devices and not sums,
        )

    def _mask_order(self) -> MaskOrder | None:
        privacy = self.plan.privacy
        return MaskOrder(privacy.clip, privacy.bits) if privacy.masked and privacy.clip is not None else None

    @property
    def _asks_devices(self) -> bool:
        """Whether devices are to say how good the head is on examples of their own: where nobody else can, they have
        classes to count, and the plan does not hide what they have."""
        hides = hides_examples(self.plan)
        return self.evaluator is None and self.bundle.manifest.task == CLASSIFICATION and not hides

    def _basis_for(self, holding: Holding) -> BasisOrder | None:
        if self.basis is None:
            return None
        held = holding.basis_version == self.basis.version
        return BasisOrder(self.basis.version, () if held else self.basis.tensors())

    def _codec_of(self, line: OrderLine) -> CodecOrder:
        parameters = dict(self.plan.update.parameters)
        if line.bits is not None:
            parameters["bits"] = line.bits
        return CodecOrder(self.plan.update.codec, parameters)

    def expected_of(self, line: OrderLine, declared_examples: int, number: int) -> Expected:
        """What a report that answers this order of round ``number`` must agree with."""
        spec = self.bundle.manifest.head
        return Expected(
            plan_id=self.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=self.downlink.version,
            steps=line.steps,
            examples=declared_examples,
            shapes=self._shapes,
            inputs=self.all_inputs(number),
            optimiser=spec.optimiser,
            attempt=self.machine.attempt,
            basis=self.basis,
            control=self.controls(),
        )

    def checked(self, report: DeviceReport, line: OrderLine, declared_examples: int) -> Tree | Moments | MaskedWords:
        """What a report brings, when it is what it must be: a change of the head, or statistics.

        Raises:
            RejectedError: it is not.
        """
        if self.masking is not None:
            # It was in its group when it was accepted, and the group may be gone since.
            return check_masked(report, self.expected_of(line, declared_examples, report.round), self.plan, None)
        return self.checker(line, declared_examples, report.round)(report)

    def checker(
        self, line: OrderLine, declared_examples: int, number: int
    ) -> Callable[[DeviceReport], Tree | Moments | MaskedWords]:
        """Checks reports of this order as :meth:`checked` does, in any thread: the order as it stands now."""
        expected = self.expected_of(line, declared_examples, number)
        if self.masking is not None:
            masking = self.masking
            return lambda report: check_masked(report, expected, self.plan, masking)
        if not self.asks_statistics(number):
            return lambda report: check(report, expected)
        features = features_of(self.plan, self.bundle)
        return lambda report: check_statistics(report, expected, self.bundle, features)

    def read_together(self, number: int) -> Shapes | None:
        """Shapes of what reports of a round bring, where those that wait are quicker read together than each in a
        thread of its own."""
        if self.masking is not None or self.asks_statistics(number):
            return None
        return self._shapes if tensors.is_ahead_quicker(self._shapes, len(self.lines)) else None

    def late_checker(
        self, order: LateOrder, declared_examples: int
    ) -> Callable[[DeviceReport], Tree | Moments | MaskedWords]:
        """Checks the report of an order of a round that has closed, in any thread."""
        spec = self.bundle.manifest.head
        expected = Expected(
            self.plan_id,
            self.bundle.bundle_id,
            order.head_version,
            order.line.steps,
            declared_examples,
            self._shapes,
            self.all_inputs(order.round),
            spec.optimiser,
            order.attempt,
        )
        return lambda report: check(report, expected)

    def new_fold(
        self,
        number: int,
        lines: Mapping[str, OrderLine],
        population: Population | None,
        before: Callable[[], Iterable[Held]] = tuple,
        controlled: Mapping[str, float] | None = None,
    ) -> Fold | StatisticsFold:
        """A fold of the round of these orders, still empty.

        Args:
            before: statistics that were held before it.
            controlled: weight of each device whose control variate the coordinator's sum holds.
        """
        if self.asks_statistics(number):
            return StatisticsFold(self.plan, self.bundle, lines, before, self.evaluator)
        if self.masking is not None:
            return MaskedFold(self.plan, self._shapes, lines, number, self.masking, self.server)
        controls = self.controls()
        corrections = None
        if controls is not None:
            corrections = Corrections(number, controls, controlled or {}, self.all_inputs(number))
        plan = self.plan
        return Fold(
            plan.aggregate, self._shapes, lines, population, self.server, corrections, plan.update, plan.privacy
        )

    def take_fold(
        self, lines: Mapping[str, OrderLine], fold: Fold | StatisticsFold, sessions: Mapping[str, str | None]
    ) -> None:
        """From now on these are the orders and reports of the round."""
        # An order that belongs to a new start of its device was not handed to that one yet.
        self.handed = {
            device_id for device_id in self.handed if sessions.get(device_id) == self.sessions.get(device_id)
        }
        self.lines, self.fold, self.sessions = dict(lines), fold, dict(sessions)

    def describe(self) -> str:
        """What the run is doing, in one line."""
        machine, rules = self.machine, self.machine.rules
        here = len(machine.present)
        match machine.state:
            case State.GATHERING if machine.round == 1:
                line = f"{here} of {rules.devices} devices present"
            case State.GATHERING:
                line = f"round {machine.round} of {rules.rounds}: gathering, {here} devices present"
            case State.OPEN:
                reports = f"{len(machine.reported)} of {len(machine.ordered)} reports"
                line = f"round {machine.round} of {rules.rounds}: {reports}"
            case State.SETTLING:
                line = f"round {machine.round} of {rules.rounds}: aggregating"
            case _:
                line = str(machine.state)
        return "; ".join(part for part in (line, self.resting, self.trouble, in_short(self.roster.warnings())) if part)
