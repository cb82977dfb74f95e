"""Federated rounds of `quantfl.py`: a metered fleet with one codec for both ways.

Each device is `edge_runtime/round/work.py` on the bundle; orders and reports are serialised, counted, parsed; reports
are folded by the coordinator's rules, and heads travel down as `coordinator/run/downlink.py` has them. Nothing is
simulated but the network and the watts (`one_pass/metered.py`).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.one_pass import fleet as one_pass_fleet
from benchmarks.one_pass.metered import MeteredFleet
from benchmarks.one_pass.methods import averaged, one_pass, plan_of
from benchmarks.quantised.tasks import Task
from coordinator.run.evaluation import Evaluator
from protos.plan.plan import RunPlan
from protos.plan.sections import DownlinkSection, UpdateSection

LOSSLESS = "float32"
# No codec at all: exact sums in one round, and a head that is solved for (docs/one-pass.md).
CLOSED = "closed_form"


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
    """One run: after each round the bits of all devices since the start, their joules, and the accuracy of the newest
    head on held-out data.

    Attributes:
        bits_up, bits_down: of whole reports and orders.
        change_bits_up, head_bits_down: of the changes, or sums, and heads in them alone.
    """

    bits_up: list[int]
    bits_down: list[int]
    accuracy: list[float]
    joules: list[float]
    change_bits_up: list[int]
    head_bits_down: list[int]


def plan_for(fleet: Fleet, codec: str, rate: float, seed: int) -> RunPlan:
    """The plan of a run: one codec, one rate, both ways."""
    if codec == CLOSED:
        # Shrinkage by leaving devices out: nothing is chosen by what judges.
        return plan_of('[train]\nmethod = "closed_form"\n[closed_form]\nchoose = "devices"\n', seed, 1)
    lines = [f"{name} = {value}\n" for name, value in fleet.inputs.items()]
    own, others = ("".join(line for line in lines if line.startswith("rate") == rate_is) for rate_is in (True, False))
    text = f'[train]\nsteps = {fleet.steps}\n{own}[train.inputs]\n{others}[aggregate]\nweight = ["by_examples"]\n'
    plan = plan_of(text, seed, fleet.rounds)
    parameters = {} if codec == LOSSLESS else {"bits": rate}
    # Put there, not parsed: not every codec of the comparison may be a plan's way down.
    update, downlink = UpdateSection(codec, parameters), DownlinkSection(codec, parameters)
    return dataclasses.replace(plan, update=update, downlink=downlink)


class Run:
    """One federated run with one codec for both ways, from the bundle's starting head."""

    def __init__(self, task: Task, fleet: Fleet, codec: str, rate: float, seed: int) -> None:
        self._fleet, self._codec, self._seed = fleet, codec, seed
        self._plan = plan_for(fleet, codec, rate, seed)
        self._task = one_pass_fleet.Task(
            task.dataset, task.bundle, task.train, task.train_labels, task.test, task.test_labels, None,
            fleet.devices, fleet.scheme, float("nan"),
        )  # fmt: skip

    def course(self) -> Course:
        """All rounds."""
        course = Course([], [], [], [], [], [])
        referee = Evaluator(self._task.bundle, self._task.test, self._task.test_labels)
        with tempfile.TemporaryDirectory(prefix="edgejoule-quantfl-") as home:
            fleet = MeteredFleet(self._task, self._plan, self._seed, Path(home))
            rounds = one_pass(fleet, 1) if self._codec == CLOSED else averaged(fleet, 1, self._fleet.rounds)
            for _ in rounds:
                course.bits_up.append(8 * fleet.bytes_up)
                course.bits_down.append(8 * fleet.bytes_down)
                course.change_bits_up.append(8 * fleet.change_bytes_up)
                course.head_bits_down.append(8 * fleet.head_bytes_down)
                course.accuracy.append(referee.evaluate(fleet.head).accuracy)
                course.joules.append(fleet.joules_metered)
        return course
