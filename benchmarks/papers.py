"""Published methods against each other, on real backbones and data, by the joules that they need.

    .venv/bin/python benchmarks/papers.py --paper one_pass --json OUT --plot one_pass.png
    .venv/bin/python benchmarks/papers.py --paper one_pass --quick --json OUT      # under three minutes on 2 cores
    .venv/bin/python benchmarks/papers.py --paper optimisers --json OUT
    .venv/bin/python benchmarks/papers.py --paper robust --quick --json OUT
    .venv/bin/python benchmarks/papers.py --paper personal --quick --json OUT
    .venv/bin/python benchmarks/papers.py --paper fl_pqsu --quick --json OUT
    .venv/bin/python benchmarks/papers.py --paper koala --quick --json OUT
    .venv/bin/python benchmarks/papers.py --paper quantfl --quick --json OUT
    .venv/bin/python benchmarks/papers.py --paper diffusion --quick --json OUT --plot sheets.png

one_pass: heads from statistics (Fed3R, arXiv 2406.01116; GH-OFL, arXiv 2602.01186; one-shot federated ridge, arXiv
2601.08216), and whitened steps from there, against FedAvg, FedProx, SCAFFOLD and the joule planner: joules until the
newest head is within one point of a logistic regression on all examples together.

optimisers: the same for what a coordinator may do with the mean of changes.

fl_pqsu: a pruned backbone, updates in few bits, and fewer of them (`fl_pqsu.py`); `--only kernels`: pruned to widths
that take less time; `--only mobilenet`, `--only mobilenet,kernels`: another model.

koala: a large model and small ones that teach each other on images without labels (`koala.py`).

personal: heads for single writers whom the fleet never met (`personal.py`).

quantfl: accuracy against all bits, both ways, from a pre-trained and a random start (`quantfl.py`).

diffusion: a denoiser of latents, trained in few bits (`diffusion.py`).

robust: heads that stay good when their weights are rounded to few bits after training (`robust.py`).

Settings of all methods are the project's defaults, fixed before the seeds that judge. Accuracies are on held-out
examples that nothing was chosen by. Each row is {"setting", "method", "quantity", "mean", "ci95", "seeds"}; null: not
in each seed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.one_pass.fleet import RADIOS, Fleet, Joules, Task, embedding_joules
from benchmarks.one_pass.methods import METHODS, OPTIMISERS, SERVERS, WIDE, plan_of, run
from benchmarks.one_pass.tasks import NAMES, tasks
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from protos.errors import EdgejouleError
from protos.statistics import coding
from protos.statistics.moments import Moments, moments_of, total

CLOSE = 0.01
_ONE_PASS = tuple(name for name in METHODS if name not in SERVERS)


def compared(task: Task, methods: Sequence[str], asked: Asked) -> list[Row]:
    """Rows of every method on one task."""
    rounds, seeds = _rounds(asked), range(asked.first, asked.first + asked.seeds)
    target = task.central - CLOSE
    rows = [Row(task.setting, "central refit", "accuracy", task.central, None, 1)]
    for name in methods:
        if not METHODS[name].fits(task):
            continue
        figures: dict[str, list[float]] = {}
        for seed in seeds:
            one_run = kept(asked, f"one-pass-{task.name}-{rounds}-rounds-seed-{seed}-{name}",
                           partial(_course, task, name, seed, rounds))  # fmt: skip
            course, embedding_j = one_run["course"], one_run["embedding_j"]
            reached = next((one for one in course if one["accuracy"] >= target), None)
            exported = max(course, key=lambda one: (one["seen"], one["round"]))
            found = {"accuracy": exported["accuracy"], "accuracy of the last head": course[-1]["accuracy"]}
            found["accuracy after one round"] = course[1]["accuracy"]
            for key in ("round", *(f"{radio}_j" for radio in RADIOS), "bytes_up", "bytes_down"):
                found[f"{key} to within one point"] = math.nan if reached is None else reached[key]
            found |= {f"{key} of one round": course[1][key] for key in ("wifi_j", "lte_j", "bytes_up", "bytes_down")}
            for key, value in found.items():
                figures.setdefault(key, []).append(value)
            said = "never" if reached is None else f"round {reached['round']:.0f}, {reached['wifi_j']:.2f} J"
            print(f"{task.setting}: {name}, seed {seed}: {exported['accuracy']:.4f}, close: {said}", file=sys.stderr)
        rows += [row(task.setting, name, quantity, values) for quantity, values in figures.items()]
    return [*rows, Row(task.setting, "every method", "joules of embedding once", embedding_j, None, 1)]


def _course(task: Task, name: str, seed: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgejoule-papers-") as home:
        fleet, course = run(task, name, seed, rounds, Path(home))
    return {"course": course, "embedding_j": embedding_joules(task, fleet)}


def exact(task: Task, seeds: Sequence[int]) -> list[Row]:
    """Whether sums and heads are the same bits: 1 when they are."""
    found: dict[str, list[float]] = {"flat, tree and any order": [], "subtracted equals never there": []}
    for seed in seeds:
        random = np.random.default_rng(seed)
        parts = _parts(task, seed)
        classes, width = parts[0].classes, parts[0].width
        flat = total(parts, classes, width)
        tree = [parts[at] for at in random.permutation(len(parts))]
        while len(tree) > 1:
            at = int(random.integers(len(tree) - 1))
            tree[at : at + 2] = [tree[at] + tree[at + 1]]
        found["flat, tree and any order"].append(float(tree[0] == flat))
        out = int(random.integers(len(parts)))
        rest = total([part for at, part in enumerate(parts) if at != out], classes, width)
        found["subtracted equals never there"].append(float(flat - parts[out] == rest))
    return [row(task.setting, "closed_form", quantity, values) for quantity, values in found.items()]


def _parts(task: Task, seed: int) -> list[Moments]:
    offset, classes = task.bundle.manifest.backbone.output_zero_point, len(task.bundle.manifest.classes)
    with tempfile.TemporaryDirectory(prefix="edgejoule-papers-") as home:
        fleet = Fleet(task, plan_of("", seed, 1), seed, Path(home))
    return [moments_of(device.embeddings, device.labels, classes, offset) for device in fleet.devices]


def cost(task: Task) -> list[Row]:
    """Bytes and joules of the statistics of one device, by width, classes and examples: the first columns of real
    embeddings; classes beyond the data's own are labels drawn at random."""
    rows = []
    random = np.random.default_rng(0)
    for width in (64, 128, 256, 1024):
        for classes in (5, 62):
            for count in (100, 1000):
                if width > task.train.shape[1]:
                    continue
                labels = task.train_labels[:count] if classes == 5 else random.integers(0, classes, count)
                offset = task.bundle.manifest.backbone.output_zero_point
                moments = moments_of(task.train[:count, :width], labels.astype(np.int32), classes, offset)
                size = coding.size_bytes(coding.encode(moments, offset))
                spent = Joules()
                spent.add("pi4", steps=0, macs=float(count) * width * width, entries=width * (width + 1) // 2,
                          up=size, down=200, coordinates=width * classes)  # fmt: skip
                setting = f"one pi4, width {width}, {classes} classes, {count} examples"
                rows.append(row(setting, "statistics", "bytes_up of one round", [size]))
                rows += [row(setting, "statistics", f"{r}_j of one round", [spent.by_radio[r]]) for r in RADIOS]
    return rows


