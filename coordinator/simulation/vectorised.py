"""The vectorised engine: linear heads of very many boards, a few dozen shards at a time, in numpy.

The steps are those of the compiled head: softmax cross-entropy over the batch's examples, decay on the kernel, the
proximal pull, heavy-ball momentum. With x [B, D] the standardised features of a batch of n examples, y their classes:

    P = softmax(x W + b) - onehot(y),   G = x^T P / n + decay W + mu (W - W0),   V = m V + G,   W = W - rate V

(b alike, without decay). Batches, codecs, reports, the fold, the downlink and the evaluation are those of a real run,
by the same seeds. What is left out is said in :func:`check`: no run machine, store, planner or budgets; every board is
asked in every round, and one that is later than the deadline is not folded.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.budgets.order_line import OrderLine
from coordinator.lab.shards import Divided, device_names
from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.run.downlink import Downlink
from coordinator.run.evaluation import Evaluator, figures_of
from coordinator.run.planning import correction_of, prepare, seed_for, steps_for
from coordinator.run.reports.aggregation import Fold
from coordinator.simulation.costs import WRITES, BoardCosts, writing_s
from coordinator.simulation.devices import LOOK_S, Shared
from coordinator.simulation.fleet import FleetSettings
from coordinator.simulation.links import Link
from coordinator.simulation.results import PHASES, Arrays, empty_arrays
from edge_runtime.power.meters.estimate import MODEL_LIMIT
from edge_runtime.round.inputs.embeddings import dequantise
from edge_runtime.round.training import batches
from protos.convert.orders import order_to
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import NonFiniteError, UsageError
from protos.model.manifest import Manifest
from protos.model.task import CLASSIFICATION
from protos.normaliser import of_optimiser
from protos.orders import CodecOrder, DeviceReport, Holding, MeterCard, StopReason, Strain, TrainOrder
from protos.plan.plan import RunPlan
from protos.update import codecs, trees
from protos.update.tensors import decode
from protos.update.trees import Tree

Floats = npt.NDArray[np.float32]
# Shards that are trained at once: the kernels of so many fit the cache of a core.
_AT_ONCE = 32
_INPUTS = frozenset({"rate", "momentum", "proximal_mu", "weight_decay", "correction"})


def check(plan: RunPlan, manifest: Manifest, settings: FleetSettings) -> None:
    """Refuse what this engine does not do.

    Raises:
        UsageError: it names the first, and what to do.
    """
    head, aggregate = manifest.head, plan.aggregate
    codec = codecs.build(plan.update.codec, plan.update.parameters)
    budget = plan.budget
    has_budget = budget.has_accounts or budget.per_round_j is not None or bool(budget.device)
    inputs = {tensor.name for tensor in head.inputs}
    for is_so, where, what in (
        (manifest.task != CLASSIFICATION, "bundle", "the head is no classifier"),
        (head.hidden_units is not None, "bundle", "the head has a hidden layer"),
        (head.tail is not None, "bundle", "layers in front of the head train too"),
        (head.objective != "cross_entropy", "bundle", f"the objective is {head.objective!r}"),
        (head.optimiser != "sgd", "bundle", f"the optimiser is {head.optimiser!r}"),
        (not inputs <= _INPUTS, "bundle", f"the train step takes {', '.join(sorted(inputs - _INPUTS))}"),
        (plan.train.method != "sgd", "train.method", f"{plan.train.method!r} has sums"),
        (correction_of(plan, manifest) != "none", "train.correction", "control variates"),
        (bool(codec.init(head.shapes())), "update.codec", f"{plan.update.codec!r} has a memory on each board"),
        (plan.planner.policy != "none" or plan.planner.participation != "known", "planner", "there is no planner"),
        (has_budget or settings.budget_j is not None, "budget", "there are no budgets"),
        (aggregate.gathers, "aggregate", "robust rules hold all reports of a round"),
        (plan.privacy.clip is not None, "privacy", "there is no noise"),
        (plan.round.sample is not None, "round.sample", "every board is asked"),
        (plan.round.enough < 1, "round.enough", "every board is waited for"),
        (plan.round.late > 0 or plan.round.buffer is not None, "round", "no report counts in a later round"),
        (plan.run.start_from is not None, "run.start_from", "it begins with the head of the bundle"),
        (settings.dropout > 0, "dropout", "no board loses its power"),
    ):
        if is_so:
            raise UsageError(f"the vectorised engine does not do that: {what}", where=where, fix='take engine "exact"')


@dataclass(frozen=True)
class Ran:
    """What the engine gives back."""

    status: RunStatus
    head: Tree
    arrays: Arrays
    virtual_s: float
    notes: tuple[str, ...]


def run_vectorised(
    plan_toml: str,
    folder: Path,
    settings: FleetSettings,
    made: Divided,
    shared: Shared,
    held: npt.NDArray[Any],
    on_round: Callable[[RoundStatus], None] | None,
) -> Ran:
    """Run a plan over a fleet; arguments as of :func:`coordinator.simulation.exact.run_exactly`."""
    prepared = prepare(plan_toml, folder)
    check(prepared.plan, prepared.bundle.manifest, settings)
    return _Vectorised(prepared.plan, prepared.inputs, settings, made, shared, held, on_round).run()


class _Vectorised:
    def __init__(
        self,
        plan: RunPlan,
        inputs: Mapping[str, float],
        settings: FleetSettings,
        made: Divided,
        shared: Shared,
        held: npt.NDArray[Any],
        on_round: Callable[[RoundStatus], None] | None,
    ) -> None:
        self._plan, self._inputs, self._settings, self._on_round = plan, dict(inputs), settings, on_round
        self._bundle, self._shared = shared.bundle, shared
        manifest = shared.bundle.manifest
        self._shapes = manifest.head.shapes()
        self._batch, self._classes = manifest.head.batch_size, len(manifest.classes)
        mean, scale = shared.bundle.feature_affine()
        # float32 [N, D], once for the fleet.
        self._x: Floats = np.ascontiguousarray((dequantise(shared.embeddings, manifest.backbone) - mean) * scale)
        self._y = np.asarray(shared.labels, np.int32)
        self._parts = made.parts
        self._names = device_names(settings.devices)
        count = len(made.parts)
        self._steps = np.array([steps_for(plan, self._batch, len(part)) for part in made.parts])
        coordinates = trees.coordinates(shared.bundle.initial_head())
        self._costs = [settings.costs_of(index, shared.bundle, coordinates) for index in range(count)]
        self._links = [settings.link_of(index) for index in range(count)]
        self._meters = [_meter_of(settings.board_of(index)) for index in range(count)]
        self._codec = codecs.build(plan.update.codec, plan.update.parameters)
        self._evaluator = Evaluator(shared.bundle, held, made.test.y) if len(made.test) else None
        name = hashlib.sha256(f"{settings.seed}/{plan.plan_id}/{shared.bundle.bundle_id}".encode()).hexdigest()[:10]
        self._run_id = f"run-{name}"
        self.arrays = empty_arrays(plan.run.rounds, count)
        self.arrays["examples"][:] = [len(part) for part in made.parts]

    def run(self) -> Ran:
        """All rounds."""
        plan = self._plan
        head = self._bundle.initial_head()
        downlink = Downlink(head, trees.version(head))
        server: Tree | None = None
        # What boards hold: all of them the same, since all are asked in every round.
        holding = Holding(rebuilds=True)
        now_s, ended_s = 0.0, np.zeros(len(self._parts))
        rounds = [self._status(0, head, 0.0)]
        for number in range(1, plan.run.rounds + 1):
            lines = {
                name: OrderLine(name, int(steps), None) for name, steps in zip(self._names, self._steps, strict=True)
            }
            fold = Fold(plan.aggregate, self._shapes, lines, None, server, None, plan.update, plan.privacy)
            took_s = self._one_round(number, downlink, holding, fold, now_s, ended_s)
            head = fold.head_after(head)
            server = fold.server_after
            holding = Holding(downlink.version, rebuilds=True)
            downlink = downlink.after(head, number, plan)
            now_s += took_s
            rounds.append(self._status(number, head, now_s))
            if self._on_round is not None:
                self._on_round(rounds[-1])
        status = RunStatus(
            self._run_id, plan.run.name, "finished", "", plan.plan_id, self._bundle.bundle_id, plan.run.rounds,
            tuple(rounds), 0.0, now_s,
        )  # fmt: skip
        energy_j = self.arrays["energy_j"]
        self.arrays["true_j"] = np.nansum(energy_j[..., 1:], axis=(0, 2))
        return Ran(status, head, self.arrays, now_s, ("rows of single devices are in the arrays alone",))

    def _status(self, number: int, head: Tree, now_s: float) -> RoundStatus:
        accuracy = loss = None
        if self._evaluator is not None:
            accuracy, loss = figures_of(self._evaluator.evaluate(head))
        arrays = self.arrays
        if accuracy is not None and loss is not None:
            arrays["accuracy"][number], arrays["loss"][number] = accuracy, loss
        return RoundStatus(number, "closed", accuracy, loss, (), now_s, now_s, trees.version(head))

    def _one_round(
        self, number: int, downlink: Downlink, holding: Holding, fold: Fold, now_s: float,
        ended_s: npt.NDArray[np.float64],
    ) -> float:  # fmt: skip
        """Train, code, fold and meter all boards; returns how long the round takes, s."""
        plan, arrays, at = self._plan, self.arrays, number - 1
        inputs = dict(self._inputs)
        if "rate" in inputs:
            inputs["rate"] *= plan.train.rate_decay ** max(0, number - 1)
        given = {tensor.name: tensor.default for tensor in self._bundle.manifest.head.inputs} | inputs
        sent = downlink.head_for(holding)
        order = TrainOrder(
            run_id=self._run_id, round=number, plan_id=plan.plan_id, bundle_id=self._bundle.bundle_id,
            head_version=sent.version, head=sent.whole, steps=1, inputs=inputs,
            codec=CodecOrder(plan.update.codec, dict(plan.update.parameters)), budget_j=None,
            deadline_s=plan.round.deadline_s, seed=1, base=sent.base, differences=sent.differences, attempt=1,
        )  # fmt: skip
        message = order_to(order)
        normalisers = {int(steps): of_optimiser("sgd", int(steps), given) for steps in np.unique(self._steps)}
        longest_s = 0.0
        # Boards with as many steps together: none waits for others within its group.
        by_steps = np.argsort(-self._steps, kind="stable")
        changes: list[tuple[float, int, DeviceReport, Tree]] = []
        for start in range(0, len(by_steps), _AT_ONCE):
            group = by_steps[start : start + _AT_ONCE]
            seeds = [seed_for(plan, self._names[index], number) for index in group]
            kernels, biases, losses = self._train(group, seeds, number, downlink.shown, given)
            for place, index in enumerate(group):
                name, steps = self._names[index], int(self._steps[index])
                message.train.seed, message.train.steps = seeds[place], steps
                bytes_down = message.ByteSize()
                change = {
                    "out_bias": biases[place] - downlink.shown["out_bias"],
                    "out_kernel": kernels[place] - downlink.shown["out_kernel"],
                }
                if not all(np.isfinite(value).all() for value in change.values()):
                    raise NonFiniteError(
                        "training diverged: the head is no longer made of sensible numbers",
                        where=f"round {number}, {name}", fix="use a smaller rate in the plan",
                    )  # fmt: skip
                random = codecs.generator(seeds[place], "encode", name, number)
                update, _ = self._codec.encode(change, {}, random)
                seconds, energy_j = self._metered(int(index), number, steps, bytes_down, ended_s[index], now_s)
                report = DeviceReport(
                    run_id=self._run_id, round=number, device_id=name, plan_id=plan.plan_id,
                    bundle_id=self._bundle.bundle_id, head_version=sent.version, steps_planned=steps, steps_done=steps,
                    examples=len(self._parts[index]), local_normaliser=normalisers[steps],
                    stop_reason=StopReason.COMPLETED, loss_first=losses[place][0], loss_last=losses[place][1],
                    engine=self._shared.engine, energy=_records(energy_j, seconds, self._meters[index]),
                    update=update, embedded=len(self._parts[index]) if number == 1 else 0, train_s=seconds[2],
                    strain=Strain(), attempt=1,
                )  # fmt: skip
                bytes_up = len(serialise_report(report, self._meters[index]))
                link = self._links[index]
                sending_s = self._costs[index].send_fixed_s + link.latency_s + bytes_up / link.up_bytes_s
                busy_j = (self._costs[index].send_w - self._costs[index].idle_w) * self._costs[index].send_fixed_s
                sending_s += WRITES * writing_s(len(self._parts))
                seconds[4] = sending_s
                energy_j[4] = self._costs[index].idle_w * sending_s + busy_j + link.wake_j + link.up_j * bytes_up
                arrays["seconds"][at, index], arrays["energy_j"][at, index] = seconds, energy_j
                arrays["ordered"][at, index] = True
                arrays["steps"][at, index] = steps
                arrays["bytes_up"][at, index], arrays["bytes_down"][at, index] = bytes_up, bytes_down
                took_s = link.latency_s + self._costs[index].around_s + float(seconds[1:].sum())
                ended_s[index] = now_s + took_s
                if took_s < plan.round.deadline_s:
                    longest_s = max(longest_s, took_s)
                    changes.append((took_s, int(index), report, decode(update, self._shapes)))
                else:
                    longest_s = plan.round.deadline_s
            # In memory for a group alone: the fold adds up in float64, and its order matters in the last bits alone.
            for _, index, report, tree in sorted(changes, key=lambda entry: entry[:2]):
                fold.add(report, tree)
                arrays["accepted"][at, index] = True
                arrays["weight"][at, index] = fold.weight_of(report)
            changes.clear()
        total = arrays["weight"][at].sum()
        if total > 0:
            arrays["weight"][at] /= total
        quorum = plan.round.quorum * len(self._parts)
        if arrays["accepted"][at].sum() < quorum:
            raise UsageError(
                f"round {number} has {int(arrays['accepted'][at].sum())} of {len(self._parts)} reports at its deadline",
                where="round.quorum", fix="a longer round.deadline_s, or a smaller quorum",
            )  # fmt: skip
        return longest_s

    def _train(
        self, group: npt.NDArray[np.int64], seeds: Sequence[int], number: int, start: Tree, given: Mapping[str, float]
    ) -> tuple[Floats, Floats, list[tuple[float, float]]]:
        """Heads of a group after their steps: kernels float32 [G, D, C], biases [G, C], first and last mean losses."""
        size, batch = len(group), self._batch
        kernel0, bias0 = start["out_kernel"], start["out_bias"]
        kernels: Floats = np.repeat(kernel0[None], size, axis=0)
        biases: Floats = np.repeat(bias0[None], size, axis=0)
        momentum, rate = np.float32(given.get("momentum", 0.0)), np.float32(given.get("rate", 0.0))
        decay, pull = np.float32(given.get("weight_decay", 0.0)), np.float32(given.get("proximal_mu", 0.0))
        moving = np.zeros_like(kernels) if momentum else None
        moving_bias = np.zeros_like(biases) if momentum else None
        orders = [
            batches(len(self._parts[index]), batch, codecs.generator(seed, "batches", self._names[index], number))
            for index, seed in zip(group, seeds, strict=True)
        ]
        losses: list[list[float]] = [[] for _ in group]
        for step in range(int(self._steps[group[0]])):
            # In the order of steps, most first: those that go on are the first ones.
            active = int((self._steps[group] > step).sum())
            rows = np.zeros((active, batch), np.int64)
            share = np.zeros((active, batch), np.float32)
            for place in range(active):
                mine = next(orders[place])
                rows[place, : len(mine)] = self._parts[group[place]][mine]
                share[place, : len(mine)] = 1.0 / len(mine)
            x, y = self._x[rows], self._y[rows]
            scores = np.matmul(x, kernels[:active]) + biases[:active, None]
            scores -= scores.max(axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=2, keepdims=True)
            right = np.take_along_axis(scores, y[..., None], axis=2)[..., 0]
            told = -(np.log(np.maximum(right, 1e-30)) * share).sum(axis=1)
            for place in range(active):
                losses[place].append(float(told[place]))
            np.put_along_axis(scores, y[..., None], (right - 1.0)[..., None], axis=2)
            scores *= share[..., None]
            gradient = np.matmul(x.transpose(0, 2, 1), scores)
            bias_gradient = scores.sum(axis=1)
            if decay or pull:
                gradient += (decay + pull) * kernels[:active]
            if pull:
                gradient -= pull * kernel0
                bias_gradient += pull * (biases[:active] - bias0)
            if moving is not None and moving_bias is not None:
                moving[:active] = momentum * moving[:active] + gradient
                moving_bias[:active] = momentum * moving_bias[:active] + bias_gradient
                gradient, bias_gradient = moving[:active], moving_bias[:active]
            kernels[:active] -= rate * gradient
            biases[:active] -= rate * bias_gradient
        return (
            kernels,
            biases,
            [self._first_and_last(loss, len(self._parts[i])) for loss, i in zip(losses, group, strict=True)],
        )

    def _first_and_last(self, losses: list[float], examples: int) -> tuple[float, float]:
        """As :func:`edge_runtime.round.training.train` tells them."""
        window = max(1, min(-(-examples // self._batch), len(losses) // 2))
        return float(np.mean(losses[:window])), float(np.mean(losses[-window:]))

    def _metered(
        self, index: int, number: int, steps: int, bytes_down: int, ended_s: float, now_s: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Seconds and joules by phase, float64 [5], but for sending."""
        random = codecs.generator(self._settings.seed, "pace", self._names[index], number, 1)
        noise = self._settings.noise
        pace = float(np.exp(noise * random.standard_normal())) if noise else 1.0
        costs: BoardCosts = self._costs[index]
        link: Link = self._links[index]
        examples = len(self._parts[index])
        # Waiting for a run to begin is no cost of that run.
        waited_s = (0.0 if number == 1 else now_s - ended_s) + link.latency_s
        came_s = bytes_down / link.down_bytes_s
        embed_s = LOOK_S + (pace * (costs.embed_fixed_s + examples * costs.embedding_s) if number == 1 else 0.0)
        train_s = pace * (costs.train_fixed_s + steps * costs.step_s)
        seconds = np.array([waited_s + costs.around_s, embed_s, train_s, pace * costs.encode_s, 0.0, came_s])
        watts = np.array([costs.idle_w, costs.embed_w, costs.train_w, costs.encode_w, 0.0, costs.idle_w])
        energy_j = seconds * watts
        energy_j[PHASES.index(Phase.RECEIVE)] += link.down_j * bytes_down
        return seconds, energy_j


