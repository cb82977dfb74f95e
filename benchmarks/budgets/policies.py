"""Who is asked for what, and how the answers are folded: the planner, and what it is compared with.

    fedavg      McMahan et al., AISTATS 2017: everyone, float32 both ways, mean weighted by examples
    fixed_bits  everyone, the same bits for each; coded differences down, FedNova
    sampled     fixed bits, and a few devices at random: hand-tuned, the strongest that knows nothing of energy
    fl_pqsu     Xu et al., IEEE Access 2021: everyone trains; 8-bit weights both ways; a device uploads only when the
                loss of its last batch is below that of its last upload, else its stale model is averaged
    fedzero     after Wiesner et al., e-Energy 2024: half of the fleet, by statistical utility among those whose energy
                suffices, with its block-list for fairness; FedProx; coded differences down
    planner     coordinator/budgets

All see the same truth, stop at the same budgets by the same allowance, and count every joule, downloads included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.budgets.fleet import BATCH, WEIGHT_DECAY, Data, Device, Spent
from coordinator.aggregate.rules import RULES
from coordinator.run.downlink import Downlink
from protos.convert.head_transfers import head_to
from protos.normaliser import local_normaliser
from protos.orders import Holding
from protos.plan.plan import RunPlan, parse
from protos.update import codecs, trees
from protos.update.tensors import decode
from protos.update.trees import Tree

_ORDER_BYTES = 200


@dataclass
class Round:
    """What one round cost and made."""

    head: Tree
    joules: float
    asked: int
    overspend: float


class Policy(Protocol):
    """One way to run a fleet."""

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        """Get ready for a run."""
        ...

    def round(self, number: int, head: Tree) -> Round:
        """Do a round."""
        ...


def settings(epochs: int, codec: str = "float32", bits: float | None = None, more: str = "") -> RunPlan:
    """A plan as a user would write it."""
    bits_line = "" if bits is None else f"bits = {bits}\n"
    text = f'[run]\nbundle = "b"\nrounds = 60\n[train]\nepochs = {epochs}\n[update]\ncodec = "{codec}"\n{bits_line}'
    return parse(text + more)


@dataclass
class Everyone:
    """All who can pay take part, or a share of them at random; subclasses say what differs."""

    plan: RunPlan
    rate: float
    epochs: int
    proximal_mu: float = 0.0
    share: float = 1.0

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        self.data, self.devices, self.rounds, self.seed = data, devices, rounds, seed
        start = data.start()
        self.downlink = Downlink(start, trees.version(start))
        self.random = np.random.default_rng([seed, 4])

    def steps(self, device: Device) -> int:
        return self.epochs * -(-device.examples // BATCH)

    def able(self, device: Device) -> bool:
        """Whether the device knows that it can still pay for a step and its sending."""
        needed_j = device.reserve.joules(math.inf) if device.reserve.step_j is not None else 0.0
        return device.left_j > needed_j + (device.reserve.step_j or 0.0) and device.left_j > 0

    def chosen(self, number: int) -> list[Device]:
        able = [device for device in self.devices if self.able(device)]
        if self.share == 1.0 or not able:
            return able
        count = max(1, min(len(able), round(self.share * len(self.devices))))
        return [able[at] for at in sorted(self.random.choice(len(able), count, replace=False))]

    def bytes_down(self, device: Device) -> int:
        sent = self.downlink.head_for(Holding(head_version=device.held, rebuilds=True))
        return _ORDER_BYTES + int(head_to(sent.version, sent.whole, sent.base, sent.differences).ByteSize())

    def round(self, number: int, head: Tree) -> Round:
        self.downlink = self.downlink.after(head, number, self.plan)
        shown = self.downlink.shown
        codec = codecs.build(self.plan.update.codec, self.plan.update.parameters)
        fold = Reports(self.plan, trees.shapes(head))
        joules = overspend = 0.0
        chosen = self.chosen(number)
        for device in chosen:
            done = device.work(
                shown, steps=self.steps(device), rate=self.rate, codec=codec, seed=seed_of(self.seed, number),
                budget_j=None, bytes_down=self.bytes_down(device), proximal_mu=self.proximal_mu,
            )  # fmt: skip
            device.held = self.downlink.version
            self.answered(device, done)
            joules, overspend = joules + done.joules, max(overspend, overspent(device))
            if done.steps:
                fold.add(device, done, decode(done.update, trees.shapes(head)), self.rate, self.proximal_mu)
        return Round(fold.head_after(shown), joules, len(chosen), overspend)

    def answered(self, device: Device, done: Spent) -> None:
        """Look at a report."""


class Reports:
    """Reports folded by the plan's rule, weighted by examples."""

    def __init__(self, plan: RunPlan, shapes: trees.Shapes) -> None:
        self._rule = RULES[plan.aggregate.normalise]
        self._state = self._rule.start(shapes)

    def add(self, device: Device, done: Spent, update: Tree, rate: float, mu: float) -> None:
        self._state = self._rule.add(self._state, update, float(device.examples), normaliser_of(done.steps, rate, mu))

    def head_after(self, head: Tree) -> Tree:
        change = self._rule.finish(self._state)
        return head if change is None else trees.add_scaled(head, change, 1.0)


