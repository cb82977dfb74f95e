"""`coordinator check-plan`: everything that can be known of a plan before it runs. Needs no coordinator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordinator.commands.parts import add_json, example
from coordinator.commands.start import read_plan
from coordinator.operator import as_json
from protos.commands.json_document import document


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check-plan",
        help="check a plan with its bundle and data, and say what would run",
        **example("coordinator check-plan plans/fedavg.toml"),
    )
    parser.add_argument("plan", type=Path, metavar="PLAN.toml")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check a plan."""
    from coordinator.run.planning import prepare, refused_plugins, summary

    for error in refused_plugins():
        print(f"coordinator check-plan: {error}", file=sys.stderr)
    found = summary(prepare(read_plan(arguments.plan), arguments.plan.resolve().parent, where=str(arguments.plan)))
    if arguments.json:
        print(as_json.dump(document("plan-check", found)))
        return 0
    width = max(len(key) for key in found)
    plugins = found.pop("plugins")
    for key, value in found.items():
        print(f"{key.replace('_', ' '):<{width}}  {_shown(value)}")
    if isinstance(plugins, list) and plugins:
        print(f"{'plugins':<{width}}  {', '.join(plugins)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item:g}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return " x ".join(map(str, value)) or "equal"
    return "-" if value is None else str(value)
