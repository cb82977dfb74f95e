"""`coordinator pause` and `coordinator resume`."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.commands.start import read_plan
from coordinator.operator import as_json
from protos.commands.json_document import document


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    pause = commands.add_parser(
        "pause",
        help="let a run rest; its devices stop, and other runs go on",
        description="Devices stop within a second. What they have reported of the open round is kept.",
        **example("coordinator pause digits"),
    )
    add_run(pause)
    pause.add_argument("--after-round", action="store_true", help="let the round that is open close first")
    resume = commands.add_parser(
        "resume",
        help="let a run that rests go on, by the plan it has or another",
        description="With --plan the run goes on from its newest head by another plan, of the same bundle and method.",
        **example("coordinator resume digits --plan slower.toml"),
    )
    add_run(resume)
    resume.add_argument("--plan", type=Path, metavar="PLAN.toml", help="another plan")
    for parser, run in ((pause, run_pause), (resume, run_resume)):
        add_json(parser)
        add_address(parser)
        parser.set_defaults(run=run)


def run_pause(arguments: argparse.Namespace) -> int:
    """Let a run rest."""
    with operator(arguments) as connection:
        state = connection.pause_run(arguments.which, after_round=arguments.after_round)
    print(as_json.dump(document("paused", {"state": state})) if arguments.json else state)
    return 0


def run_resume(arguments: argparse.Namespace) -> int:
    """Let a run go on."""
    text, folder = "", None
    if arguments.plan is not None:
        text, folder = read_plan(arguments.plan), arguments.plan.resolve().parent
    with operator(arguments) as connection:
        state = connection.resume_run(arguments.which, text, folder)
    print(as_json.dump(document("resumed", {"state": state})) if arguments.json else state)
    return 0
