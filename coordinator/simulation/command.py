"""``coordinator simulate``: a plan over boards that do not exist, in this process."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.lab.partition import SCHEMES
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.boards import BOARDS
from protos.errors import CheckFailed, UsageError
from protos.extras import require

if TYPE_CHECKING:
    from coordinator.operator.status import RoundStatus
    from coordinator.simulation.results import Simulated

_MARK = ".edgejoule-simulation"
_BOARDS, _LINKS = "pi4,pi5,pi-zero-2,coral-dev", "wifi"

_DESCRIPTION = f"""\
Runs a plan over virtual boards in one process, on virtual time. The coordinator, its store, planner, codecs and ledger
are the real ones, and so are the rounds of the devices; what boards draw, how long work takes and what bytes cost is
reckoned. The same arguments give the same bits.

Partitions: {", ".join(SCHEMES)}. Boards: {", ".join(BOARDS)}.
Links: ethernet, wifi, lte, cat-m, loopback."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "simulate",
        help="run a plan over a fleet that does not exist",
        description=_DESCRIPTION,
        epilog="example:\n  coordinator simulate plans/fedavg.toml --devices 100 --bundle bundle/ \\\n"
        "      --data cifar10.npz --partition dirichlet:0.5 --seed 1 -o simulated",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN.toml", help="as `coordinator start` takes it")
    add("--devices", type=int, required=True, metavar="N", help="how many boards")
    add("--data", required=True, metavar="SPEC", help="FILE.npz, idx images, or a folder of images by class")
    add("--bundle", type=Path, metavar="DIR", help="in place of the plan's")
    add(
        "--partition", default="dirichlet:0.5", metavar="SCHEME", help="who gets which examples (default dirichlet:0.5)"
    )
    add("--seed", type=int, default=0, metavar="S", help="of the partition, the boards, what happens (default 0)")
    add(
        "--engine",
        default="exact",
        choices=("exact", "vectorised", "ray"),
        help="exact (default); vectorised for linear heads and very many boards; ray: exact, on a Ray cluster",
    )
    add("--boards", default=_BOARDS, metavar="NAME[,NAME...]", help=f"power profiles, in turn (default {_BOARDS})")
    add("--links", default=_LINKS, metavar="NAME[,NAME...]", help=f"in turn (default {_LINKS})")
    add("--spread", type=float, default=0.3, metavar="S", help="how unlike boards of a kind are (default 0.3)")
    add("--noise", type=float, default=0.05, metavar="S", help="how unlike rounds of a board are (default 0.05)")
    add("--stragglers", type=float, default=0.0, metavar="SHARE", help="of the boards, that are slow (default 0)")
    add("--slowdown", type=float, default=4.0, metavar="TIMES", help="how slow those are (default 4)")
    add("--dropout", type=float, default=0.0, metavar="CHANCE", help="of losing power in an order (default 0)")
    add("--away-s", type=float, default=60.0, metavar="S", help="for how long, on average (default 60)")
    add("--budget-j", type=float, metavar="J", help="the boards' own limit a round (default none)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the plan, above the file's: --set run.rounds=50 (repeat it for more)",
    )
    add("-o", "--output", type=Path, metavar="DIR", help="write outcome.json, plan.toml, arrays.npz and head.npz there")
    add("--again", action="store_true", help="replace what an earlier simulation left there")
    add("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate, show, and write."""
    require(("sqlalchemy",), "coordinator")
    if arguments.engine == "ray":
        require(("ray",), "ray")
    # Imported late: the other commands need not wait for numpy and a TFLite runtime.
    from coordinator.lab import plan_keys
    from coordinator.operator import as_json
    from coordinator.simulation.fleet import FleetSettings
    from coordinator.simulation.simulating import simulate

    if arguments.output is not None:
        check_output(arguments.output, again=arguments.again)
    settings = FleetSettings(
        devices=arguments.devices,
        data=arguments.data,
        partition=arguments.partition,
        seed=arguments.seed,
        boards=_words(arguments.boards),
        links=_words(arguments.links),
        spread=arguments.spread,
        noise=arguments.noise,
        stragglers=arguments.stragglers,
        slowdown=arguments.slowdown,
        dropout=arguments.dropout,
        away_s=arguments.away_s,
        budget_j=arguments.budget_j,
    )
    made = simulate(
        arguments.plan,
        settings,
        bundle=arguments.bundle,
        engine=arguments.engine,
        keys=plan_keys.read_settings(arguments.set),
        on_round=_progress(),
        say=_say,
    )
    found = as_document(made, vars(settings))
    if arguments.output is not None:
        write(made, found, arguments.output)
    if arguments.json:
        print(as_json.dump(document("outcome", found)))
    else:
        print(summary(made, arguments.output))
    if made.outcome.run["state"] != "finished":
        raise CheckFailed(f"the run {made.outcome.run['state']}: {made.outcome.run['reason']}")
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _say(line: str) -> None:
    print(f"simulate: {line}", file=sys.stderr, flush=True)


def _progress() -> Callable[[RoundStatus], None]:
    """A line for each round; on a terminal the same line."""
    live = sys.stderr.isatty()

    def told(this_round: RoundStatus) -> None:
        accuracy = "" if this_round.accuracy is None else f", accuracy {100 * this_round.accuracy:.2f} %"
        reports = sum(device.outcome == "accepted" for device in this_round.devices)
        counted = f", {reports} of {len(this_round.devices)} reports" if this_round.devices else ""
        line = f"simulate: round {this_round.round}{accuracy}{counted}"
        print(f"\r{line:<70}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    return told


def check_output(folder: Path, *, again: bool) -> None:
    """Refuse a folder that holds something, unless an earlier simulation made it and ``again`` is given.

    Raises:
        UsageError: it does.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists()):
        raise UsageError("is there, and no simulation made it", where=str(folder), fix="name another folder")
    if any(folder.iterdir()) and not again:
        raise UsageError("holds an earlier simulation", where=str(folder), fix="name another folder, or give --again")


def as_document(made: Simulated, settings: dict[str, Any]) -> dict[str, Any]:
    """The outcome as JSON values: what a demo writes, and what is to be known of the simulation."""
    from coordinator.lab.outcome import outcome

    assert made.status is not None
    found = outcome(made.status, None, wall_s=made.wall_s, settings=json.loads(json.dumps(settings, default=str)))
    # Rows of very many devices are left out, their sums are not.
    for row, this_round in zip(made.outcome.rounds, found["rounds"], strict=True):
        this_round.update({key: row[key] for key in ("bytes_up", "bytes_down", "energy_j", "accepted")})
    found.update({key: made.outcome.run[key] for key in ("bytes_up", "bytes_down", "energy_j")})
    found["simulated"] = {
        "engine": made.engine,
        "virtual_s": made.virtual_s,
        "device_rounds": made.device_rounds,
        "true_j": float(made.arrays["true_j"].sum()),
        "notes": list(made.notes),
    }
    return found


def write(made: Simulated, found: dict[str, Any], folder: Path) -> None:
    """Write the outcome, the plan that ran, all arrays and the last head."""
    import numpy as np

    from coordinator.operator import as_json
    from protos.atomic import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    for name, text in (("outcome.json", as_json.dump(found)), ("plan.toml", made.plan)):
        with write_whole(folder / name) as file:
            file.write(text.encode())
    for name, arrays in (
        ("arrays.npz", {**made.arrays, "device_ids": np.array(made.device_ids)}),
        ("head.npz", made.head),
    ):
        with write_whole(folder / name) as file:
            np.savez_compressed(file, **arrays)


def summary(made: Simulated, folder: Path | None) -> str:
    """The outcome for people, as a demo has it; boards of a kind in one line."""
    import numpy as np

    from coordinator.simulation.results import PHASES

    run, arrays = made.outcome.run, made.arrays
    lines = [""]
    if run["initial_accuracy"] is not None and run["final_accuracy"] is not None:
        first, last = run["initial_accuracy"], run["final_accuracy"]
        lines.append(f"accuracy   {100 * first:.2f} % -> {100 * last:.2f} % on held-out data")
    if run["reason"]:
        lines.append(f"ended      {run['reason']}")
    lines.append(f"sent       {run['bytes_up']} bytes up, {run['bytes_down']} bytes down")
    lines.append("joules     " + "".join(f"{phase:>9}" for phase in PHASES[1:]) + f"{'reports':>10}  cut short")
    kinds = np.array(made.kinds)
    for kind in dict.fromkeys(made.kinds):
        mine = kinds == kind
        told_j = np.nansum(arrays["energy_j"][:, mine, 1:], axis=(0, 1))
        reports, orders = int(arrays["accepted"][:, mine].sum()), int(arrays["ordered"][:, mine].sum())
        cut = int(arrays["cut"][:, mine].sum())
        cells = "".join(f"{value:>9.{3 if value < 1000 else 0}f}" for value in told_j)
        lines.append(f"  {kind:9}{cells}{f'{reports}/{orders}':>10}  {cut or '-'}")
    untold_j = float(arrays["true_j"].sum() - np.nansum(arrays["energy_j"][:, :, 1:]))
    if untold_j > 1e-6 * max(1.0, float(arrays["true_j"].sum())):
        lines.append(f"untold     {untold_j:.3f} J that no report told: power lost, reports refused")
    lines += [f"note       {note}" for note in made.notes[:5]]
    if len(made.notes) > 5:
        lines.append(f"note       and {len(made.notes) - 5} more: see outcome.json")
    if folder is not None:
        lines += ["", f"outcome    {folder}/outcome.json", f"plan       {folder}/plan.toml"]
        lines.append(f"arrays     {folder}/arrays.npz, {folder}/head.npz")
    lines.append(f"took       {made.wall_s:.0f} s for {made.virtual_s:.0f} s of {made.device_rounds} device rounds")
    return "\n".join(lines)
