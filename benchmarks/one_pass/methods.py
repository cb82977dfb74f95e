"""The methods that `papers.py` compares, each a plan as a user would write it and its rounds over a fleet.

fedavg           everyone, two epochs, the mean of changes by examples (McMahan et al., AISTATS 2017)
fedprox          the same with a pull of 0.1 towards the received head (Li et al., MLSys 2020)
fedavgm, fedadam, fedyogi   the same with a server optimiser (Hsu et al. 2019; Reddi et al., ICLR 2021)
scaffold         control variates on both sides (Karimireddy et al., ICML 2020, option II); c travels as float32
planner          coordinator/budgets: who is asked, for how many steps, in how many bits, by metered joules
closed_form      statistics of all devices in one round, projected or not; no step
closed_form+sgd  whitened steps from there

Where nothing is said, keys of the plan have their defaults: these are what is judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.one_pass.fleet import Device, Fleet, Task
from coordinator.budgets import guesses
from coordinator.budgets.accounts import Charged, Situation
from coordinator.budgets.cold_start import prices_of, work_w_of
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.budgets.guesses import Remembered
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.round_plan import Entrant, Surroundings, plan_round
from coordinator.run.reports.aggregation import Fold, Population
from coordinator.run.reports.statistics_fold import StatisticsFold, features_of
from protos.energy.trace import Phase, PhaseEnergy
from protos.normaliser import of_optimiser
from protos.orders import DeviceReport
from protos.plan.plan import RunPlan, parse
from protos.update import codecs, trees
from protos.update.tensors import decode
from protos.update.trees import Tree

Rounds = Iterator[None]
_PROXIMAL_MU = 0.1
# Numbers that a wide embedding is projected to.
PROJECTED = (128, 256, 512)
WIDE = 512
_ROUND_S, _STARTED_S = 60.0, 1.8e9


def plan_of(more: str, seed: int, rounds: int) -> RunPlan:
    """A plan as a user would write it."""
    return parse(f'[run]\nbundle = "b"\nrounds = {rounds}\nseed = {seed}\n{more}')


def _lines(fleet: Fleet) -> dict[str, OrderLine]:
    return {device.name: OrderLine(device.name, fleet.steps(device), None) for device in fleet.devices}


def _decoded(fleet: Fleet, report: DeviceReport) -> Tree:
    update = decode(report.update, fleet.shapes)
    return update if fleet.basis is None else fleet.basis.back(update)


def averaged(fleet: Fleet, first: int, rounds: int) -> Rounds:
    """Everyone, every round; after each the newest head is the fleet's."""
    for number in range(first, rounds + 1):
        fold = Fold(
            fleet.plan.aggregate,
            fleet.shapes,
            _lines(fleet),
            server=fleet.server,
            corrections=fleet.corrections(number),
        )
        for device in fleet.devices:
            report = fleet.ask(device, number, steps=fleet.steps(device))
            fold.add(report, _decoded(fleet, report))
            fleet.accepted(device, number)
        fleet.move(fold.head_after(fleet.head), number)
        fleet.server = fold.server_after
        yield


def one_pass(fleet: Fleet, rounds: int) -> Rounds:
    """Statistics, then steps where the plan has any."""
    fold = StatisticsFold(fleet.plan, fleet.bundle, _lines(fleet), tuple, fleet.judge)
    features = features_of(fleet.plan, fleet.bundle)
    for device in fleet.devices:
        report = fleet.ask(device, 1, steps=0, statistics=features)
        fold.add(report, None)
    fleet.move(fold.head_after(fleet.head), 1)
    assert fold.solved is not None
    fleet.basis = fold.solved.basis
    yield
    if fleet.plan.train.method == "closed_form+sgd":
        yield from averaged(fleet, 2, rounds)


