"""``coordinator demo``: any bundle on any data, with a whole fleet on this machine."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from coordinator.commands.parts import add_max_drop, check_max_drop
from coordinator.lab import fleet, plan_keys
from coordinator.lab.measuring import Budget, Times
from coordinator.lab.partition import SCHEMES, check_scheme
from protos.commands.program import HelpFormatter
from protos.datafiles.renames import read_renames
from protos.energy.boards import BOARDS
from protos.errors import UsageError
from protos.extras import require
from protos.systems import LINUX, require_system
from protos.update.codecs import resolve

# The example: unequal budgets for unlike boards, as multiples of what the training of a round costs each. The least is
# a fraction of that; the others are out of reach whatever else this machine has to do.
EXAMPLE_BUDGETS: tuple[Budget, ...] = (Times(24), Times(0.25), Times(16), Times(10))
EXAMPLE_TRAIN = {"epochs": 400, "rate": 0.1}

_DESCRIPTION = f"""\
Starts one coordinator and a fleet of device daemons as separate programs on loopback, each with a simulated INA219 of
its own on a pseudo-terminal; runs a federated run; exports the fine-tuned model as one integer .tflite. Without
--bundle it pre-trains and converts a small CNN on handwritten digits first.

Partitions: {", ".join(SCHEMES)}. Boards: {", ".join(BOARDS)}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="run a whole fleet on this machine",
        description=_DESCRIPTION,
        epilog="example:\n  coordinator demo --bundle bundle/ --data cifar10.npz --devices 5 --rounds 15 \\\n"
        "      --partition dirichlet:0.5 --seed 1 --json out.json",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--bundle", type=Path, metavar="DIR", help="a bundle made by firmware-tools convert (default: the example)")
    add("--data", metavar="SPEC", help="FILE.npz, idx images, or a folder of images by class")
    add("--rename", metavar="OLD=NEW[,...]", help="class of the data = class of the bundle, where names differ")
    add("--devices", type=int, default=4, metavar="N", help="how many devices (default 4)")
    add("--rounds", type=int, metavar="R", help="how many rounds (default 6; a closed form needs 1)")
    add(
        "--partition", default="dirichlet:0.5", metavar="SCHEME", help="who gets which examples (default dirichlet:0.5)"
    )
    add("--seed", type=int, default=0, metavar="S", help="of the partition, the training, the sensors (default 0)")
    add("--epochs", type=float, metavar="E", help="passes over its own data that a device makes in a round")
    add("--steps", type=int, metavar="K", help="or: optimiser steps a round, the same on each device")
    add("--rate", type=float, metavar="LR", help="learning rate")
    add("--momentum", type=float, metavar="M", help="heavy-ball momentum")
    add("--proximal-mu", type=float, metavar="MU", help="pull towards the round's head (FedProx)")
    add("--codec", metavar="NAME", help="how updates travel")
    add("--bits", type=int, metavar="B", help="bits a coordinate of that codec")
    add(
        "--budget-j",
        metavar="J[,J...]",
        help="joules a round: one for all, or one a device; '0.2x' is so many times what its training costs on this "
        "machine, which is measured first ('10x': what that of the dearest costs); 'none' is no limit",
    )
    add("--boards", default=",".join(BOARDS), metavar="NAME[,NAME...]", help="power profiles, taken in turn")
    add("--sensor", choices=fleet.SENSORS, default="bridge", help="what measures (default bridge)")
    add("--sensor-profile", choices=("energy", "balanced", "transient"), default="energy", help="of the INA219")
    add("--plan", type=Path, metavar="FILE", help="a plan whose keys count instead of these options'")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of a plan, above all others: --set train.method=closed_form (repeat it for more)",
    )
    add("--deadline-s", type=float, default=600.0, metavar="S", help="a round closes then (default 600)")
    add("--output", type=Path, default=Path("demo-output"), metavar="DIR", help="everything goes here")
    add("--again", action="store_true", help="replace what an earlier demo left there")
    add_max_drop(parser)
    add("--json", type=Path, metavar="OUT", help="write the outcome here as well")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    require_system("a demo", LINUX)
    require(("sqlalchemy", "rich", *(("tensorflow", "sklearn") if arguments.bundle is None else ())), "demo")
    # Imported late: the other commands of the coordinator need not wait for numpy and the bundle's room.
    from coordinator.lab import demo

    if (arguments.bundle is None) != (arguments.data is None):
        raise UsageError("--bundle and --data go together", fix="give both, or neither for the example")
    if arguments.devices < 1 or (arguments.rounds is not None and arguments.rounds < 1):
        raise UsageError("--devices and --rounds are 1 or more")
    check_max_drop(arguments.max_drop)
    check_scheme(arguments.partition)
    boards = [name.strip() for name in arguments.boards.split(",")]
    fleet.check_boards(boards)
    # Both end the demo through every `finally`, so that no process stays behind. Ctrl-C is asked for by name: a shell
    # without job control starts background programs with it ignored.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    is_example = arguments.bundle is None
    plan_file = plan_keys.read_file(arguments.plan) if arguments.plan is not None else {}
    keys = plan_keys.read_settings(arguments.set)
    method = plan_keys.laid_over(plan_file, keys).get("train", {}).get("method")
    demo.run(
        demo.Demo(
            output=arguments.output,
            bundle=arguments.bundle,
            data=arguments.data,
            devices=arguments.devices,
            rounds=arguments.rounds,
            partition=arguments.partition,
            seed=arguments.seed,
            fleet=fleet.FleetPlan(boards, arguments.sensor, arguments.sensor_profile, arguments.seed),
            budgets_j=_budgets(arguments, is_example),
            train=_train(arguments, is_example and method != "closed_form"),
            update=_update(arguments),
            deadline_s=arguments.deadline_s,
            again=arguments.again,
            max_drop=arguments.max_drop,
            copy_to=arguments.json,
            renames=_renames(arguments.rename),
            plan_file=plan_file,
            plan_keys=keys,
        )
    )
    return 0


