"""`coordinator forget`: a run without one of its devices."""

from __future__ import annotations

import argparse
import dataclasses

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.operator import as_json
from coordinator.operator.tables import percent
from protos.commands.json_document import document


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "forget",
        help="subtract a device from a run by closed form, exactly, and delete its statistics",
        description="The head becomes, bit for bit, what it would be had the device never come. Steps that followed "
        "the closed form are dropped, since they learnt from it. Statistics and heads made with them are deleted.",
        **example("coordinator forget digits pi-3"),
    )
    add_run(parser)
    parser.add_argument("device", metavar="DEVICE", help="its id")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Forget a device."""
    with operator(arguments) as connection:
        done = connection.forget(arguments.which, arguments.device)
    if arguments.json:
        print(as_json.dump(document("forgotten", dataclasses.asdict(done))))
        return 0
    print(f"{done.run_id}: {done.head_version}, of {done.examples} examples on {done.devices} devices")
    if done.accuracy is not None:
        print(f"accuracy: {percent(done.accuracy)} on held-out data")
    for other in done.also_in:
        print(f"made with it as well: the heads of {other}; then: coordinator forget {other} {arguments.device}")
    return 0