class _Planner:
    """The joule planner, fed by the energy of its own reports."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.costs = {
            device.name: CostModel(prices_of(device.board, macs=None, coordinates=fleet.coordinates, batch_size=32))
            for device in fleet.devices
        }
        self.sizes: dict[str, tuple[float, float]] = {}
        self.rounds_of: dict[str, list[int]] = {device.name: [] for device in fleet.devices}
        self.spent: dict[str, float] = dict.fromkeys(self.costs, 0.0)
        self.recent: dict[str, Remembered] = {}
        self.last: Tree | None = None

    def rounds(self, rounds: int) -> Rounds:
        fleet, by_name = self.fleet, {device.name: device for device in self.fleet.devices}
        given = {tensor.name: tensor.default for tensor in fleet.bundle.manifest.head.inputs} | fleet.inputs
        optimiser = fleet.bundle.manifest.head.optimiser
        random = codecs.generator(fleet.plan.run.seed, "draw")
        for number in range(1, rounds + 1):
            spent = sum(self.spent.values())
            now_s = _STARTED_S + number * _ROUND_S
            situation = Situation(now_s, _STARTED_S, rounds - number + 1, _ROUND_S, spent)
            here = Surroundings(
                number, situation, fleet.coordinates, lambda steps: of_optimiser(optimiser, steps, given), random
            )
            made = plan_round(fleet.plan, [self._entrant(device) for device in fleet.devices], here)
            population = None
            if made.whole is not None:
                found = {name: guesses.of_device(self.recent.get(name), self.last, number) for name in made.weights}
                population = Population(made.whole, guesses.of_all(made.weights, found.get), found.get)
            fold = Fold(fleet.plan.aggregate, fleet.shapes, {line.device_id: line for line in made.lines}, population)
            for line in made.lines:
                self._one(by_name[line.device_id], line, number, fold)
            after = fold.head_after(fleet.head)
            if made.whole is not None:
                unit = np.float32(made.whole.work / made.whole.weight)
                self.last = {name: value / unit for name, value in trees.subtract(after, fleet.head).items()}
            fleet.move(after, number)
            yield

    def _one(self, device: Device, line: OrderLine, number: int, fold: Fold) -> None:
        fleet = self.fleet
        up, down, before = fleet.bytes_up, fleet.bytes_down, fleet.joules.by_radio["wifi"]
        report = fleet.ask(device, number, steps=line.steps, bits=line.bits)
        joules = fleet.joules.by_radio["wifi"] - before
        work_done = Work(0, report.steps_done, fleet.bytes_up - up, fleet.bytes_down - down)
        self.spent[device.name] += joules
        self.costs[device.name].observe(work_done, _metered(device, fleet, work_done))
        update = _decoded(fleet, report)
        fold.add(report, update)
        unit = np.float32(report.local_normaliser)
        self.recent[device.name] = Remembered({name: value / unit for name, value in update.items()}, number)
        if (size := fold.sizes_of(report, update)) is not None:
            self.sizes[device.name] = size
            self.rounds_of[device.name].append(number)

    def _entrant(self, device: Device) -> Entrant:
        change, deviation = self.sizes.get(device.name, (None, None))
        return Entrant(
            device.name, device.examples, self.fleet.steps(device), self.costs[device.name],
            Charged(self.spent[device.name], 0.0), work_w=work_w_of(device.board),
            bytes_down=4 * self.fleet.coordinates, rounds=tuple(self.rounds_of[device.name]), change=change,
            deviation=deviation,
        )  # fmt: skip


def _metered(device: Device, fleet: Fleet, done: Work) -> tuple[PhaseEnergy, ...]:
    from benchmarks.budgets.fleet import _LINKS as LINKS

    prices = prices_of(device.board, macs=None, coordinates=fleet.coordinates, batch_size=32)
    up_j, down_j, wake_j = LINKS["wifi"]
    found = (
        (Phase.TRAIN, prices.train_fixed_j + prices.step_j * done.steps),
        (Phase.ENCODE, prices.encode_j),
        (Phase.SEND, wake_j + up_j * done.bytes_up),
        (Phase.IDLE, down_j * done.bytes_down),
    )
    return tuple(PhaseEnergy(phase, joules, 1.0, 0.0, "estimated", "counted", None) for phase, joules in found)


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the comparison: its plan, and its rounds."""

    plan: Callable[[Task], str]
    rounds: Callable[[Fleet, int], Rounds]
    fits: Callable[[Task], bool] = lambda task: True


def _closed(method: str, project: int = 0) -> Callable[[Task], str]:
    text = f'[train]\nmethod = "{method}"\n' + (f"[closed_form]\nproject = {project}\n" if project else "")
    return lambda task: text


def _planner_text(task: Task) -> str:
    # A total of half of what everyone would spend in the same rounds, so that the planner has to choose.
    fleet_j = 0.5 * task.devices * 30 * 0.25
    return (
        '[update]\ncodec = "entropy_coded"\nbits = 2\n[downlink]\ncodec = "entropy_coded_mmse"\nbits = 2\n'
        '[aggregate]\nweight = ["by_examples"]\n[planner]\npolicy = "joules"\np_min = 0.1\n'
        f"[budget]\nfleet_j = {fleet_j}\n"
    )


METHODS: dict[str, Method] = {
    "fedavg": Method(lambda task: '[aggregate]\nnormalise = "none"\n', lambda fleet, n: averaged(fleet, 1, n)),
    "fedprox": Method(
        lambda task: f'[train]\nproximal_mu = {_PROXIMAL_MU}\n[aggregate]\nnormalise = "none"\n',
        lambda fleet, n: averaged(fleet, 1, n),
    ),
    "scaffold": Method(
        lambda task: '[train]\ncorrection = "scaffold"\n[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n',
        lambda fleet, n: averaged(fleet, 1, n),
    ),
    **{
        name: Method(
            lambda task, server=server: f'[aggregate]\nnormalise = "none"\nserver = "{server}"\n',  # type: ignore[misc]
            lambda fleet, n: averaged(fleet, 1, n),
        )
        for name, server in (("fedavgm", "momentum"), ("fedadam", "adam"), ("fedyogi", "yogi"))
    },
    "planner": Method(_planner_text, lambda fleet, n: _Planner(fleet).rounds(n)),
    "closed_form": Method(_closed("closed_form"), one_pass),
    **{
        f"closed_form, projected to {width}": Method(
            _closed("closed_form", width), one_pass, lambda task: task.train.shape[1] >= WIDE
        )
        for width in PROJECTED
    },
    "closed_form+sgd": Method(_closed("closed_form+sgd"), one_pass),
}
SERVERS = ("fedavgm", "fedadam", "fedyogi")
OPTIMISERS = ("fedavg", "fedprox", "scaffold", *SERVERS)


def run(task: Task, name: str, seed: int, rounds: int, home: Path) -> tuple[Fleet, list[dict[str, float]]]:
    """One run; after each round what was spent since the start, and how good the newest head is."""
    method = METHODS[name]
    fleet = Fleet(task, plan_of(method.plan(task), seed, rounds), seed, home)
    course = [_now(fleet, 0)]
    for number, _ in enumerate(method.rounds(fleet, rounds), 1):
        course.append(_now(fleet, number))
    return fleet, course


def _now(fleet: Fleet, number: int) -> dict[str, float]:
    spent = {f"{radio}_j": joules for radio, joules in fleet.joules.by_radio.items()}
    sent = {"bytes_up": float(fleet.bytes_up), "bytes_down": float(fleet.bytes_down)}
    return {"round": float(number), "accuracy": fleet.accuracy(), "seen": fleet.seen(), **spent, **sent}
