"""``coordinator sweep``: one file, many runs, one table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.operator.tables import show
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.errors import UsageError
from protos.extras import advice, require
from protos.systems import LINUX, require_system

_MARK = "sweep.toml"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sweep",
        help="run every combination of a plan's lists, and compare",
        description="A plan in which keys have lists (update.bits = [1, 2, 4], run.seed = [0, 1, 2]) and policies that "
        "change several keys. Runs every combination, on the fleet of a running coordinator or on one of processes on "
        "this machine (sweep.devices, sweep.data), and ends in a table with 95 % intervals, CSV, a picture, and the "
        "exact plans. Run again, it goes on where it was. docs/experiments.md has the file.",
        **example("coordinator sweep policies.toml -o policies"),
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.toml")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="results (default: the file's name, without .toml)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say which runs there would be, and start none")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sweep; 0 when all runs have finished."""
    from coordinator.lab.sweep import sweep_file

    sweep = sweep_file.read(arguments.sweep)
    sweep_file.device_count_fits(sweep)
    if arguments.dry_run:
        return _dry_run(sweep, as_json=arguments.json)
    if sweep.fleet is not None:
        require_system("a fleet of processes", LINUX)
        require(("sqlalchemy",), "coordinator")
    # Both end every process through its `finally`; see `coordinator demo`.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder: Path = arguments.output or arguments.sweep.with_suffix("")
    _own(folder, arguments.sweep)
    from coordinator.lab.sweep.running import run_sweep

    if sweep.fleet is not None:
        results = run_sweep(sweep, folder, None)
    else:
        with operator(arguments) as remote:
            results = run_sweep(sweep, folder, remote)
    return _told(sweep, results, folder, as_json=arguments.json)


def _dry_run(sweep: Any, *, as_json: bool) -> int:
    cells = [{"cell": cell.name, **cell.values} for cell in sweep.cells]
    values = {"cells": cells, "seeds": list(sweep.seeds), "runs": len(cells) * len(sweep.seeds)}
    if as_json:
        print(json.dumps(document("sweep-plan", values), indent=2))
    else:
        show(["cell", "seeds"], [[cell.name, ", ".join(map(str, sweep.seeds))] for cell in sweep.cells])
        print(f"{values['runs']} runs")
    return 0


def _own(folder: Path, source: Path) -> None:
    """Make the folder, or go on in one that a sweep of this name began; the file is kept there as it is."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists())):
        raise UsageError("holds files that no sweep made", where=str(folder), fix="give another folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(folder / _MARK) as file:
            file.write(source.read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror})", where=str(folder), fix="give another folder"
        ) from error


def _told(sweep: Any, results: Any, folder: Path, *, as_json: bool) -> int:
    from coordinator.lab.sweep import table

    order = [cell.name for cell in sweep.cells]
    rows = table.rows_of(results, order)
    differing = table.differences(results, order)
    for name, text in zip(("table.csv", "runs.csv"), table.csv_of(rows, results), strict=True):
        with write_whole(folder / name) as file:
            file.write(text.encode())
    picture = _drawn(rows, folder / "pareto.png", sweep.name)
    values = document(
        "sweep",
        {
            "name": sweep.name,
            "folder": str(folder),
            "cells": [
                {
                    "cell": row.cell, "runs": row.runs, "measure": row.measure,
                    "on_front_of_joules": row.cell in table.front(rows, "energy_j"),
                    "on_front_of_bytes": row.cell in table.front(rows, "bytes_up"),
                    **{name: {"mean": mean.mean, "half95": mean.half} for name, mean in row.figures.items()},
                }
                for row in rows
            ],
            "differences": differing,
            "picture": picture,
        },
    )  # fmt: skip
    with write_whole(folder / "sweep.json") as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(values, indent=2))
        return 0
    show(*table.shown_rows(rows), title=f"{sweep.name}: means of {len(sweep.seeds)} seeds, ± 95 % (Student's t)")
    print("* no other cell is as good in both the best score and joules, or bytes up")
    if differing:
        print()
        show(*table.shown_differences(differing, rows[0].measure), title=f"against {order[0]}, over the same seeds")
    print(f"\n{folder}: table.csv, runs.csv, plans/, runs/, sweep.json" + (", pareto.png" if picture else ""))
    return 0


def _drawn(rows: Any, path: Path, title: str) -> str | None:
    try:
        from coordinator.lab.sweep.plot import draw

        return str(path) if draw(rows, path, title) else None
    except ModuleNotFoundError:
        print(f"no picture: matplotlib is not installed; install it with: {advice('plot')}", file=sys.stderr)
        return None


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
