"""Federated rounds of `papers.py`: the device's round function, real heads and codecs, the coordinator's sums.

A device is `edge_runtime/round/work.py` on a real bundle; orders and reports are serialised, counted and parsed, and
reports are folded by `coordinator/run`. Only the network and the joules are not real: energy is counted work times the
prices of `coordinator/budgets/cold_start.py` (watts of `protos/energy/boards.py`), links after the sources of
`benchmarks/budgets/fleet.py`. Embedding every example once costs each method the same; it is listed apart.

Held-out examples are split in two: the coordinator sees one half, as `[evaluate]` would give it, and chooses by it;
accuracies are those on the other half, which nothing is chosen by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.budgets.fleet import _LINKS as LINKS
from coordinator.aggregate.controls import Controls
from coordinator.budgets.cold_start import _SPEED as SPEED
from coordinator.budgets.cold_start import prices_of, work_w_of
from coordinator.lab.partition import partition
from coordinator.run.downlink import Downlink
from coordinator.run.evaluation import Evaluator
from coordinator.run.planning import correction_of, seed_for, steps_for, train_inputs
from coordinator.run.reports.aggregation import Corrections
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import Reserve
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.training_basis import HeldBasis
from edge_runtime.round.work import Workbench, work
from protos.convert.orders import order_from, order_to
from protos.convert.reports import parse_report, serialise_report
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.orders import BasisOrder, CodecOrder, DeviceReport, Engine, Holding, TrainOrder
from protos.plan.plan import RunPlan
from protos.statistics.features import FeatureMap
from protos.statistics.whitening import Basis
from protos.update import trees
from protos.update.trees import Tree
from protos.v1 import edgejoule_pb2 as pb

BOARDS = ("pi4", "pi5", "pi-zero-2", "coral-dev")
RADIOS = ("wifi", "lte")
# Of the int8 speed of the table, in one large float32 product of matrices. An assumption on the slow side: BLAS makes
# about 3e9 multiply-accumulates a second on one core of a Pi 4, and the table has 2.3e9.
SUMS_SHARE = 0.5
_ENGINE = Engine("ai-edge-litert", "0", "xnnpack")


@dataclass(frozen=True)
class Task:
    """Embeddings of a data set as a backbone makes them, int8 or uint8 [N, D], and how they are spread.

    Attributes:
        owner: of each training example, or None.
        central: accuracy of a logistic regression on all training examples together.
    """

    name: str
    bundle: Bundle
    train: npt.NDArray[Any]
    train_labels: npt.NDArray[np.int32]
    test: npt.NDArray[Any]
    test_labels: npt.NDArray[np.int32]
    owner: npt.NDArray[Any] | None
    devices: int
    scheme: str
    central: float

    @property
    def setting(self) -> str:
        """How rows call it."""
        return f"{self.name}, {self.scheme}"


@dataclass
class Joules:
    """What a fleet spent, by radio; without embedding."""

    by_radio: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RADIOS, 0.0))

    def add(self, board: str, *, steps: int, macs: float, entries: int, up: int, down: int, coordinates: int) -> None:
        """One order of one device.

        Args:
            macs: multiply-accumulates of summing statistics.
            entries: whole numbers that were coded.
            up, down: bytes.
            coordinates: of the head.
        """
        prices, watts = prices_of(board, macs=None, coordinates=coordinates, batch_size=32), work_w_of(board)
        work_j = prices.train_fixed_j + prices.step_j * steps + prices.encode_j
        work_j += watts * (macs / (SUMS_SHARE * SPEED[board]) + entries / 2e6)
        for radio in RADIOS:
            up_j, down_j, wake_j = LINKS[radio]
            self.by_radio[radio] += work_j + wake_j + up_j * up + down_j * down


class _Meter:
    """Energy is counted afterwards, from what reports say."""

    identity = MeterIdentity("estimated", "counted", "none", "model")

    def start(self) -> None: ...

    def mark(self, phase: object) -> None: ...

    def spent_j(self) -> float:
        return 0.0

    def settle(self, timeout_s: float = 2.0) -> tuple[()]:
        return ()


class Device:
    """One shard behind the device's own round function."""

    def __init__(self, name: str, board: str, task: Task, rows: npt.NDArray[np.int64], head: Head, home: Path) -> None:
        self.name, self.board = name, board
        self.embeddings, self.labels = task.train[rows], task.train_labels[rows]
        self.examples = len(rows)
        for folder in ("heads", "bases", "memory"):
            (home / folder).mkdir(parents=True)
        cache = SimpleNamespace(complete=True, rows=self.examples, view=lambda: self.embeddings)
        self.bench = Workbench(
            device_id=name,
            bundle=task.bundle,
            head=head,
            examples=SimpleNamespace(release=lambda: None),  # type: ignore[arg-type]
            summary=SimpleNamespace(labels=self.labels, train_count=self.examples),  # type: ignore[arg-type]
            cache=cache,  # type: ignore[arg-type]
            engine=_ENGINE,
            meter=_Meter(),
            reserve=Reserve(),
            clock=SimpleNamespace(monotonic=lambda: 0.0),  # type: ignore[arg-type]
            heads=HeldHeads(home / "heads"),
            memory=CodecMemory(home / "memory"),
            bases=HeldBasis(home / "bases"),
        )

    @property
    def holding(self) -> Holding:
        """What it says when it asks."""
        return dataclasses.replace(self.bench.heads.holding(), basis_version=self.bench.bases.version)


