"""``coordinator compare``: runs that exist, by their plans, over the seeds that they share."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.lab.plan_keys import Document
from coordinator.operator.tables import say, show
from protos.commands.json_document import document
from protos.errors import UsageError


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="compare runs, paired over their seeds",
        description="Runs whose plans differ in run.seed and run.name alone are repetitions. Each other plan is "
        "compared with that of the first run, over the seeds that both have: mean difference, 95 % interval and p by "
        "Student's t, adjusted by Holm. A RUN is an id, the beginning of one, a name, or a file of a sweep's runs/ "
        "folder.",
        **example("coordinator compare run-3f2a run-91bc run-77d0 run-a410"),
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare; 0."""
    from coordinator.lab.sweep import table
    from coordinator.lab.sweep.results import Result, read_result, result_of

    found: list[tuple[Result, Document | None]] = []
    names = [each_run for each_run in arguments.runs if not Path(each_run).is_file()]
    found += [(read_result(Path(each_run)), None) for each_run in arguments.runs if Path(each_run).is_file()]
    if names:
        with operator(arguments) as connection:
            for name in names:
                (status,) = connection.status(name)
                if not status.is_over:
                    fix = f"wait for it: coordinator wait {status.run_id}"
                    raise UsageError(f"is {status.state}, and not over", where=name, fix=fix)
                text = connection.details(status.run_id).plan_toml
                plan = tomllib.loads(text)
                seed = plan.get("run", {}).get("seed", 0)
                found.append((result_of(status, cell="", seed=seed, plan_toml=text), plan))
    if len({result.run_id for result, _ in found}) < len(found):
        raise UsageError("a run is named twice", where="RUN", fix="name each once")
    results = _in_cells(found)
    twice = {(result.cell, result.seed) for result in results}
    if len(twice) < len(results):
        what = "two runs have the same plan and the same seed"
        raise UsageError(what, where="RUN", fix="leave one of them out: the second says nothing of chance")
    order = list(dict.fromkeys(result.cell for result in results))
    rows, differing = table.rows_of(results, order), table.differences(results, order)
    if arguments.json:
        cells = [
            {
                "cell": row.cell, "runs": row.runs, "measure": row.measure,
                **{name: {"mean": mean.mean, "half95": mean.half} for name, mean in row.figures.items()},
            }
            for row in rows
        ]  # fmt: skip
        values = {"cells": cells, "differences": differing, "runs": [vars(result) for result in results]}
        print(json.dumps(document("comparison", values), indent=2))
        return 0
    show(*table.shown_rows(rows), title="means, ± 95 % (Student's t)")
    if differing:
        print()
        show(*table.shown_differences(differing, rows[0].measure), title=f"against {order[0]}, over the same seeds")
        if all(row["pairs"] < 2 for row in differing):
            say("one pair alone has no interval: start runs with further seeds")
    return 0


def _in_cells(found: Any) -> list[Any]:
    """Results with the names of their cells: what is different in their plans, in words."""
    from dataclasses import replace

    plans = [_flat(plan) for _, plan in found if plan is not None]
    keys = sorted({key for plan in plans for key in plan if len({repr(mapping.get(key)) for mapping in plans}) > 1})
    made = []
    for result, plan in found:
        if plan is None:
            made.append(result)
            continue
        flat = _flat(plan)
        words = [f"{key} {_word(flat[key])}" if key in flat else f"no {key}" for key in keys]
        made.append(replace(result, cell=", ".join(words) or "plan"))
    return made


def _flat(plan: Document, above: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in plan.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            made |= _flat(value, f"{name}.")
        elif name not in ("run.seed", "run.name"):
            made[name] = value
    return made


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
