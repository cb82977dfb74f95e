"""The main job from one command: a model, its data, a fleet, a run, and the fine-tuned integer model at the end."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coordinator.lab import plan_keys, processes, shards
from coordinator.lab.fleet import FleetPlan, start_coordinator, start_devices
from coordinator.lab.live import LiveTable
from coordinator.lab.measuring import ROUNDS, Budget, RoundCost, Times, costs_of, resolved, shortened
from coordinator.lab.outcome import PHASES, outcome
from coordinator.lab.processes import Children
from coordinator.operator.client import Operator
from coordinator.operator.status import ExportSummary, RunStatus
from protos.atomic import write_whole
from protos.errors import CheckFailed, EdgejouleError, UsageError
from protos.model.bundle import open_bundle
from protos.model.manifest import Manifest
from protos.plan.plan import RunPlan, parse

_MARK = ".edgejoule-demo"
DEFAULT_ROUNDS = 6
_POLL_S = 0.25
# The joules of the last sending come with a device's next call, at most a few seconds later.
_SETTLE_S = 20.0


@dataclass(frozen=True)
class Demo:
    """What is to run; see ``coordinator demo --help``. What budgets are multiples of is measured before the run.

    Attributes:
        bundle, data: None: the digits example.
        rounds: None: as many as suit the method.
        plan_file, plan_keys: of a plan, laid over what the other options say, the latter above the former.
    """

    output: Path
    bundle: Path | None
    data: str | None
    devices: int
    rounds: int | None
    partition: str
    seed: int
    fleet: FleetPlan
    budgets_j: Sequence[Budget] = ()
    train: Mapping[str, float] = field(default_factory=dict)
    update: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 600.0
    again: bool = False
    max_drop: float | None = None
    copy_to: Path | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    plan_file: plan_keys.Document = field(default_factory=dict)
    plan_keys: plan_keys.Document = field(default_factory=dict)


def run(demo: Demo, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Run it, show it, and return its outcome.

    The outcome is written as soon as the run is over, whatever comes of the export, and again with the export's
    figures; so is its copy, where ``copy_to`` names one. Then ``show`` is given the summary.

    Raises:
        EdgejouleError: a mistake in bundle or data, or a part that failed; nothing is left running.
    """
    started_s = time.monotonic()
    # A mistake in a key is said before anything is made.
    parse(plan_keys.as_toml(_document(demo, "bundle", "demo", "held-out.npz")), where="the demo's plan")
    folder = _fresh(demo.output, again=demo.again)
    if demo.bundle is None or demo.data is None:
        bundle_path, data = _example(folder, demo.seed)
    else:
        bundle_path, data = demo.bundle, demo.data
    manifest = open_bundle(bundle_path).manifest
    _say(f"dividing {data} over {demo.devices} devices ({demo.partition})")
    parts = shards.cut(
        data,
        manifest,
        folder / "data",
        devices=demo.devices,
        scheme=demo.partition,
        seed=demo.seed,
        renames=demo.renames,
    )
    _say(f"{data}: {parts.account}")
    if parts.unlike:
        _say(f"warning: {data}: {parts.unlike}")
    plan = folder / "plan.toml"
    with Children(folder / "logs") as children:
        _say("starting bridges, coordinator and devices")
        address = start_coordinator(children, folder)
        names = start_devices(children, folder, demo.fleet, parts, address)
        with Operator(address) as operator:
            try:
                costs: Mapping[str, RoundCost] = {}
                if any(isinstance(budget, Times) for budget in demo.budgets_j):
                    costs = _measured(demo, manifest, bundle_path, parts, operator, children, folder, names)
                    demo = replace(demo, budgets_j=resolved(demo.budgets_j, names, costs))
                with write_whole(plan) as file:
                    file.write(plan_text(demo, manifest, bundle_path, parts).encode())
                run_id = operator.start_run(plan.read_text(encoding="utf-8"), folder)
                status = _watch(operator, run_id, children, names, _title(demo, manifest, parts))
            except KeyboardInterrupt:
                _say("interrupted: ending the run and every process")
                raise

            def written(export: ExportSummary | None, problem: str | None) -> dict[str, Any]:
                took_s = time.monotonic() - started_s
                settings = _settings(
                    demo, parse(plan.read_text(encoding="utf-8"), where=str(plan)), bundle_path, data, parts
                )
                made = outcome(status, export, wall_s=took_s, settings=settings)
                made["settings"]["measured"] = {name: vars(cost) for name, cost in costs.items()}
                made["export_problem"] = problem
                made["output"] = {
                    "folder": str(folder),
                    "model": None if export is None else str(model),
                    "bundle": str(bundle_path),
                    "plan": str(plan),
                }
                for path in (folder / "outcome.json", demo.copy_to):
                    if path is not None:
                        with write_whole(path) as file:
                            file.write(json.dumps(made, indent=2).encode())
                return made

            model = folder / "model.tflite"
            written(None, "not tried")
            if status.state != "finished":
                fix = f"see {folder / 'logs'} and {folder / 'outcome.json'}"
                raise CheckFailed(f"the run {status.state}: {status.reason}", fix=fix)
            try:
                result = written(operator.export(run_id, model, max_drop=demo.max_drop), None)
            except EdgejouleError as error:
                show(summary(written(None, error.what)))
                raise type(error)(error.what, where="the export", fix=_without_another_run(folder, run_id)) from error
    show(summary(result))
    return result


