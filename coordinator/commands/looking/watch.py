"""`coordinator watch`: a run as it goes, in this terminal."""

from __future__ import annotations

import argparse
import sys

from coordinator.commands.parts import add_address, example, operator
from protos.errors import UsageError
from protos.extras import require


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "watch",
        help="show a run as it goes, in this terminal",
        description="Rounds, score and joules, and each device with its joules, watts, what is left of its budget, and "
        "why it is late. Keys: i inspects a device, t leaves those with trouble, p pauses or resumes and s stops the "
        "run, each after a question; q ends the view, and nothing else.",
        **example("coordinator watch digits"),
    )
    parser.add_argument(
        "which", nargs="?", default="", metavar="RUN", help="an id, its beginning, or a name (default: the newest)"
    )
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the view until it is left."""
    require(["textual"], "watch")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("needs a terminal", fix="elsewhere take: coordinator status RUN")
    from coordinator.live.terminal_view import WatchApp

    WatchApp(lambda: operator(arguments), arguments.which).run()
    return 0
