"""FL-PQSU's three stages: a backbone with fewer filters, updates in few bits, and fewer of them sent.

Xu, Fang, Ding, Zou, Xiong, "Accelerating Federated Learning for IoT in Big Data Analytics with Pruning, Quantization
and Selective Updating", IEEE Access 9 (2021). Their pruning is `firmware-tools prune --criterion l1`; their updates are
8-bit weights, here 8-bit changes; their selective updating sends only when the last mini-batch loss is below that of
the last update that was sent. Beside each stage what this project has instead: taylor scores, entropy-coded changes of
2 bits, devices drawn by the norm of their changes and their cost, with unbiased weights (the joule planner), and a head
in closed form, which needs no round but one.

ResNet8 of MLPerf Tiny on CIFAR-10, at half of its multiply-adds; weights that are left are fitted to what layers gave,
then fine-tuned on the 5,000 training images, left for right as well, with the whole model as teacher. A model is
pruned once for each criterion, and kept where `--keep` says; seeds are those of fleets. Accuracies are on 2,000
held-out images that nothing was chosen by. Joules are counted, not measured: see `one_pass/fleet.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import BOARDS, LINKS, RADIOS, Fleet, Task, embedding_joules
from benchmarks.one_pass.methods import METHODS, Rounds, _decoded, _lines, averaged, plan_of
from benchmarks.paper_methods.rows import Asked, Row, row
from coordinator.budgets.cold_start import prices_of
from coordinator.run.evaluation import Evaluator
from coordinator.run.reports.aggregation import Fold
from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle

SCHEME, DEVICES, TARGET = "dirichlet:0.5", 10, "macs=0.5"
# The federated pipelines run on a model pruned by the first of those that are asked for.
CRITERIA = ("l1", "taylor")
_NEVER_SENT = 100.0  # loss of the last update that was sent, before there was one: as in the published code


def rows(asked: Asked) -> list[Row]:
    """The model before and after, by criterion; then the federated pipelines on both."""
    data, model = _source(asked.folder)
    home, epochs = asked.keep or asked.folder, 1 if asked.quick else 30
    home.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    with Converter() as converter:
        reports: dict[str, list[dict[str, Any]]] = {}
        for criterion in CRITERIA:
            if asked.only and criterion not in asked.only:
                continue
            out, kept = home / f"{criterion}-{epochs}.keras", home / f"{criterion}-{epochs}.json"
            if not (out.exists() and kept.exists()):
                done = converter.call(
                    "prune", model, "--data", data, "--criterion", criterion, "--target", TARGET, "--epochs", epochs,
                    "--mirror", "-o", out, "--json", "--force",
                )  # fmt: skip
                if done.code:
                    raise UsageError(f"prune: {done.stderr.strip().splitlines()[-1:]}", where="fl_pqsu")
                kept.write_text(done.stdout)
            reports[criterion] = [json.loads(kept.read_text())]
            print(f"{criterion}: {reports[criterion][0]['after']}", file=sys.stderr, flush=True)
        if not reports:
            raise UsageError(f"no criterion is called {', '.join(asked.only)}", fix=f"one of {', '.join(CRITERIA)}")
        found += _model_rows(reports)
        small = home / f"{next(iter(reports))}-{epochs}.keras"
        whole = _task("whole", _bundle(converter, model, data, asked.folder / "whole"), data)
        pruned = _task("pruned", _bundle(converter, small, data, asked.folder / "pruned"), data)
    rounds = asked.rounds or (6 if asked.quick else 20)
    return found + _pipelines(whole, pruned, asked.seeds, rounds)


def _source(folder: Path) -> tuple[Path, Path]:
    try:
        root = reference_data.root()
    except DataError:
        from firmware_tools.pretrain.digits import pretrain

        print("fl_pqsu: no reference data, so scikit-learn's digits stand in", file=sys.stderr)
        made = pretrain(folder / "digits")
        read = dataset.load(made.workshop_data)
        data = folder / "digits.npz"
        np.savez(data, x=read.x, y=read.y, is_test=np.arange(len(read.y)) % 4 == 0)
        return data, made.model
    data = folder / "cifar10.npz"
    reference_data.save(reference_data.cifar10(), data)
    return data, root / "models_mlperf_tiny" / "pretrainedResnet.h5"


def _model_rows(reports: dict[str, list[dict[str, Any]]]) -> list[Row]:
    setting, found = f"one model, {TARGET}", []
    first = next(iter(reports.values()))[0]["before"]
    for name, several in (("whole", [first]), *((f"pruned, {key}", [r["after"] for r in all_])
                                                for key, all_ in reports.items())):  # fmt: skip
        for key in ("parameters", "macs", "int8_bytes", "latency_ms", "accuracy", "accuracy_before_fine_tuning"):
            values = [float(one[key]) for one in several if one.get(key) is not None]
            if values:
                found.append(row(setting, name, key, values))
        for board in BOARDS:
            joules = [
                prices_of(board, macs=int(one["macs"]), coordinates=1, batch_size=32).embedding_j for one in several
            ]
            found.append(row(setting, name, f"counted joules an inference, {board}", joules))
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


def _pipelines(whole: Task, pruned: Task, seeds: int, rounds: int) -> list[Row]:
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
    found: list[Row] = []
    for name, (small, text, method) in plans.items():
        figures: dict[str, list[float]] = {}
        for seed in range(seeds):
            task = pruned if small else whole
            count = 1 if "closed_form" in text else rounds
            with tempfile.TemporaryDirectory(prefix="edgejoule-pqsu-") as home:
                fleet = Fleet(task, plan_of(text, seed, count), seed, Path(home))
                for _ in method(fleet, count):
                    pass
            once = embedding_joules(task, fleet)
            now = {
                "accuracy": Evaluator(task.bundle, task.test, task.test_labels).evaluate(fleet.head).accuracy,
                "bytes_up": float(fleet.bytes_up),
                "bytes_down": float(fleet.bytes_down),
                "joules of embedding once": once,
                "wifi_j": fleet.joules.by_radio["wifi"],
                "wifi_j and embedding": fleet.joules.by_radio["wifi"] + once,
                "lte_j and embedding": fleet.joules.by_radio["lte"] + once,
            }
            for key, value in now.items():
                figures.setdefault(key, []).append(value)
        print(f"{name}: { ({key: round(float(np.mean(v)), 4) for key, v in figures.items()}) }", file=sys.stderr)
        found += [row(f"{DEVICES} devices, {SCHEME}, {rounds} rounds", name, key, v) for key, v in figures.items()]
    return found