def one_pass(asked: Asked) -> list[Row]:
    """Every task, every method or those that are named, and what statistics cost; quick without that or projections."""
    rows = []
    plain = [name for name in _ONE_PASS if not (asked.quick and "projected" in name)]
    for task in _tasks(asked):
        rows += compared(task, asked.methods or plain, asked)
        rows += exact(task, range(asked.first, asked.first + asked.seeds))
        if task.train.shape[1] >= WIDE and not asked.methods and not asked.quick:
            rows += cost(task)
    return rows


def optimisers(asked: Asked) -> list[Row]:
    """What a coordinator may do with the mean of changes, and local corrections."""
    methods = asked.methods or OPTIMISERS
    return [each_row for task in _tasks(asked) for each_row in compared(task, methods, asked)]


def _tasks(asked: Asked) -> Iterator[Task]:
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
    return tasks(asked.keep or asked.folder, quick=asked.quick, only=asked.only, keep=asked.keep is not None)


def _rounds(asked: Asked) -> int:
    return asked.rounds or (5 if asked.quick else 20)


def robust(asked: Asked) -> list[Row]:
    """Heads that stay good when their weights are rounded."""
    from benchmarks.paper_methods import robust

    return robust.rows(asked)


def fl_pqsu(asked: Asked) -> list[Row]:
    """A pruned backbone, updates in few bits, and fewer of them."""
    from benchmarks.paper_methods import fl_pqsu

    return fl_pqsu.rows(asked)


def personal(asked: Asked) -> list[Row]:
    """Heads for single writers whom the fleet never met."""
    from benchmarks.paper_methods import personal

    return personal.rows(asked)


def koala(asked: Asked) -> list[Row]:
    """A large model and small ones that teach each other."""
    from benchmarks.paper_methods import koala

    return koala.rows(asked)


def quantfl(asked: Asked) -> list[Row]:
    """Accuracy against all bits that travel, both ways."""
    from benchmarks.paper_methods import quantfl

    return quantfl.rows(asked)


def diffusion(asked: Asked) -> list[Row]:
    """A denoiser of latents, trained in few bits."""
    from benchmarks.paper_methods import diffusion

    return diffusion.rows(asked)


PAPERS: dict[str, Callable[[Asked], list[Row]]] = {
    "one_pass": one_pass,
    "optimisers": optimisers,
    "robust": robust,
    "fl_pqsu": fl_pqsu,
    "personal": personal,
    "koala": koala,
    "quantfl": quantfl,
    "diffusion": diffusion,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", choices=PAPERS, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer data sets, methods and rounds: under three minutes")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds (default 3)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="first seed (all but quantfl)")
    parser.add_argument("--prunings", type=int, default=1, metavar="N", help="fl_pqsu: seeds a model is pruned with")
    parser.add_argument("--rounds", type=int, metavar="R", help="rounds at most (default: the paper's own)")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"data sets, such as {', '.join(NAMES)}")
    parser.add_argument("--method", action="append", help="this method alone; repeat it for more")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what takes long here, and find it again")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows here")
    parser.add_argument("--table", type=Path, metavar="OUT.md", help="write the tables here")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw what the paper is about")
    options = parser.parse_args()
    only = tuple(options.only.split(",")) if options.only else ()
    with tempfile.TemporaryDirectory(prefix="edgejoule-papers-") as folder:
        methods = tuple(options.method or ())
        asked = Asked(
            Path(folder),
            options.quick,
            options.seeds,
            options.rounds,
            only,
            methods,
            options.keep,
            options.first,
            options.prunings,
        )
        try:
            rows = PAPERS[options.paper](asked)
        except EdgejouleError as error:
            print(f"papers: {error}", file=sys.stderr)
            return error.exit_code
    from benchmarks.paper_methods.shown import draw, tables

    text = tables(rows, options.paper)
    print(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(each_row) for each_row in rows], indent=1))
    if options.table:
        options.table.write_text(text)
    if options.plot:
        draw(rows, options.plot, options.paper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
