"""The planner's side of the comparison: coordinator/budgets, fed by nothing but metered reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.budgets.fleet import BATCH, Data, Device, Spent
from benchmarks.budgets.policies import Everyone, Round, normaliser_of, overspent, seed_of
from coordinator.budgets import guesses
from coordinator.budgets.accounts import Charged, Situation
from coordinator.budgets.cold_start import prices_of, work_w_of
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.budgets.guesses import Remembered
from coordinator.budgets.round_plan import Entrant, Surroundings, plan_round
from coordinator.run.reports.aggregation import Fold, Population
from protos.orders import DeviceReport, Engine
from protos.update import codecs, trees
from protos.update.tensors import decode
from protos.update.trees import Tree

_STARTED_S = 1.8e9
_ROUND_S = 60.0


@dataclass
class Planned(Everyone):
    """coordinator/budgets: everything it knows comes from metered reports."""

    costs: dict[str, CostModel] = field(default_factory=dict)

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        super().begin(data, devices, rounds, seed)
        coordinates = trees.coordinates(self.downlink.shown)
        self.coordinates = coordinates
        self.costs = {
            device.device_id: CostModel(prices_of(device.board, macs=None, coordinates=coordinates, batch_size=BATCH))
            for device in devices
        }
        self.sizes: dict[str, tuple[float, float]] = {}
        self.rounds_of: dict[str, list[int]] = {device.device_id: [] for device in devices}
        self.last_change: Tree | None = None
        self.recent: dict[str, Remembered] = {}

    def round(self, number: int, head: Tree) -> Round:
        self.downlink = self.downlink.after(head, number, self.plan)
        shown = self.downlink.shown
        by_id = {each_device.device_id: each_device for each_device in self.devices}
        situation = Situation(
            _STARTED_S + number * _ROUND_S, _STARTED_S, max(1, self.rounds - number + 1), _ROUND_S,
            sum(each_device.spent_j for each_device in self.devices),
        )  # fmt: skip
        here = Surroundings(
            number, situation, self.coordinates, lambda steps: normaliser_of(steps, self.rate, 0.0), self.random
        )
        made = plan_round(self.plan, [self._entrant(each_device) for each_device in self.devices], here)
        lines = {line.device_id: line for line in made.lines}
        population = None
        if made.whole is not None:
            found = {name: guesses.of_device(self.recent.get(name), self.last_change, number) for name in made.weights}
            population = Population(made.whole, guesses.of_all(made.weights, found.get), found.get)
        fold = Fold(self.plan.aggregate, trees.shapes(head), lines, population)
        joules = overspend = 0.0
        for line in made.lines:
            device = by_id[line.device_id]
            parameters = {**self.plan.update.parameters, "bits": line.bits or self.plan.update.parameters["bits"]}
            bytes_down = self.bytes_down(device)
            done = device.work(
                shown, steps=line.steps, rate=self.rate, codec=codecs.build(self.plan.update.codec, parameters),
                seed=seed_of(self.seed, number), budget_j=line.budget_j, bytes_down=bytes_down, hint=line.costs,
            )  # fmt: skip
            device.held = self.downlink.version
            joules += done.joules
            overspend = max(overspend, overspent(device))
            work = Work(0, done.steps, done.bytes_up, bytes_down)
            self.costs[device.device_id].observe(work, done.energy)
            if not done.steps:
                continue
            report = _report(device, done, line.steps, self.rate)
            update = decode(done.update, trees.shapes(head))
            fold.add(report, update)
            change = {name: value / np.float32(report.local_normaliser) for name, value in update.items()}
            self.recent[device.device_id] = Remembered(change, number)
            if (size := fold.sizes_of(report, update)) is not None:
                self.sizes[device.device_id] = size
                self.rounds_of[device.device_id].append(number)
        after = fold.head_after(head)
        if made.whole is not None:
            unit = np.float32(made.whole.work / made.whole.weight)
            self.last_change = {name: value / unit for name, value in trees.subtract(after, head).items()}
        return Round(after, joules, len(made.lines), overspend)

    def _entrant(self, device: Device) -> Entrant:
        change, deviation = self.sizes.get(device.device_id, (None, None))
        return Entrant(
            device.device_id, device.examples, self.steps(device), self.costs[device.device_id],
            Charged(device.spent_j, 0.0), work_w=work_w_of(device.board), bytes_down=self.bytes_down(device),
            rounds=tuple(self.rounds_of[device.device_id]), change=change, deviation=deviation,
        )  # fmt: skip


def _report(device: Device, done: Spent, planned: int, rate: float) -> DeviceReport:
    return DeviceReport(
        "run", 1, device.device_id, "plan", "bundle", "head", planned, done.steps, device.examples,
        normaliser_of(done.steps, rate, 0.0), done.stop_reason, None, None, Engine("numpy", "0", "none"),
        done.energy, done.update, 0, 0.0,
    )  # fmt: skip