def _measured(
    demo: Demo, manifest: Manifest, bundle: Path, parts: shards.Shards, operator: Operator, children: Children,
    folder: Path, names: Sequence[str],
) -> dict[str, RoundCost]:  # fmt: skip
    """What a round costs each device here, by a short run that is kept apart from the demo's own."""
    _say("measuring what a round costs each device on this machine")
    # Steps of SGD are what a budget limits, whatever comes before them in the run itself.
    keys = plan_keys.laid_over(demo.plan_keys, {"run": {"rounds": ROUNDS}, "train": {"method": "sgd"}})
    short = replace(demo, rounds=ROUNDS, train=shortened(demo.train), budgets_j=(), plan_keys=keys)
    text = plan_text(short, manifest, bundle, parts, name=f"{manifest.name}: measuring", evaluated=False)
    run_id = operator.start_run(text, folder)
    while True:
        children.check()
        (status,) = operator.status(run_id)
        if status.is_over:
            break
        time.sleep(_POLL_S)
    if status.state != "finished":
        raise CheckFailed(f"the measuring run {status.state}: {status.reason}", fix=f"see {folder / 'logs'}")
    costs = costs_of(when_settled(operator, status), names)
    for name, budget_j in zip(names, resolved(demo.budgets_j, names, costs), strict=True):
        if name in costs and budget_j is not None:
            _say(f"{name}: training costs about {costs[name].most_train_j:.2g} J a round; it may spend {budget_j:g} J")
    return costs


def _settings(demo: Demo, plan: RunPlan, bundle: Path, data: str, parts: shards.Shards) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "data": data,
        "devices": demo.devices,
        "rounds": plan.run.rounds,
        "method": plan.train.method,
        "partition": demo.partition,
        "seed": demo.seed,
        "boards": [demo.fleet.board_of(index) for index in range(demo.devices)],
        "budgets_j": [budget for budget in demo.budgets_j if not isinstance(budget, Times)],
        "examples": list(parts.examples),
        "held_out_examples": parts.held_out_examples,
        "data_account": parts.account,
    }


def _without_another_run(folder: Path, run_id: str) -> str:
    """How to export what a demo trained: its coordinator's folder holds all that was acknowledged."""
    serve = shlex.join(["coordinator", "serve", "--state", str(folder / "coordinator")])
    export = shlex.join(["coordinator", "export", run_id, "-o", str(folder / "model.tflite"), "--max-drop", "0.05"])
    return f"the run is kept in {folder / 'outcome.json'}; to export it after all: {serve}, and beside it {export}"


def plan_text(
    demo: Demo, manifest: Manifest, bundle: Path, parts: shards.Shards, *, name: str = "", evaluated: bool = True
) -> str:
    """The plan as TOML: a file that a reader can take, change, and start again.

    Args:
        name: of the run; empty for that of the bundle.
        evaluated: whether heads are tried on the held-out data.
    """
    held_out = str(parts.held_out.resolve()) if evaluated else None
    return plan_keys.as_toml(_document(demo, str(bundle.resolve()), name or manifest.name, held_out))


def _document(demo: Demo, bundle: str, name: str, held_out: str | None) -> plan_keys.Document:
    """Below: what the demo's own options say; above them the plan file, above that single keys."""
    names = shards.device_names(demo.devices)
    given = plan_keys.laid_over(demo.plan_file, demo.plan_keys)
    rounds = demo.rounds
    if rounds is None and given.get("train", {}).get("method") != "closed_form":
        rounds = DEFAULT_ROUNDS
    made: plan_keys.Document = {
        "run": {"bundle": bundle, "name": name, **({} if rounds is None else {"rounds": rounds}), "seed": demo.seed},
        "round": {"devices": demo.devices, "deadline_s": demo.deadline_s},
        "train": dict(demo.train),
        "update": dict(demo.update),
    }
    budgets = zip(names, demo.budgets_j, strict=False)
    limits = {device: budget for device, budget in budgets if budget is not None and not isinstance(budget, Times)}
    if limits:
        # Whoever has no line of its own weighs like the best endowed device.
        made["budget"] = {"per_round_j": max(limits.values()), "device": limits}
    if held_out is not None:
        made["evaluate"] = {"data": held_out}
    return plan_keys.laid_over(made, given)