class Fleet:
    """All devices of a task, and the coordinator's end of the conversation.

    Args:
        home: an empty folder for what devices keep.
    """

    def __init__(self, task: Task, plan: RunPlan, seed: int, home: Path) -> None:
        self.task, self.plan, self.bundle = task, plan, task.bundle
        head = Head(task.bundle)
        parts = partition(task.train_labels, task.owner, task.devices, task.scheme, seed)
        self.devices = [
            Device(f"device-{at:02d}", BOARDS[at % len(BOARDS)], task, rows, head, home / str(at))
            for at, rows in enumerate(parts)
        ]
        self.head: Tree = task.bundle.initial_head()
        self.shapes = task.bundle.manifest.head.shapes()
        self.coordinates = trees.coordinates(self.head)
        self.downlink = Downlink(self.head, trees.version(self.head))
        chosen = np.arange(len(task.test_labels)) % 2 == 0
        self.judge = Evaluator(task.bundle, task.test[chosen], task.test_labels[chosen])
        self.referee = Evaluator(task.bundle, task.test[~chosen], task.test_labels[~chosen])
        self.inputs = train_inputs(plan, task.bundle.manifest)
        self.basis: Basis | None = None
        self.server: Tree | None = None
        self.joules = Joules()
        self.bytes_up = self.bytes_down = 0
        # Of these, changes (or statistics) and heads alone, as messages of nothing else.
        self.change_bytes_up = self.head_bytes_down = 0

    def accuracy(self) -> float:
        """Of the newest head on held-out data that nothing was chosen by."""
        return self.referee.evaluate(self.head).accuracy

    def seen(self) -> float:
        """The same on the half that the coordinator sees."""
        return self.judge.evaluate(self.head).accuracy

    def inputs_at(self, number: int) -> dict[str, float]:
        """As :meth:`coordinator.run.run.ActiveRun.inputs_at` has it."""
        first = 2 if self.plan.train.method == "closed_form+sgd" else 1
        return self.inputs | {"rate": self.inputs["rate"] * self.plan.train.rate_decay ** max(0, number - first)}

    def steps(self, device: Device) -> int:
        """Optimiser steps that the plan asks for."""
        return steps_for(self.plan, self.bundle.manifest.head.batch_size, device.examples)

    def corrections(self, number: int) -> Corrections | None:
        """What a round of control variates needs to know; None without them."""
        first = 2 if self.plan.train.method == "closed_form+sgd" else 1
        if number < first or correction_of(self.plan, self.bundle.manifest) == "none":
            return None
        known = {} if number == first else {device.name: float(device.examples) for device in self.devices}
        given = {tensor.name: tensor.default for tensor in self.bundle.manifest.head.inputs} | self.inputs_at(number)
        return Corrections(number, Controls.kept(self.server, self.shapes), known, given)

    def accepted(self, device: Device, number: int) -> None:
        """Tell a device that its report was taken."""
        device.bench.memory.settle("run", number, accepted=True)

    def ask(
        self,
        device: Device,
        number: int,
        *,
        steps: int,
        statistics: FeatureMap | None = None,
        bits: float | None = None,
        work_with: Callable[[TrainOrder, Workbench], DeviceReport] | None = None,
    ) -> DeviceReport:
        """Order, let the device work, and take its report; every byte and step is counted.

        Args:
            bits: instead of the plan's.
            work_with: does the work instead of the device's own round function, for devices that do not keep to it.
        """
        sent = self.downlink.head_for(device.holding)
        parameters = dict(self.plan.update.parameters) | ({} if bits is None else {"bits": bits})
        basis = None
        if self.basis is not None and statistics is None:
            held = device.holding.basis_version == self.basis.version
            basis = BasisOrder(self.basis.version, () if held else self.basis.tensors())
        corrections = self.corrections(number)
        order = TrainOrder(
            run_id="run", round=number, plan_id=self.plan.plan_id, bundle_id=self.bundle.bundle_id,
            head_version=sent.version, head=() if statistics else sent.whole, steps=steps,
            inputs=self.inputs_at(number),
            codec=CodecOrder(self.plan.update.codec, parameters), budget_j=None, deadline_s=1e6,
            seed=seed_for(self.plan, device.name, number), base=sent.version if statistics else sent.base,
            differences=() if statistics else sent.differences, attempt=1, statistics=statistics, basis=basis,
            control=None if corrections is None else corrections.before.order(),
        )  # fmt: skip
        message = order_to(order)
        read = order_from(pb.NextOrderResponse.FromString(message.SerializeToString()))
        assert isinstance(read, TrainOrder)
        report = work(read, device.bench, lambda: False) if work_with is None else work_with(read, device.bench)
        data = serialise_report(report)
        up, down = len(data), int(message.ByteSize())
        width = 0 if statistics is None else statistics.width(self.task.train.shape[1])
        self.joules.add(
            device.board, steps=report.steps_done, macs=float(device.examples) * width * width,
            entries=width * (width + 1) // 2, up=up, down=down, coordinates=self.coordinates,
        )  # fmt: skip
        self.bytes_up += up
        self.bytes_down += down
        sent_up = pb.DeviceReport.FromString(data)
        alone = pb.DeviceReport(update=sent_up.update)
        if sent_up.HasField("statistics"):
            alone.statistics.CopyFrom(sent_up.statistics)
        self.change_bytes_up += alone.ByteSize()
        self.head_bytes_down += message.train.head.ByteSize()
        return parse_report(data)

    def move(self, head: Tree, number: int) -> None:
        """The head after a round, and what devices will be sent of it."""
        self.head = head
        self.downlink = self.downlink.after(head, number, self.plan)


def embedding_joules(task: Task, fleet: Fleet) -> float:
    """Joules of embedding every training example once, which every method pays."""
    macs = task.bundle.manifest.backbone.macs
    return sum(
        prices_of(device.board, macs=macs, coordinates=1, batch_size=32).embedding_j * device.examples
        for device in fleet.devices
    )


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t); NaN where a run has no figure."""
    count = len(values)
    mean = sum(values) / count
    if count < 2 or not math.isfinite(mean):
        return mean, math.nan
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, _STUDENT.get(count - 1, 1.96) * deviation / math.sqrt(count)


_STUDENT: Mapping[int, float] = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