def _renames(text: str | None) -> dict[str, str]:
    try:
        return read_renames(text) if text is not None else {}
    except ValueError as error:
        raise UsageError(f"{text!r} is {error}", where="--rename", fix="such as katze=cat,hund=dog") from error


def _budgets(arguments: argparse.Namespace, is_example: bool) -> list[Budget]:
    if arguments.budget_j is None:
        example = is_example and arguments.sensor != "none" and arguments.devices == len(EXAMPLE_BUDGETS)
        return list(EXAMPLE_BUDGETS) if example else []
    words = [word.strip() for word in arguments.budget_j.split(",")]
    if len(words) not in (1, arguments.devices):
        fix = f"give one, or {arguments.devices}"
        raise UsageError(f"{len(words)} budgets for {arguments.devices} devices", where="--budget-j", fix=fix)
    budgets = [None if word == "none" else _budget(word) for word in words]
    if arguments.sensor == "none" and any(isinstance(budget, Times) for budget in budgets):
        raise UsageError("nothing measures what a round costs", where="--sensor none", fix="take another sensor")
    return budgets * arguments.devices if len(budgets) == 1 else budgets


def _budget(word: str) -> Budget:
    try:
        amount = float(word.removesuffix("x"))
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1e9:
        raise UsageError(f"{word!r} is no number of joules", where="--budget-j", fix="such as 2.5, 0.2x, or none")
    return Times(amount) if word.endswith("x") else amount


def _train(arguments: argparse.Namespace, is_example: bool) -> dict[str, float]:
    names = ("epochs", "steps", "rate", "momentum", "proximal_mu")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if {"epochs", "steps"} <= set(given):
        raise UsageError("--epochs and --steps contradict each other", fix="keep one of them")
    example = {k: v for k, v in EXAMPLE_TRAIN.items() if k != "epochs" or "steps" not in given}
    return {**(example if is_example else {}), **given}


def _update(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in ("codec", "bits") if getattr(arguments, name) is not None}
    if "bits" in given:
        resolve(given.get("codec", "uniform_stochastic"), {"bits": given["bits"]}, where="--bits")
    return given


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
