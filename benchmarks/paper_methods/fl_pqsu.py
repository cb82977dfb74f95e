"""FL-PQSU's three stages: a backbone with fewer filters, updates in few bits, and fewer of them sent.

Xu, Fang, Ding, Zou, Xiong, "Accelerating Federated Learning for IoT in Big Data Analytics with Pruning, Quantization
and Selective Updating", IEEE Access 9 (2021). Their pruning is `firmware-tools prune --criterion l1`; their updates are
8-bit weights, here 8-bit changes; their selective updating sends only when the last mini-batch loss is below that of
the last update that was sent. Beside each stage what this project has instead: taylor scores, entropy-coded changes of
2 bits, devices drawn by the norm of their changes and their cost, with unbiased weights (the joule planner), and a head
in closed form, which needs no round but one.

ResNet8 of MLPerf Tiny on CIFAR-10, at half of its multiply-adds; with `--only kernels` at widths that take less time
(`pruned_to.py`). The workshop has 4,000 images that no device has, as JPEG like theirs: by them filters are scored,
weights that are left fitted to what layers gave, the last layer fitted anew, and all of it fine-tuned, with the whole
model as teacher, on images left for right and moved as well. Seeds are those of fleets, whose devices have 5,000 other
images, on the model that was pruned with the first of them; `--prunings` says how many seeds a model is pruned with,
and `--seeds 0` leaves fleets out. Accuracies are on 2,000 held-out images that nothing was chosen by: the criterion was
chosen on the devices' images, which the workshop has not seen, and passes were set before any were run. Joules are
counted, not measured: see `one_pass/fleet.py`.

The first criterion that is asked for is fine-tuned and used in the fleet; of the others the model is shown as cut and
fitted, unless `--only` names them alone. With `--keep` a run that was cut goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import BOARDS, LINKS, RADIOS, Fleet, Task, embedding_joules
from benchmarks.one_pass.methods import METHODS, Rounds, _decoded, _lines, averaged, plan_of
from benchmarks.paper_methods.pruned_to import RESNET8, TARGETS, options
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from coordinator.budgets.cold_start import prices_of
from coordinator.run.evaluation import Evaluator
from coordinator.run.reports.aggregation import Fold
from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle

SCHEME, DEVICES = "dirichlet:0.5", 10
CRITERIA = ("least_squares", "l1", "taylor")
EPOCHS, SHIFT = 12, 2
_NEVER_SENT = 100.0  # loss of the last update that was sent, before there was one: as in the published code


def rows(asked: Asked) -> list[Row]:
    """The model before and after, by criterion; then the federated pipelines on both."""
    if "mobilenet" in asked.only:
        from benchmarks.paper_methods import mobilenet

        return mobilenet.rows(asked)
    target = "kernels" if "kernels" in asked.only else "macs"
    named = [name for name in asked.only if name != "kernels"]
    criteria = [criterion for criterion in CRITERIA if not named or criterion in named]
    if not criteria:
        raise UsageError(
            f"no criterion is called {', '.join(named)}", fix=f"one of {', '.join((*CRITERIA, 'kernels', 'mobilenet'))}"
        )
    workshop, data, model = _source(asked.folder)
    home, epochs = asked.keep or asked.folder, 1 if asked.quick else EPOCHS
    home.mkdir(parents=True, exist_ok=True)
    rounds = asked.rounds or (6 if asked.quick else 20)
    reports: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, dict[str, list[float]]] = {}
    with Converter() as converter:
        for criterion in criteria[:1] if asked.quick or target == "kernels" else criteria:
            passes = epochs if criterion == criteria[0] else 0
            name = f"pruned, {criterion}" + ("" if passes else ", not fine-tuned")
            for seed in range(asked.first, asked.first + (asked.prunings if passes else 1)):
                out = home / f"{_stem(criterion, target, passes, seed)}.keras"
                if not out.exists():
                    out.with_suffix(".json").unlink(missing_ok=True)
                made = partial(_pruned, converter, model, workshop, criterion, target, passes, seed, out)
                reports.setdefault(name, []).append(kept(replace(asked, keep=home), out.stem, made))
                print(f"{name}, seed {seed}: {reports[name][-1]['after']}", file=sys.stderr, flush=True)
        if target == "kernels" or not asked.seeds:
            return _model_rows(reports, TARGETS[target])
        first = home / f"{_stem(criteria[0], target, epochs, asked.first)}.keras"
        whole = _task("whole", _bundle(converter, model, data, asked.folder / "whole"), data)
        pruned = _task("pruned", _bundle(converter, first, data, asked.folder / "pruned"), data)
    for seed in range(asked.first, asked.first + asked.seeds):
        for method, found in _pipelines(asked, whole, pruned, seed, rounds, first.stem).items():
            for key, value in found.items():
                figures.setdefault(method, {}).setdefault(key, []).append(value)
    setting = f"{DEVICES} devices, {SCHEME}, {rounds} rounds"
    return _model_rows(reports, TARGETS[target]) + [
        row(setting, method, key, values) for method, found in figures.items() for key, values in found.items()
    ]


def _stem(criterion: str, target: str, epochs: int, seed: int) -> str:
    return f"{criterion}-{'kernels-' if target == 'kernels' else ''}{epochs}-epochs-seed-{seed}"


def _pruned(
    converter: Converter, model: Path, data: Path, criterion: str, target: str, epochs: int, seed: int, out: Path
) -> dict[str, Any]:
    done = converter.call(
        "prune", model, "--data", data, "--criterion", criterion, *options(target, RESNET8), "--refit", "--epochs",
        epochs, "--mirror", "--shift", SHIFT, "--seed", seed, "-o", out, "--json", "--force",
    )  # fmt: skip
    if done.code:
        raise UsageError(f"prune: {done.stderr.strip().splitlines()[-1:]}", where="fl_pqsu")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _source(folder: Path) -> tuple[Path, Path, Path]:
    """The workshop's data, the fleet's, and the model."""
    workshop, fleet = folder / "workshop.npz", folder / "fleet.npz"
    try:
        root = reference_data.root()
    except DataError:
        from firmware_tools.pretrain.digits import pretrain

        print("fl_pqsu: no reference data, so scikit-learn's digits stand in", file=sys.stderr)
        made = pretrain(folder / "digits")
        for path, given in ((workshop, made.workshop_data), (fleet, made.fleet_data)):
            read = dataset.load(given)
            np.savez(path, x=read.x, y=read.y, is_test=np.arange(len(read.y)) % 4 == 0)
        return workshop, fleet, made.model
    reference_data.save(reference_data.cifar10_workshop(), workshop)
    reference_data.save(reference_data.cifar10(), fleet)
    return workshop, fleet, root / "models_mlperf_tiny" / "pretrainedResnet.h5"


def _model_rows(reports: dict[str, list[dict[str, Any]]], target: str) -> list[Row]:
    setting, found = f"one model, {target}", []
    shown = {"whole": [one["before"] for one in next(iter(reports.values()))]}
    shown |= {name: [one["after"] for one in each] for name, each in reports.items()}
    for name, each in shown.items():
        for key in ("parameters", "macs", "int8_bytes", "latency_share", "accuracy", "accuracy_cut",
                    "accuracy_before_fine_tuning", "accuracy_refitted"):  # fmt: skip
            if all(one.get(key) is not None for one in each):
                found.append(row(setting, name, key, [float(one[key]) for one in each]))
        for board in BOARDS:
            joules = [prices_of(board, macs=int(one["macs"]), coordinates=1, batch_size=32).embedding_j for one in each]
            found.append(row(setting, name, f"counted joules an inference, {board}", joules))
        for key, of in (("points over whole", "accuracy"), ("points over whole, fitted", "accuracy_refitted")):
            points = [100 * (one["accuracy"] - whole[of]) for one, whole in zip(each, shown["whole"], strict=False)]
            if name != "whole":
                found.append(row(setting, name, key, points))
    return found


def _bundle(converter: Converter, model: Path, data: Path, bundle: Path) -> Path:
    done = converter.call("convert", model, "-o", bundle, "--calibrate", data, "--fresh-head", "--force")
    if done.code:
        raise UsageError(f"convert: {done.stderr.strip().splitlines()[-1:]}", where="fl_pqsu")
    return bundle


def _task(name: str, bundle: Path, data: Path) -> Task:
    opened = open_bundle(bundle)
    read = dataset.fitted(dataset.load(data), opened.manifest.backbone.input_shape)
    x, y, test = Backbone(opened, threads=2).embed(read.x), read.y.astype(np.int32), read.is_test
    return Task(name, opened, x[~test], y[~test], x[test], y[test], None, DEVICES, SCHEME, float("nan"))


def gated(fleet: Fleet, rounds: int) -> Rounds:
    """Everyone trains; sent is only what ended with a lower loss than what was sent before.

    What is not sent costs neither bytes nor joules of sending; the coordinator averages what came.
    """
    last = dict.fromkeys((device.name for device in fleet.devices), _NEVER_SENT)
    for number in range(1, rounds + 1):
        fold, came = Fold(fleet.plan.aggregate, fleet.shapes, _lines(fleet), server=fleet.server), 0
        for device in fleet.devices:
            up = fleet.bytes_up
            report = fleet.ask(device, number, steps=fleet.steps(device))
            assert report.loss_last is not None
            if report.loss_last < last[device.name]:
                last[device.name] = report.loss_last
                fold.add(report, _decoded(fleet, report))
                came += 1
                continue
            sent = fleet.bytes_up - up
            fleet.bytes_up -= sent
            for radio in RADIOS:
                fleet.joules.by_radio[radio] -= LINKS[radio][0] * sent
        if came:
            fleet.move(fold.head_after(fleet.head), number)
            fleet.server = fold.server_after
        yield


_EIGHT = '[update]\ncodec = "uniform_stochastic"\nbits = 8\n'
_EXAMPLES = '[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n'


def _pipelines(
    asked: Asked, whole: Task, pruned: Task, seed: int, rounds: int, model: str
) -> dict[str, dict[str, float]]:
    def everyone(fleet: Fleet, count: int) -> Rounds:
        return averaged(fleet, 1, count)

    plans: dict[str, tuple[bool, str, Callable[[Fleet, int], Rounds]]] = {
        "fedavg, float32": (False, f'[update]\ncodec = "float32"\n{_EXAMPLES}', everyone),
        "pruned": (True, f'[update]\ncodec = "float32"\n{_EXAMPLES}', everyone),
        "pruned, 8 bits": (True, _EIGHT + _EXAMPLES, everyone),
        "pruned, 8 bits, loss gate (fl_pqsu)": (True, _EIGHT + _EXAMPLES, gated),
        "pruned, planner": (True, METHODS["planner"].plan(whole), METHODS["planner"].rounds),
        "whole, closed form": (False, METHODS["closed_form"].plan(whole), METHODS["closed_form"].rounds),
        "pruned, closed form": (True, METHODS["closed_form"].plan(whole), METHODS["closed_form"].rounds),
    }
    found: dict[str, dict[str, float]] = {}
    for name, (small, text, method) in plans.items():
        task, count = pruned if small else whole, 1 if "closed_form" in text else rounds
        name_kept = f"pipeline-{model}-seed-{seed}-{count}-rounds-{name}"
        found[name] = kept(asked, name_kept, partial(_run, task, text, method, seed, count))
        shown = {key: round(value, 4) for key, value in found[name].items()}
        print(f"seed {seed}: {name}: {shown}", file=sys.stderr, flush=True)
    return found


def _run(task: Task, text: str, method: Callable[[Fleet, int], Rounds], seed: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="edgejoule-pqsu-") as home:
        fleet = Fleet(task, plan_of(text, seed, rounds), seed, Path(home))
        for _ in method(fleet, rounds):
            pass
    once = embedding_joules(task, fleet)
    return {
        "accuracy": Evaluator(task.bundle, task.test, task.test_labels).evaluate(fleet.head).accuracy,
        "bytes_up": float(fleet.bytes_up),
        "bytes_down": float(fleet.bytes_down),
        "joules of embedding once": once,
        "wifi_j": fleet.joules.by_radio["wifi"],
        "wifi_j and embedding": fleet.joules.by_radio["wifi"] + once,
        "lte_j and embedding": fleet.joules.by_radio["lte"] + once,
    }