class LossGate(Everyone):
    """FL-PQSU: 8-bit weights, averaged as they are, stale ones too."""

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        super().begin(data, devices, rounds, seed)
        self.best = {device.device_id: 100.0 for device in devices}
        self.models: dict[str, Tree] = {}

    def round(self, number: int, head: Tree) -> Round:
        codec = codecs.build("affine8_weights", {})
        random = codecs.generator(self.seed, "down", number)
        coded, _ = codec.encode(head, codec.init(trees.shapes(head)), random)
        shown = decode(coded, trees.shapes(head))
        bytes_down = _ORDER_BYTES + trees.coordinates(head)
        joules = overspend = 0.0
        chosen = self.chosen(number)
        for device in chosen:
            best = self.best[device.device_id]
            done = device.work(
                shown, steps=self.steps(device), rate=self.rate, codec=codec, seed=seed_of(self.seed, number),
                budget_j=None, bytes_down=bytes_down, code_weights=True, gate=lambda loss, best=best: loss < best,
            )  # fmt: skip
            if done.update and done.steps:
                self.best[device.device_id] = done.loss
                self.models[device.device_id] = decode(done.update, trees.shapes(head))
            joules, overspend = joules + done.joules, max(overspend, overspent(device))
        if not self.models:
            return Round(head, joules, len(chosen), overspend)
        mean = {name: np.zeros(value.shape, np.float64) for name, value in head.items()}
        for model in self.models.values():
            for name, value in model.items():
                mean[name] += value / len(self.models)
        return Round({k: v.astype(np.float32) for k, v in mean.items()}, joules, len(chosen), overspend)


class FedZero(Everyone):
    """Half of the fleet each round, the best by utility of those whose energy suffices, less those that are blocked."""

    alpha = 1.0

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        super().begin(data, devices, rounds, seed)
        self.utility = {device.device_id: float("inf") for device in devices}
        self.rounds_of = {device.device_id: 0 for device in devices}
        self.blocked: set[str] = set()

    def chosen(self, number: int) -> list[Device]:
        able = [device for device in self.devices if self.able(device)]
        count = max(1, round(self.share * len(self.devices)))
        fewest = np.mean(list(self.rounds_of.values()))
        for name in sorted(self.blocked):
            above = self.rounds_of[name] - fewest
            if above <= 0 or self.random.random() < min(1.0, self.alpha / above):
                self.blocked.discard(name)
        free = [device for device in able if device.device_id not in self.blocked]
        # With too few that are free, the round is filled up, so that it has the size that was asked for.
        free += [device for device in able if device.device_id in self.blocked][: max(0, count - len(free))]
        free.sort(key=lambda device: -self.utility[device.device_id])
        picked = free[:count]
        for device in picked:
            self.rounds_of[device.device_id] += 1
            self.blocked.add(device.device_id)
        return picked

    def answered(self, device: Device, done: Spent) -> None:
        # Oort's statistical utility, on which FedZero ranks: examples times the root mean square loss.
        if done.steps:
            self.utility[device.device_id] = device.examples * done.first_loss


def overspent(device: Device) -> float:
    return max(0.0, device.spent_j / device.budget_j - 1.0)


def seed_of(seed: int, number: int) -> int:
    return 1_000_003 * seed + number


def normaliser_of(steps: int, rate: float, mu: float) -> float:
    return local_normaliser(steps, rate=rate, proximal_mu=mu + WEIGHT_DECAY)
