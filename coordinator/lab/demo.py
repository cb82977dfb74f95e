"""The main job from one command: a model, its data, a fleet, a run, and the fine-tuned integer model at the end."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.lab import processes, shards
from coordinator.lab.fleet import FleetPlan, start_coordinator, start_devices
from coordinator.lab.live import LiveTable
from coordinator.lab.outcome import PHASES, outcome
from coordinator.lab.processes import Children
from coordinator.operator.client import Operator
from coordinator.operator.status import ExportSummary, RunStatus
from protos.atomic import write_whole
from protos.errors import CheckFailed, EdgejouleError, UsageError
from protos.model.bundle import open_bundle
from protos.model.manifest import Manifest

_MARK = ".edgejoule-demo"
_POLL_S = 0.25
# The joules of the last sending come with a device's next call, at most a few seconds later.
_SETTLE_S = 20.0


@dataclass(frozen=True)
class Demo:
    """What is to run; see ``coordinator demo --help``. ``bundle`` and ``data`` None: the digits example."""

    output: Path
    bundle: Path | None
    data: str | None
    devices: int
    rounds: int
    partition: str
    seed: int
    fleet: FleetPlan
    budgets_j: Sequence[float | None] = ()
    train: Mapping[str, float] = field(default_factory=dict)
    update: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 600.0
    again: bool = False
    max_drop: float | None = None
    copy_to: Path | None = None
    renames: Mapping[str, str] = field(default_factory=dict)


def run(demo: Demo, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Run it, show it, and return its outcome.

    The outcome is written as soon as the run is over, whatever comes of the export, and again with the export's
    figures; so is its copy, where ``copy_to`` names one. Then ``show`` is given the summary.

    Raises:
        EdgejouleError: a mistake in bundle or data, or a part that failed; nothing is left running.
    """
    started_s = time.monotonic()
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
    with write_whole(plan) as file:
        file.write(plan_text(demo, manifest, bundle_path, parts).encode())
    with Children(folder / "logs") as children:
        _say("starting bridges, coordinator and devices")
        address = start_coordinator(children, folder)
        names = start_devices(children, folder, demo.fleet, parts, address)
        with Operator(address) as operator:
            run_id = operator.start_run(plan.read_text(), folder)
            try:
                status = _watch(operator, run_id, children, names, _title(demo, manifest, parts))
            except KeyboardInterrupt:
                _say("interrupted: ending the run and every process")
                raise

            def written(export: ExportSummary | None, problem: str | None) -> dict[str, Any]:
                took_s = time.monotonic() - started_s
                made = outcome(status, export, wall_s=took_s, settings=_settings(demo, bundle_path, data, parts))
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


def _settings(demo: Demo, bundle: Path, data: str, parts: shards.Shards) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "data": data,
        "devices": demo.devices,
        "rounds": demo.rounds,
        "partition": demo.partition,
        "seed": demo.seed,
        "boards": [demo.fleet.board_of(index) for index in range(demo.devices)],
        "budgets_j": list(demo.budgets_j),
        "examples": list(parts.examples),
        "held_out_examples": parts.held_out_examples,
        "data_account": parts.account,
    }


def _without_another_run(folder: Path, run_id: str) -> str:
    """How to export what a demo trained: its coordinator's folder holds all that was acknowledged."""
    serve = shlex.join(["coordinator", "serve", "--state", str(folder / "coordinator")])
    export = shlex.join(["coordinator", "export", run_id, "-o", str(folder / "model.tflite"), "--max-drop", "0.05"])
    return f"the run is kept in {folder / 'outcome.json'}; to export it after all: {serve}, and beside it {export}"


def plan_text(demo: Demo, manifest: Manifest, bundle: Path, parts: shards.Shards) -> str:
    """The plan as TOML: a file that a reader can take, change, and start again."""
    names = shards.device_names(demo.devices)
    lines = ["[run]", f"bundle = {_toml(str(bundle.resolve()))}", f"name = {_toml(manifest.name)}"]
    lines += [f"rounds = {demo.rounds}", f"seed = {demo.seed}", "", "[round]", f"devices = {demo.devices}"]
    lines += [f"deadline_s = {demo.deadline_s:g}", "", "[train]", *(f"{k} = {v!r}" for k, v in demo.train.items())]
    lines += ["", "[update]", *(f"{key} = {_toml(value)}" for key, value in demo.update.items())]
    limits = {name: joules for name, joules in zip(names, demo.budgets_j, strict=False) if joules is not None}
    if limits:
        # Whoever has no line of its own weighs like the best endowed device.
        lines += ["", "[budget]", f"per_round_j = {max(limits.values()):g}"]
        lines += ["", "[budget.device]", *(f"{name} = {joules:g}" for name, joules in limits.items())]
    lines += ["", "[evaluate]", f"data = {_toml(str(parts.held_out.resolve()))}", ""]
    return "\n".join(lines)


def summary(result: Mapping[str, Any]) -> str:
    """The outcome for people: what it came to, what it cost, where everything is."""
    lines = [""]
    first, last, exported = (result[key] for key in ("initial_accuracy", "final_accuracy", "exported_accuracy"))
    if first is not None and last is not None:
        lines.append(f"accuracy   {100 * first:.2f} % -> {100 * last:.2f} % on held-out data")
    if exported is not None:
        lines.append(
            f"exported   {100 * exported:.2f} % as one integer model of {result['exported_bytes'] / 1000:.1f} kB"
        )
    lines.append(f"sent       {result['bytes_up']} bytes up, {result['bytes_down']} bytes down")
    lines.append("joules     " + "".join(f"{phase:>12}" for phase in PHASES) + f"{'coverage':>12}  cut short")
    shown, rounds = list(result["joules"].items()), result["settings"]["rounds"]
    for name, by_phase in shown[:12]:
        cells = "".join(_cell(by_phase.get(phase)) for phase in PHASES)
        least = min(result["coverage"][name].values())
        cut = result["cut_short"].get(name, 0)
        lines.append(f"  {name:9}{cells}{least:12.3f}  {f'{cut} of {rounds} rounds' if cut else '-'}")
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
    return f"{'?' if energy_j is None else f'{energy_j:.3f}':>12}"


def _watch(operator: Operator, run_id: str, children: Children, names: Sequence[str], title: str) -> RunStatus:
    with LiveTable(names, title) as table:
        while True:
            children.check()
            (status,) = operator.status(run_id)
            table.update(status)
            if status.is_over:
                break
            time.sleep(_POLL_S)
        end_s = time.monotonic() + _SETTLE_S
        while not _settled(status) and time.monotonic() < end_s:
            time.sleep(_POLL_S)
            (status,) = operator.status(run_id)
        table.update(status)
        return status


def _settled(status: RunStatus) -> bool:
    return all(
        any(record.phase == PHASES[-1] for record in device.energy)
        for one in status.rounds
        for device in one.devices
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


def _toml(value: Any) -> str:
    # JSON's strings and numbers are TOML's as well, but for the escaped surrogates that stand for an emoji.
    return json.dumps(value, ensure_ascii=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
