"""`coordinator start`, and waiting for a run to end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.commands.status import errors, scored, spent_in
from coordinator.operator import as_json
from coordinator.operator.client import Operator
from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.operator.tables import number
from coordinator.operator.watching import PATIENCE_S, follow
from protos.commands.json_document import document
from protos.errors import CheckFailed, PlanError, StoreError, UnreachableError, UsageError
from protos.plan.plan import parse
from protos.plan.plan_times import with_times


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "start",
        help="start a run",
        description="Starts the run of a plan. With --wait, shows each round and ends when the run does: exit code 0 "
        "when it finished, 3 when it failed or was stopped.",
        **example("coordinator start plans/fedavg.toml --wait"),
    )
    parser.add_argument("plan", type=Path, metavar="PLAN.toml")
    parser.add_argument("--wait", action="store_true", help="wait until the run is over")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="with --wait: give up waiting after this")
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--schedule", metavar="TIMES", help='start runs of it by itself: "daily 02:00", "mon,thu 02:00 Europe/Berlin"'
    )
    when.add_argument("--every", metavar="TIME", help="the same, so far apart, the first at once: 6h")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, and wait when asked to."""
    text = read_plan(arguments.plan)
    if arguments.schedule is not None or arguments.every is not None:
        text = with_times(text, schedule=arguments.schedule, every=arguments.every, where=str(arguments.plan))
    if arguments.wait and parse(text, where=str(arguments.plan)).times is not None:
        what, fix = "a plan that starts runs by itself is never over", "leave --wait out"
        raise UsageError(what, where=str(arguments.plan), fix=fix)
    with operator(arguments) as connection:
        run_id = connection.start_run(text, arguments.plan.resolve().parent)
        if not arguments.wait:
            print(as_json.dump(document("started", {"run_id": run_id})) if arguments.json else run_id)
            return 0
        print(f"run {run_id}", file=sys.stderr)
        try:
            status = wait(connection, run_id, timeout_s=arguments.timeout, quiet=arguments.json)
        except KeyboardInterrupt:
            print(
                f"the run goes on; wait again with: coordinator wait {run_id}, end it with: coordinator stop {run_id}",
                file=sys.stderr,
            )
            raise
        return told(connection, status, as_json_too=arguments.json)


def told(connection: Operator, status: RunStatus, *, as_json_too: bool) -> int:
    """Say what became of a run that is over; 0.

    Raises:
        CheckFailed: it has not finished.
    """
    if as_json_too:
        print(as_json.dump(as_json.run(_whole(connection, status))))
    if status.state != "finished":
        what = f"the run {status.state}: {status.reason}"
        raise CheckFailed(what, where=status.run_id, fix="see the coordinator's log")
    return 0


def read_plan(path: Path) -> str:
    """The text of a plan file.

    Raises:
        PlanError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error


def _whole(connection: Operator, status: RunStatus) -> RunStatus:
    """All of a run that is over; what was seen of it while it went on, when it cannot be had any more."""
    try:
        return connection.status(status.run_id)[0]
    except (UnreachableError, StoreError) as error:
        print(f"{error}; joules that devices told after their round are left out", file=sys.stderr)
        return status


def wait(
    connection: Operator, run_id: str, *, timeout_s: float | None, quiet: bool, patience_s: float = PATIENCE_S
) -> RunStatus:
    """Wait until a run is over, printing each round as it closes; returns it with its rounds as they were then. A
    coordinator that is busy, or away for a while, is asked again.

    Raises:
        WaitExpired: it is not over after ``timeout_s``; the run goes on.
        UnreachableError, StoreError: no coordinator answers any more, or it cannot read its books.
    """
    return follow(
        connection,
        run_id,
        timeout_s=timeout_s,
        patience_s=patience_s,
        on_round=None if quiet else lambda this_round: print(line(this_round), flush=True),
        on_waiting=lambda reason: print(f"waiting: {reason}", file=sys.stderr, flush=True),
    )


def line(one: RoundStatus) -> str:
    """One round in one line. It is printed as soon as the round closes, so the joules of sending are still to come."""
    accepted = [device for device in one.devices if device.outcome == "accepted"]
    loss = f"loss {number(one.loss, 4)}"
    return (
        f"round {one.round}: {one.measure} {scored(one)}, {f'RMSE {errors(one)}' if one.rmse else loss}, "
        f"{len(accepted)} of {len(one.devices)} devices, {spent_in(one)} J, {one.bytes_up} bytes up, "
        f"{one.bytes_down} down"
    )
