"""`coordinator wait`, and `coordinator plan`: a run taken up again from outside, and its plan given back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.commands.start import told, wait
from coordinator.operator import as_json
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.durations import duration_s
from protos.errors import UnknownRunError, UsageError

# Of a run, none of its rounds.
_NO_ROUND = 2**31


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    waiting = commands.add_parser(
        "wait",
        help="wait until a run is over, as `start --wait` does",
        description="Shows the rounds that have closed already, then each as it closes, and ends when the run does: "
        "exit code 0 when it finished, 3 when it failed or was stopped. The coordinator may start again meanwhile.",
        **example("coordinator wait digits --timeout 600"),
    )
    add_run(waiting)
    waiting.add_argument("--timeout", type=float, metavar="SECONDS", help="give up waiting after this")
    waiting.add_argument(
        "--patience", default="60s", metavar="TIME", help="how long no coordinator may answer (default 60s)"
    )
    add_json(waiting)
    add_address(waiting)
    waiting.set_defaults(run=run)
    plan = commands.add_parser(
        "plan",
        help="give the plan of a run back",
        description="Prints the TOML that the run was started or last resumed with, byte for byte.",
        **example("coordinator plan digits -o digits.toml"),
    )
    add_run(plan)
    plan.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there; must not exist")
    add_json(plan)
    add_address(plan)
    plan.set_defaults(run=run_plan)


def run(arguments: argparse.Namespace) -> int:
    """Wait; 0 when the run has finished."""
    patience_s = duration_s(arguments.patience, "--patience")
    with operator(arguments) as connection:
        status = wait(
            connection, arguments.which, timeout_s=arguments.timeout, quiet=arguments.json, patience_s=patience_s
        )
        return told(connection, status, as_json_too=arguments.json)


def run_plan(arguments: argparse.Namespace) -> int:
    """Give the plan back; 0."""
    with operator(arguments) as connection:
        (status,) = connection.status(arguments.which, since_round=_NO_ROUND)
        found = connection.details(status.run_id)
    if not found.plan_toml:
        what = "the coordinator is too old to give plans back"
        raise UnknownRunError(what, where=status.run_id, fix="upgrade it")
    if arguments.output is not None:
        if arguments.output.exists():
            raise UsageError("is there already", where=str(arguments.output), fix="give another name")
        with write_whole(arguments.output) as file:
            file.write(found.plan_toml.encode())
        print(f"paths in it are relative to {found.plan_directory}", file=sys.stderr)
    if arguments.json:
        values = {"run_id": status.run_id, "plan_toml": found.plan_toml, "plan_directory": found.plan_directory}
        print(as_json.dump(document("plan", values)))
    elif arguments.output is None:
        print(found.plan_toml, end="" if found.plan_toml.endswith("\n") else "\n")
    return 0
