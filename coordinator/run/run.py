"""The run that is on: what the coordinator keeps of it in memory. All of it can be made anew from the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from coordinator.budgets.guesses import Remembered
from coordinator.budgets.order_line import OrderLine
from coordinator.run.aggregation import Fold, Population
from coordinator.run.downlink import Downlink
from coordinator.run.evaluation import Evaluator
from coordinator.run.planning import seed_for
from coordinator.run.roster import Roster, in_short
from coordinator.run.round_events import State
from coordinator.run.round_machine import Machine
from coordinator.run.validation import Expected
from protos.model.bundle import Bundle
from protos.normaliser import of_optimiser
from protos.orders import ENVELOPE_BYTES, CodecOrder, Holding, TrainOrder
from protos.plan.plan import RunPlan
from protos.update import trees
from protos.update.trees import Shapes, Tree


@dataclass
class ActiveRun:
    """One run in progress.

    Attributes:
        head: the newest head; ``lines`` and ``fold`` are of the open round.
        downlink: what devices hold of it, from which they train.
        refused: devices whose report of the open round was not taken.
        in_flight: devices whose report is being written.
        sessions: to which start of each device its order belongs; "" when it left, None when that is not known.
        handed: devices whose start of today got its order of this round, at any attempt.
        opened_here: this process opened the round, and so knows of every order that was handed out.
        sent: bytes of orders sent since they were last written down, by device.
        sent_unsure: those that went into a transaction whose end is not known.
        ready: set while the orders of the open round are on disk.
        recent: the last change of each device, as far as a round was planned that guesses from it.
        resting: why no round opens although devices are present, or "".
        trouble: why the run cannot go on just now, or "".
    """

    run_id: str
    name: str
    plan: RunPlan
    bundle: Bundle
    inputs: Mapping[str, float]
    machine: Machine
    roster: Roster
    head: Tree
    downlink: Downlink
    evaluator: Evaluator | None
    lines: dict[str, OrderLine]
    fold: Fold
    refused: set[str] = field(default_factory=set)
    sessions: dict[str, str | None] = field(default_factory=dict)
    handed: set[str] = field(default_factory=set)
    opened_here: bool = False
    in_flight: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    sent_unsure: Counter[str] = field(default_factory=Counter)
    recent: dict[str, Remembered] = field(default_factory=dict)
    resting: str = ""
    trouble: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def move_head(self, head: Tree, downlink: Downlink) -> None:
        """Take a new head, and what devices will hold of it."""
        self.head, self.downlink = head, downlink

    @property
    def report_limit_bytes(self) -> int:
        """The most that an honest report weighs."""
        return 4 * trees.coordinates(self.head) + ENVELOPE_BYTES

    def normaliser_of(self, steps: int) -> float:
        """FedNova's ``|a|_1`` after so many steps of this run."""
        spec = self.bundle.manifest.head
        return of_optimiser(spec.optimiser, steps, self.all_inputs)

    @cached_property
    def plan_id(self) -> str:
        """The plan's, worked out once."""
        return self.plan.plan_id

    @cached_property
    def _shapes(self) -> Shapes:
        return self.bundle.manifest.head.shapes()

    @cached_property
    def all_inputs(self) -> dict[str, float]:
        """Every input of the train signature, defaults included."""
        return {one.name: one.default for one in self.bundle.manifest.head.inputs} | dict(self.inputs)

    def may_have_begun(self, device_id: str) -> bool:
        """Whether a start of this device may have worked on its order of the open round."""
        return device_id in self.handed or not self.opened_here

    def is_of_another_start(self, device_id: str, session: str) -> bool:
        """Whether the order that this device has not answered belongs to an earlier start of it."""
        owed = self.ready.is_set() and self.machine.owes(device_id) and device_id in self.lines
        return owed and self.sessions.get(device_id) not in (None, session)

    def order_for(self, device_id: str, now_s: float, holding: Holding) -> TrainOrder | None:
        """The order that this device has not answered yet: the same, however often it asks, but for the way in which
        the head travels, which is by what the device holds."""
        line = self.lines.get(device_id)
        if line is None or not self.ready.is_set() or not self.machine.owes(device_id) or device_id in self.refused:
            return None
        sent = self.downlink.head_for(holding)
        return TrainOrder(
            run_id=self.run_id,
            round=self.machine.round,
            plan_id=self.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=sent.version,
            head=sent.whole,
            steps=line.steps,
            inputs=self.inputs,
            codec=self._codec_of(line),
            budget_j=line.budget_j,
            deadline_s=max(0.0, self.machine.deadline_s - now_s),
            seed=seed_for(self.plan, device_id, self.machine.round),
            base=sent.base,
            differences=sent.differences,
            costs=line.costs,
            attempt=self.machine.attempt,
        )

    def _codec_of(self, line: OrderLine) -> CodecOrder:
        parameters = dict(self.plan.update.parameters)
        if line.bits is not None:
            parameters["bits"] = line.bits
        return CodecOrder(self.plan.update.codec, parameters)

    def expected_of(self, line: OrderLine, declared_examples: int) -> Expected:
        """What a report that answers this order must agree with."""
        spec = self.bundle.manifest.head
        return Expected(
            plan_id=self.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=self.downlink.version,
            steps=line.steps,
            examples=declared_examples,
            shapes=self._shapes,
            inputs=self.all_inputs,
            optimiser=spec.optimiser,
            attempt=self.machine.attempt,
        )

    def new_fold(self, lines: Mapping[str, OrderLine], population: Population | None) -> Fold:
        """A fold of the round of these orders, still empty."""
        return Fold(self.plan.aggregate, self.bundle.manifest.head.shapes(), lines, population)

    def take_fold(self, lines: Mapping[str, OrderLine], fold: Fold, sessions: Mapping[str, str | None]) -> None:
        """From now on these are the orders and reports of the round."""
        # An order that belongs to a new start of its device was not handed to that one yet.
        self.handed = {one for one in self.handed if sessions.get(one) == self.sessions.get(one)}
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
