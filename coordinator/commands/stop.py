"""`coordinator stop`."""

from __future__ import annotations

import argparse

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.operator import as_json
from protos.commands.json_document import document


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stop", help="end a run; its heads and reports stay", **example("coordinator stop digits")
    )
    add_run(parser)
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """End a run."""
    with operator(arguments) as connection:
        state = connection.stop_run(arguments.which)
    print(as_json.dump(document("stopped", {"state": state})) if arguments.json else state)
    return 0
