"""The run that is on: what the coordinator keeps of it in memory. All of it can be made anew from the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.folding import Fold
from coordinator.learning.evaluation import Evaluator
from coordinator.order_line import OrderLine
from coordinator.planning import budget_for, seed_for, steps_for
from coordinator.round_events import State
from coordinator.rounds import Machine
from coordinator.selection import Roster, in_short
from coordinator.validation import Expected
from protos.model.bundle import Bundle
from protos.orders import ENVELOPE_BYTES, CodecOrder, DeviceCard, TrainOrder
from protos.plan import RunPlan
from protos.update import trees
from protos.update.tensors import EncodedTensor, as_float32
from protos.update.trees import Tree


@dataclass
class ActiveRun:
    """One run in progress.

    Attributes:
        head: the newest head; ``lines`` and ``fold`` are of the open round.
        refused: devices whose report of the open round was not taken.
        in_flight: devices whose report is being written.
        sent: bytes of orders sent since they were last written down, by device.
        ready: set while the orders of the open round are on disk.
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
    evaluator: Evaluator | None
    lines: dict[str, OrderLine]
    fold: Fold
    refused: set[str] = field(default_factory=set)
    in_flight: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _encoded: tuple[str, tuple[EncodedTensor, ...]] | None = None

    @property
    def head_version(self) -> str:
        return self.encoded_head[0]

    @property
    def encoded_head(self) -> tuple[str, tuple[EncodedTensor, ...]]:
        """Version and tensors of the newest head, made once per head."""
        if self._encoded is None:
            self._encoded = (trees.version(self.head), as_float32(self.head))
        return self._encoded

    def move_head(self, head: Tree) -> None:
        """Take a new head."""
        self.head, self._encoded = head, None

    @property
    def report_limit_bytes(self) -> int:
        """The most that an honest report weighs."""
        return 4 * trees.coordinates(self.head) + ENVELOPE_BYTES

    def line_for(self, card: DeviceCard) -> OrderLine:
        """What this device is asked to do in a round."""
        steps = steps_for(self.plan, self.bundle.manifest.head.batch_size, card.train_examples)
        return OrderLine(card.device_id, steps, budget_for(self.plan, card.device_id, card.budget_j))

    def order_for(self, device_id: str, now_s: float) -> TrainOrder | None:
        """The order that this device has not answered yet: the same, however often it asks."""
        line = self.lines.get(device_id)
        if line is None or not self.ready.is_set() or not self.machine.owes(device_id) or device_id in self.refused:
            return None
        version, tensors = self.encoded_head
        return TrainOrder(
            run_id=self.run_id,
            round=self.machine.round,
            plan_id=self.plan.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=version,
            head=tensors,
            steps=line.steps,
            inputs=self.inputs,
            codec=CodecOrder(self.plan.update.codec, self.plan.update.parameters),
            budget_j=line.budget_j,
            deadline_s=max(0.0, self.machine.deadline_s - now_s),
            seed=seed_for(self.plan, device_id, self.machine.round),
        )

    def expected_of(self, device_id: str, declared_examples: int) -> Expected:
        """What a report of this device must agree with."""
        spec = self.bundle.manifest.head
        return Expected(
            plan_id=self.plan.plan_id,
            bundle_id=self.bundle.bundle_id,
            head_version=self.head_version,
            steps=self.lines[device_id].steps,
            examples=declared_examples,
            shapes=spec.shapes(),
            inputs={one.name: one.default for one in spec.inputs} | dict(self.inputs),
            optimiser=spec.optimiser,
        )

    def new_fold(self, lines: Iterable[OrderLine]) -> None:
        """Begin the round of these orders."""
        self.lines = {line.device_id: line for line in lines}
        self.fold = Fold(self.plan.aggregate, self.bundle.manifest.head.shapes(), self.lines)
        self.refused.clear()

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
        return "; ".join(part for part in (line, self.trouble, in_short(self.roster.warnings())) if part)
