"""The command line of the coordinator.

Data go to stdout, diagnostics to stderr. A mistake is one line and the exit code of its kind
(:mod:`protos.errors`); Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from coordinator.commands import (
    backup,
    budgets,
    check_plan,
    evaluate,
    export,
    forget,
    pause,
    prune,
    serve,
    start,
    status,
    stop,
    wait,
)
from coordinator.commands.looking import dashboard, export_results, mqtt, report, watch
from coordinator.commands.testbed import command as testbed
from coordinator.commands.trust import audit, delegate, enroll, identities, init, login, service, sign, upgrade
from protos.commands.command_line import conduct
from protos.commands.program import add_completion, program, run_completion

# The lab starts both ends, so it stands above this room and is found by name, when it is there.
_LAB_COMMANDS = (
    "coordinator.lab.demo_command",
    "coordinator.simulation.command",
    "coordinator.lab.partition_command",
    "coordinator.lab.sweep.command",
    "coordinator.lab.sweep.compare_command",
)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = program(
        "coordinator",
        "Federated fine-tuning: the coordinator of a fleet, and its operator's commands.",
        "example:\n  coordinator serve --state state &\n  coordinator start plans/fedavg.toml --wait",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        serve,
        start,
        status,
        budgets,
        stop,
        wait,
        pause,
        export,
        evaluate,
        forget,
        report,
        export_results,
        dashboard,
        watch,
        mqtt,
        check_plan,
        backup,
        prune,
        init,
        enroll,
        identities,
        login,
        audit,
        sign,
        delegate,
        upgrade,
        service,
        testbed,
    ):
        command.add(commands)
    for name in _LAB_COMMANDS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).add_command(commands)
    completion = add_completion(commands, "coordinator")
    completion.set_defaults(run=lambda arguments: run_completion(top, arguments.shell))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    name = "coordinator"

    def body() -> int | None:
        nonlocal name
        arguments = parser().parse_args(argv)
        name = f"coordinator {arguments.command}"
        code: int | None = arguments.run(arguments)
        return code

    return conduct(lambda: name, body)


if __name__ == "__main__":
    sys.exit(main())
