"""Federated rounds of `quantfl.py`: the device's training, the coordinator's folding, real codecs and real messages.

A device trains the compiled head from the head D that it holds, and sends the coded change. The coordinator folds what
it decodes into H, and codes H - D for the way down with the same codec (`protos/update/downlink.py`). Nothing is
simulated but the network: messages are serialised, counted, parsed and decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from quantfl_tasks import Task

from coordinator.aggregate.rules import RULES
from coordinator.lab.partition import partition
from edge_runtime.round.training import train
from protos.convert.head_transfers import differences_from, head_to
from protos.convert.tensors import tensors_from, tensors_to
from protos.model.head import Head
from protos.normaliser import of_optimiser
from protos.update import codecs, trees
from protos.update.downlink import rebuild, step_towards
from protos.update.tensors import as_float32, decode
from protos.update.trees import Tree
from protos.v1 import edgejoule_pb2 as pb

LOSSLESS = "float32"


@dataclass(frozen=True)
class Fleet:
    """How rounds are run.

    Attributes:
        scheme: how examples are spread over devices, see `coordinator/lab/partition.py`.
        inputs: of the train signature, where they are not its defaults.
    """

    devices: int
    rounds: int
    steps: int
    scheme: str = "dirichlet:0.5"
    inputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """One run: after each round the bits of all devices since the start, and the accuracy of H on held-out data."""

    bits_up: list[int]
    bits_down: list[int]
    accuracy: list[float]


class Run:
    """One federated run with one codec for both ways, from the bundle's starting head."""

    def __init__(self, task: Task, head: Head, fleet: Fleet, codec: str, rate: float, seed: int) -> None:
        self._task, self._head, self._fleet, self._seed = task, head, fleet, seed
        self._lossless = codec == LOSSLESS
        self._codec = codecs.build(codec, {} if self._lossless else {"bits": rate})
        self._shapes = task.bundle.manifest.head.shapes()
        self._parts = partition(task.train_labels, None, fleet.devices, fleet.scheme, seed)
        given = {name: one.default for name, one in head.inputs.items()} | dict(fleet.inputs)
        self._work = of_optimiser(task.bundle.manifest.head.optimiser, fleet.steps, given)
        self._held = self._made = task.bundle.initial_head()
        # Every device has the bundle, and so the head that the first round starts from: only its name travels.
        start = trees.version(self._held)
        self._order = head_to(start, (), start, ()).SerializeToString()

    def course(self) -> Course:
        """All rounds."""
        course = Course([], [], [])
        bits_up = bits_down = 0
        backbone = self._task.bundle.manifest.backbone
        test = (self._task.test.astype(np.float32) - backbone.output_zero_point) * np.float32(backbone.output_scale)
        for number in range(1, self._fleet.rounds + 1):
            bits_down += 8 * len(self._order) * self._fleet.devices
            bits_up += 8 * self._round(number)
            course.bits_up.append(bits_up)
            course.bits_down.append(bits_down)
            self._head.write(self._made)
            course.accuracy.append(self._head.evaluate(test, self._task.test_labels).accuracy)
        return course

    def _round(self, number: int) -> int:
        """Train, send, fold, and code the next head; returns the bytes that came up."""
        rule = RULES["fednova"]
        folded, sent = rule.start(self._shapes), 0
        for device, rows in enumerate(self._parts):
            change = self._trained(rows, device, number)
            random = codecs.generator(self._seed, "encode", device, number)
            tensors, _ = self._codec.encode(change, self._codec.init(self._shapes), random)
            report = pb.DeviceReport(update=tensors_to(tensors)).SerializeToString()
            sent += len(report)
            update = decode(tensors_from(pb.DeviceReport.FromString(report).update), self._shapes)
            folded = rule.add(folded, update, float(len(rows)), self._work)
        moved = rule.finish(folded)
        assert moved is not None
        self._made = trees.add_scaled(self._made, moved, 1.0)
        self._send_down(number)
        return sent

    def _trained(self, rows: npt.NDArray[np.int64], device: int, number: int) -> Tree:
        """What a device's steps change of the head that it holds."""
        self._head.write(self._held)
        backbone = self._task.bundle.manifest.backbone
        train(
            self._head,
            self._task.train[rows],
            self._task.train_labels[rows],
            lambda q: (q.astype(np.float32) - backbone.output_zero_point) * np.float32(backbone.output_scale),
            steps=self._fleet.steps,
            inputs=self._fleet.inputs,
            seed=self._seed,
            purpose=(device, number),
            allowed=lambda: None,
        )
        return trees.subtract(self._head.read(), self._held)

    def _send_down(self, number: int) -> None:
        """The next order's head: a coded difference where that brings D nearer to H, else H whole."""
        random = codecs.generator(self._seed, "downlink", number)
        found = None if self._lossless else step_towards(self._made, self._held, self._codec, random)
        if found is None:
            self._held = self._made
            self._order = head_to(trees.version(self._made), as_float32(self._made), "", ()).SerializeToString()
            return
        difference, reached = found
        message = head_to(trees.version(reached), (), trees.version(self._held), (difference,))
        self._order = message.SerializeToString()
        rebuilt = rebuild(self._held, differences_from(pb.Head.FromString(self._order)), self._shapes)
        assert trees.version(rebuilt) == message.version
        self._held = rebuilt
