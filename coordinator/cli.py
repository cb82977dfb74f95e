"""The command line of the coordinator.

Data go to stdout, diagnostics to stderr. A mistake is one line and the exit code of its kind
(:mod:`protos.errors`); Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from coordinator.commands import backup, budgets, check_plan, export, forget, serve, start, status, stop
from protos.errors import EdgejouleError

# The lab starts both ends, so it stands above this room and is found by name, when it is there.
_LAB_COMMANDS = ("coordinator.lab.demo_command",)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="coordinator",
        description="Federated fine-tuning: the coordinator of a fleet, and its operator's commands.",
        epilog="example:\n  coordinator serve --state state &\n  coordinator start plans/fedavg.toml --wait",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (serve, start, status, budgets, stop, export, forget, check_plan, backup):
        command.add(commands)
    for name in _LAB_COMMANDS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).add_command(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except EdgejouleError as error:
        print(f"coordinator {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