def summary(result: Mapping[str, Any]) -> str:
    """The outcome for people: what it came to, what it cost, where everything is."""
    lines = [""]
    first, last, exported = (result[key] for key in ("initial_accuracy", "final_accuracy", "exported_accuracy"))
    if first is not None and last is not None:
        lines.append(f"accuracy   {100 * first:.2f} % -> {100 * last:.2f} % on held-out data")
        best = result["best_accuracy"]
        if best > last:
            lines.append(f"best       {100 * best:.2f} % after round {result['best_round']}, which is exported")
    elif result["initial_score"] is not None and result["final_score"] is not None:
        change = f"{result['initial_score']:.4f} -> {result['final_score']:.4f}"
        lines.append(f"{result['measure']:11}{change} on held-out data")
        if result["best_score"] > result["final_score"]:
            lines.append(f"best       {result['best_score']:.4f} after round {result['best_round']}, which is exported")
    if result["reason"]:
        lines.append(f"ended      {result['reason']}")
    if exported is not None:
        lines.append(
            f"exported   {100 * exported:.2f} % as one integer model of {result['exported_bytes'] / 1000:.1f} kB"
        )
    if result["exported_note"]:
        lines.append(f"note       {result['exported_note']}")
    lines.append(f"sent       {result['bytes_up']} bytes up, {result['bytes_down']} bytes down")
    lines.append("joules     " + "".join(f"{phase:>9}" for phase in PHASES) + f"{'coverage':>10}  cut short")
    shown, rounds = list(result["joules"].items()), result["settings"]["rounds"]
    for name, by_phase in shown[:12]:
        cells = "".join(_cell(by_phase.get(phase)) for phase in PHASES)
        least = min(result["coverage"][name].values())
        cut = result["cut_short"].get(name, 0)
        lines.append(f"  {name:9}{cells}{least:10.3f}  {f'{cut} of {rounds} rounds' if cut else '-'}")
    if len(shown) > 12:
        lines.append(f"  and {len(shown) - 12} more devices: see outcome.json")
    where = result["output"]
    lines += [
        "",
        f"model      {where['model'] or 'none: ' + result['export_problem']}",
        f"bundle     {where['bundle']}",
        f"plan       {where['plan']}",
    ]
    lines += [f"outcome    {where['folder']}/outcome.json", f"logs       {where['folder']}/logs/"]
    lines.append(f"took       {result['wall_s']:.0f} s")
    return "\n".join(lines)


def _cell(energy_j: float | None) -> str:
    # Nine places; what is larger than a thousand has none to spare behind the point.
    return f"{'?' if energy_j is None else f'{energy_j:.{3 if abs(energy_j) < 1000 else 0}f}':>9}"


def _watch(operator: Operator, run_id: str, children: Children, names: Sequence[str], title: str) -> RunStatus:
    with LiveTable(names, title) as table:
        while True:
            children.check()
            (status,) = operator.status(run_id)
            table.update(status)
            if status.is_over:
                break
            time.sleep(_POLL_S)
        status = when_settled(operator, status)
        table.update(status)
        return status


def when_settled(operator: Operator, status: RunStatus) -> RunStatus:
    """A run that is over, when the joules of its last sending have come, or long enough was waited for them."""
    end_s = time.monotonic() + _SETTLE_S
    while not _settled(status) and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        (status,) = operator.status(status.run_id)
    return status


def _settled(status: RunStatus) -> bool:
    return all(
        any(record.phase == PHASES[-1] for record in device.energy)
        for this_round in status.rounds
        for device in this_round.devices
        if device.outcome == "accepted"
    )


def _example(folder: Path, seed: int) -> tuple[Path, str]:
    model, bundle = folder / "example", folder / "bundle"
    _say("pre-training a small CNN on the digits 0 to 6")
    arguments: list[str | Path] = ["pretrain", "digits", "-o", model, "--seed", str(seed)]
    processes.run_to_end("firmware_tools.cli", arguments, log=folder / "logs" / "pretrain.log")
    _say("converting it to an int8 backbone with a trainable head")
    arguments = ["convert", model / "digits.keras", "-o", bundle, "--calibrate", model / "workshop.npz"]
    arguments += ["--eval", model / "fleet.npz", "--name", "digits"]
    processes.run_to_end("firmware_tools.cli", arguments, log=folder / "logs" / "convert.log")
    return bundle, str(model / "fleet.npz")


def _fresh(folder: Path, *, again: bool = False) -> Path:
    """An empty folder; what an earlier demo left in it goes when ``again`` says so, anything else is left alone."""
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / _MARK).exists():
                raise UsageError("holds files that no demo made", where=str(folder), fix="choose another --output")
            if not again and any(path.name != _MARK for path in folder.iterdir()):
                fix = "choose another --output, or replace it with --again (make demo AGAIN=1)"
                raise UsageError("holds an earlier demo", where=str(folder), fix=fix)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except EdgejouleError:
        raise
    except OSError as error:
        raise UsageError(
            f"cannot be used ({error.strerror})", where=str(folder), fix="choose another --output"
        ) from error
    return folder.resolve()


def _title(demo: Demo, manifest: Manifest, parts: shards.Shards) -> str:
    return (
        f"{manifest.name}: {sum(parts.examples)} examples on {demo.devices} devices, {demo.partition}, "
        f"judged on {parts.held_out_examples} held-out examples"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