def _meter_of(board: str) -> MeterCard:
    parts = ("estimated", f"simulated:{board}", "none", "model")
    return MeterCard(*parts, zlib.crc32("\0".join(parts).encode()) or 1)


def _records(
    energy_j: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64], meter: MeterCard
) -> tuple[PhaseEnergy, ...]:
    """What a report tells: sending comes later."""
    return tuple(
        PhaseEnergy(
            phase, float(energy_j[at]), float(seconds[at]), 0.0, "estimated", meter.sensor,
            MODEL_LIMIT * float(energy_j[at]),
        )
        for at, phase in enumerate(PHASES)
        if phase is not Phase.SEND
    )  # fmt: skip


def filled(rows: list[dict[str, Any]], run: dict[str, Any], arrays: Arrays) -> None:
    """Write sums of the arrays into rows of rounds that have no rows of devices."""
    for row in rows:
        if row["round"]:
            at = row["round"] - 1
            accepted = arrays["accepted"][at]
            row["bytes_up"], row["bytes_down"] = (int(arrays[key][at].sum()) for key in ("bytes_up", "bytes_down"))
            row["devices"], row["accepted"] = int(arrays["ordered"][at].sum()), int(accepted.sum())
            row["energy_j"] = float(np.nansum(arrays["energy_j"][at][accepted][:, 1:]))
    for key in ("bytes_up", "bytes_down"):
        run[key] = sum(row[key] for row in rows)
    run["energy_j"] = float(sum(row["energy_j"] for row in rows if row["round"]))
