"""Rules against false reports, under attack and without: accuracy on held-out data.

    .venv/bin/python benchmarks/paper_methods/false_reports.py --json OUT --table OUT.md
    .venv/bin/python benchmarks/paper_methods/false_reports.py --only digits --quick      # about two minutes on 2 cores

Devices are the device's own round function on real bundles, with compiled heads, codecs and serialised messages;
reports are folded by `coordinator/run`. 20 devices, examples spread by Dirichlet(0.5), heads that begin at zero, 20
steps a round at a rate of 0.1, else defaults of a plan but for the rule, which expects 20 % of false reports whether
there are any or not. Attackers are the first 10 % or 20 % of the devices:

scaling             its change times 100
sign flip           its change times -1
label flip          honest steps on labels c -> C - 1 - c
little is enough    mean less z standard deviations of the honest changes, coordinate by coordinate, z as in Baruch,
                    Baruch, Goldberg (NeurIPS 2019); the attackers know all honest changes

These parameters were fixed before any seed was run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.federated import call
from benchmarks.one_pass import tasks as one_pass_tasks
from benchmarks.one_pass.fleet import Device, Fleet, Task
from benchmarks.one_pass.methods import plan_of
from benchmarks.papers import Row, row
from coordinator.budgets.order_line import OrderLine
from coordinator.run.downlink import Downlink
from coordinator.run.reports.aggregation import Fold
from edge_runtime.round.work import Workbench, work
from protos.errors import EdgejouleError
from protos.orders import DeviceReport, TrainOrder
from protos.update import codecs, trees
from protos.update.tensors import decode
from protos.update.trees import Tree

DEVICES, SCHEME, EXPECTED = 20, "dirichlet:0.5", 0.2
STEPS, RATE = 20, 0.1
SCALED = 100.0
ATTACKS = ("scaling", "sign flip", "label flip", "little is enough")
SHARES = (0.1, 0.2)
DATA = ("digits", "cifar10", "femnist")
RULES = {
    "mean": "",
    "median": 'rule = "median"',
    "trimmed mean": 'rule = "trimmed_mean"',
    "multi-Krum": 'rule = "multi_krum"',
    "geometric median": 'rule = "geometric_median"',
    "centred clipping": 'rule = "centred_clipping"',
    "clip": "clip = 1.0",
    "clip, mixing": "clip = 1.0\nmix = 1",
    "clip, mixing, trimmed mean": 'clip = 1.0\nmix = 1\nrule = "trimmed_mean"',
}


def run(task: Task, rule: str, attack: str, share: float, seed: int, rounds: int) -> float:
    """Accuracy after all rounds."""
    text = f"[train]\nsteps = {STEPS}\nrate = {RATE}\n"
    text += f'[aggregate]\nweight = ["by_examples"]\nmalicious = {EXPECTED}\n{RULES[rule]}\n'
    with tempfile.TemporaryDirectory(prefix="edgejoule-robust-") as home:
        fleet = Fleet(task, plan_of(text, seed, rounds), seed, Path(home))
        # A head that is good from the start hides what a rule loses.
        fleet.head = {name: np.zeros_like(value) for name, value in fleet.head.items()}
        fleet.downlink = Downlink(fleet.head, trees.version(task.bundle.initial_head()))
        false = set(range(round(share * len(fleet.devices)))) if attack else set()
        if attack == "label flip":
            for at in false:
                _flip(fleet.devices[at], len(task.bundle.manifest.classes))
        for number in range(1, rounds + 1):
            _round(fleet, number, attack, false)
        return fleet.accuracy()


def _flip(device: Device, classes: int) -> None:
    device.labels = (classes - 1 - device.labels).astype(np.int32)
    summary = SimpleNamespace(labels=device.labels, train_count=device.examples)
    device.bench = dataclasses.replace(device.bench, summary=summary)  # type: ignore[arg-type]


def _round(fleet: Fleet, number: int, attack: str, false: set[int]) -> None:
    lines = {
        each_device.name: OrderLine(each_device.name, fleet.steps(each_device), None) for each_device in fleet.devices
    }
    fold = Fold(fleet.plan.aggregate, fleet.shapes, lines, update=fleet.plan.update)
    honest: list[Tree] = []
    for at in sorted(range(len(fleet.devices)), key=lambda at: (at in false, at)):
        device = fleet.devices[at]

        def lying(order: TrainOrder, bench: Workbench) -> DeviceReport:
            report = work(order, bench, lambda: False)
            made = _false(attack, decode(report.update, fleet.shapes), honest, len(false))
            coder = codecs.build(order.codec.name, order.codec.parameters)
            tensors, _ = coder.encode(made, coder.init(fleet.shapes), np.random.default_rng(order.seed))
            return dataclasses.replace(report, update=tensors)

        lies = at in false and attack != "label flip"
        report = fleet.ask(device, number, steps=fleet.steps(device), work_with=lying if lies else None)
        update = decode(report.update, fleet.shapes)
        if at not in false:
            honest.append(update)
        fold.add(report, update)
    fleet.move(fold.head_after(fleet.head), number)


def _false(attack: str, own: Tree, honest: Sequence[Tree], false: int) -> Tree:
    if attack == "scaling":
        return {name: value * np.float32(SCALED) for name, value in own.items()}
    if attack == "sign flip":
        return {name: -value for name, value in own.items()}
    count = len(honest) + false
    supporters = count // 2 + 1 - false
    z = NormalDist().inv_cdf((count - false - supporters) / (count - false))
    made = {}
    for name in own:
        stacked = np.stack([mapping[name] for mapping in honest])
        made[name] = (stacked.mean(axis=0) - np.float32(z) * stacked.std(axis=0)).astype(np.float32)
    return made


def digits(folder: Path) -> Task:
    """The digits of `make demo`."""
    from firmware_tools.pretrain.digits import pretrain
    from protos.datafiles.dataset import load
    from protos.model.backbone import Backbone
    from protos.model.bundle import open_bundle

    made, bundle = pretrain(folder), folder / "digits-bundle"
    call("firmware-tools", "convert", made.model, "-o", bundle, "--calibrate", made.fleet_data, "--force")
    data, opened = load(made.fleet_data), open_bundle(bundle)
    embeddings = Backbone(opened).embed(data.x)
    return one_pass_tasks.made("digits", opened, embeddings, data.y, data.is_test, SCHEME, DEVICES)


def tasks(folder: Path, only: Sequence[str]) -> Iterator[Task]:
    """Every data set that is named, spread alike."""
    for name in only:
        if name == "digits":
            yield digits(folder)
            continue
        for task in one_pass_tasks.tasks(folder, quick=False, only=(name,)):
            yield dataclasses.replace(task, devices=DEVICES, scheme=SCHEME)


def compared(task: Task, rules: Sequence[str], attacks: Sequence[str], seeds: range, rounds: int) -> list[Row]:
    """Accuracies of every rule under every attack."""
    rows = [Row(task.setting, "central refit", "accuracy", task.central, None, 1)]
    for rule in rules:
        for attack, share in (("", 0.0), *((attack, share) for share in SHARES for attack in attacks)):
            found = [run(task, rule, attack, share, seed, rounds) for seed in seeds]
            quantity = f"{attack}, {share:.0%}" if attack else "nobody"
            rows.append(row(task.setting, rule, quantity, found))
            print(f"{task.name}: {rule}: {quantity}: {np.mean(found):.4f}", file=sys.stderr)
    return rows


def table(rows: Sequence[Row]) -> str:
    """One table for each data set: rules down, attacks across, percent."""
    lines: list[str] = []
    for setting in dict.fromkeys(each_row.setting for each_row in rows):
        here = [each_row for each_row in rows if each_row.setting == setting]
        central = next(each_row.mean for each_row in here if each_row.method == "central refit")
        heads = list(dict.fromkeys(each_row.quantity for each_row in here if each_row.method != "central refit"))
        lines += [f"**{setting}**: central refit {100 * (central or 0):.1f} %", ""]
        lines += ["| rule | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for rule in dict.fromkeys(each_row.method for each_row in here if each_row.method != "central refit"):
            cells = {each_row.quantity: each_row for each_row in here if each_row.method == rule}
            lines.append(f"| {rule} | " + " | ".join(_cell(cells[head]) for head in heads) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(one: Row) -> str:
    if one.mean is None:
        return "-"
    return f"{100 * one.mean:.1f}" if one.ci95 is None else f"{100 * one.mean:.1f} ± {100 * one.ci95:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="NAME[,NAME]", default=",".join(DATA), help=f"data sets, of {', '.join(DATA)}"
    )
    parser.add_argument("--rule", action="append", choices=RULES, help="this rule alone; repeat it for more")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="this attack alone; repeat it for more")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds (default 3, quick 1)")
    parser.add_argument("--rounds", type=int, metavar="R", help="rounds (default 15, quick 6)")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows here")
    parser.add_argument("--table", type=Path, metavar="OUT.md", help="write the tables here")
    options = parser.parse_args()
    rounds = options.rounds or (6 if options.quick else 15)
    seeds = range(1 if options.quick else options.seeds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgejoule-robust-") as folder:
        try:
            for task in tasks(Path(folder), options.only.split(",")):
                rows += compared(task, options.rule or tuple(RULES), options.attack or ATTACKS, seeds, rounds)
        except EdgejouleError as error:
            print(f"robust: {error}", file=sys.stderr)
            return error.exit_code
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(each_row) for each_row in rows], indent=1))
    if options.table:
        options.table.write_text(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
