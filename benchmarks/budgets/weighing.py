"""What weights by energy budgets cost in accuracy where budgets go with classes, beside weights by examples alone.

    .venv/bin/python benchmarks/budgets/weighing.py --quick                        # cifar10, under three minutes
    .venv/bin/python benchmarks/budgets/weighing.py --only cifar10,flowers,mnist --rounds 12 --json OUT

Devices have shards of Dirichlet(0.1), and budgets from 1 to 16 J that rise with the class that a device has most of:
the worst that can happen to a fleet whose rich devices see other things than its poor ones. Nobody is cut short:
budgets are weights here, so that only their say differs. Accuracies are on held-out examples that nothing was chosen
by: of all classes, which are alike there, and of that half of the classes whose devices are poorest. The distance is
that of the weights from those by examples, total variation. Methods: the mean of changes with its defaults, after the
last round, and the closed form. Points lost are against the same method and seed with weight = ["by_examples"].
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.one_pass.fleet import Fleet, Task, mean_and_interval
from benchmarks.one_pass.methods import plan_of
from benchmarks.one_pass.tasks import NAMES, tasks
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.unbiased import distance
from coordinator.run.reports.aggregation import Fold
from coordinator.run.reports.statistics_fold import StatisticsFold, features_of
from protos.errors import EdgejouleError
from protos.update.tensors import decode
from protos.update.trees import Tree

RICHEST = 16.0
WEIGHTS = {"by_examples x by_budget": '["by_examples", "by_budget"]', "by_examples": '["by_examples"]'}
METHODS = {"fednova": "", "closed_form": '[train]\nmethod = "closed_form"\n'}


@dataclass(frozen=True)
class Row:
    """Figures over all seeds; accuracies and losses as shares."""

    setting: str
    method: str
    weight: str
    quantity: str
    mean: float
    ci95: float
    seeds: int


def budgets_of(fleet: Fleet, classes: int) -> dict[str, float]:
    """Joules by device, from 1 to RICHEST on a logarithmic scale, by the class that it has most of."""
    most = {device.name: int(np.bincount(device.labels, minlength=classes).argmax()) for device in fleet.devices}
    return {name: RICHEST ** (label / (classes - 1)) for name, label in most.items()}


def run(task: Task, method: str, weight: str, seed: int, rounds: int, home: Path) -> dict[str, float]:
    """One run; what its head is worth."""
    plan = plan_of(f"{METHODS[method]}[aggregate]\nweight = {WEIGHTS[weight]}\n", seed, rounds)
    fleet = Fleet(task, plan, seed, home)
    classes = len(task.bundle.manifest.classes)
    budgets = budgets_of(fleet, classes)
    sums = method == "closed_form"
    lines = {
        device.name: OrderLine(device.name, 0 if sums else fleet.steps(device), None, standing_j=budgets[device.name])
        for device in fleet.devices
    }
    head = _summed(fleet, lines) if sums else _averaged(fleet, lines, rounds)
    by_examples = {device.name: float(device.examples) for device in fleet.devices}
    chosen = {name: by_examples[name] * (budgets[name] if "by_budget" in weight else 1.0) for name in budgets}
    chosen_half = np.arange(len(task.test_labels)) % 2 == 1
    labels = task.test_labels[chosen_half]
    right = _scores(fleet, head).argmax(axis=1) == labels
    return {
        "accuracy": float(right.mean()),
        "accuracy of the poorer half of classes": float(right[labels < (classes + 1) // 2].mean()),
        "distance from weights by examples": distance(chosen, by_examples).total_variation,
    }


def _averaged(fleet: Fleet, lines: dict[str, OrderLine], rounds: int) -> Tree:
    for number in range(1, rounds + 1):
        fold = Fold(fleet.plan.aggregate, fleet.shapes, lines)
        for device in fleet.devices:
            report = fleet.ask(device, number, steps=fleet.steps(device))
            fold.add(report, decode(report.update, fleet.shapes))
        fleet.move(fold.head_after(fleet.head), number)
    return fleet.head


def _summed(fleet: Fleet, lines: dict[str, OrderLine]) -> Tree:
    fold = StatisticsFold(fleet.plan, fleet.bundle, lines, tuple, fleet.judge)
    features = features_of(fleet.plan, fleet.bundle)
    for device in fleet.devices:
        fold.add(fleet.ask(device, 1, steps=0, statistics=features), None)
    return fold.head_after(fleet.head)


def _scores(fleet: Fleet, head: Tree) -> Any:
    spec, (mean, scale) = fleet.bundle.manifest.backbone, fleet.bundle.feature_affine()
    held_out = fleet.task.test[np.arange(len(fleet.task.test_labels)) % 2 == 1]
    x = ((held_out.astype(np.float64) - spec.output_zero_point) * spec.output_scale - mean) * scale
    return x @ head["out_kernel"] + head["out_bias"]


def rows_of(task: Task, seeds: Sequence[int], rounds: int) -> list[Row]:
    """Every method with either weights."""
    rows: list[Row] = []
    for method in METHODS:
        found: dict[str, list[dict[str, float]]] = {weight: [] for weight in WEIGHTS}
        for seed in seeds:
            for weight in WEIGHTS:
                with tempfile.TemporaryDirectory(prefix="edgejoule-weighing-") as home:
                    found[weight].append(run(task, method, weight, seed, rounds, Path(home)))
                print(f"{task.setting}: {method}, {weight}, seed {seed}: {found[weight][-1]}", file=sys.stderr)
        for weight, runs in found.items():
            plain = found["by_examples"]
            figures = {name: [mapping[name] for mapping in runs] for name in runs[0]}
            figures["lost"] = [other["accuracy"] - row["accuracy"] for row, other in zip(runs, plain, strict=True)]
            for name, values in figures.items():
                rows.append(Row(task.setting, method, weight, name, *mean_and_interval(values), len(values)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; accuracies in percent, losses in points."""
    by_key = {(row.setting, row.method, row.weight, row.quantity): row for row in rows}
    columns = ("distance from weights by examples", "accuracy", "accuracy of the poorer half of classes", "lost")
    heads = ("distance", "accuracy, %", "poorer half of classes, %", "points lost")
    lines = [f"| data | method | weight | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    for setting, method, weight in dict.fromkeys((row.setting, row.method, row.weight) for row in rows):
        cells = []
        for column in columns:
            one, factor = by_key[setting, method, weight, column], 1.0 if column == columns[0] else 100.0
            cells.append(f"{factor * one.mean:.2f} ± {factor * one.ci95:.2f}")
        lines.append(f"| {setting} | {method} | {weight} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="cifar10 alone, five rounds")
    parser.add_argument("--only", metavar="NAME[,NAME]", default="cifar10,flowers", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--rounds", type=int, default=12, metavar="R")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    only, rounds = (["cifar10"], 5) if options.quick else (options.only.split(","), options.rounds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgejoule-weighing-") as folder:
        try:
            for task in tasks(Path(folder), quick=options.quick, only=only):
                rows += rows_of(task, range(options.seeds), rounds)
        except EdgejouleError as error:
            print(f"weighing: {error}", file=sys.stderr)
            return error.exit_code
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
