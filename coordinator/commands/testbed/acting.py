"""`testbed up`, `down`, `power`, `blink`, `run`, `logs`, `shell`, `reserve` and `release`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from coordinator.commands.testbed.laboratory import Laboratory, tell
from coordinator.commands.testbed.making import board_named
from coordinator.testbed import inventory
from protos.durations import duration_s
from protos.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from coordinator.testbed.across import Outcome, Progress
    from coordinator.testbed.ssh import Session


def run_up(arguments: argparse.Namespace) -> int:
    """Start daemons; the exit code."""
    return _switched(arguments, "up")


def run_down(arguments: argparse.Namespace) -> int:
    """Stop daemons; the exit code."""
    return _switched(arguments, "down")


def _switched(arguments: argparse.Namespace, verb: str) -> int:
    found = Laboratory.of(arguments)
    from coordinator.testbed import daemon
    from coordinator.testbed.reservation import allowed, me

    who, change = me(arguments.who), daemon.start if verb == "up" else daemon.stop

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        await allowed(session, who)
        progress.say("starting" if verb == "up" else "stopping")
        return {"daemon": await change(session)}

    return tell(verb, found.over_ssh(work), as_json=arguments.json)


def run_power(arguments: argparse.Namespace) -> int:
    """Switch boards; the exit code. A board that answers is asked first whether somebody else has it."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.host_keys import HostKeys
    from coordinator.testbed.power import command_of, switch
    from coordinator.testbed.reservation import allowed, me
    from coordinator.testbed.ssh import connect
    from protos.errors import EdgejouleError

    who, rest_s = me(arguments.who), duration_s(arguments.rest, "--rest")
    commands = {board.name: command_of(board, arguments.action) for board in found.boards}
    if arguments.dry_run:
        for name, words in commands.items():
            print(f"{name}: {shlex.join(words)}")
        return 0
    keys = HostKeys(found.known_hosts)

    async def work(board: Any, progress: Progress) -> dict[str, Any]:
        progress.say("asking who has it")
        try:
            async with connect(board, keys, key_file=found.key_file(board), timeout_s=found.timeout_s) as session:
                await allowed(session, who)
        except RefusedError as error:
            if "is reserved by" in error.what:
                raise
        except EdgejouleError:
            # One that hangs or is off is what this is for.
            pass
        return await switch(board, arguments.action, progress, rest_s=rest_s)

    return tell("power", asyncio.run(found.shown(work)), as_json=arguments.json)


def run_blink(arguments: argparse.Namespace) -> int:
    """Let LEDs blink; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed import daemon

    length_s = duration_s(arguments.length, "--for", most_s=3600.0)

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        progress.say("blinking")
        return {"led": await daemon.blink(session, length_s)}

    return tell("blink", found.over_ssh(work), as_json=arguments.json)


def run_run(arguments: argparse.Namespace) -> int:
    """Run a command on boards; the exit code. Its output stands behind the name of its board."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.reservation import allowed, me
    from protos.errors import CheckFailed

    who = me(arguments.who)
    words: list[str] = arguments.words
    script = words[0] if len(words) == 1 else '"$@"'

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        await allowed(session, who)
        progress.say(shlex.join(words))
        more = words if len(words) > 1 else ()
        # Who presses Ctrl-C ends it on the boards, too.
        done = await session.run(script, *more, timeout_s=24 * 3600.0, doing="running", tied=True)
        if not arguments.json:
            for line in (done.out + done.err).splitlines():
                print(f"{session.board.name}: {line}", flush=True)
        elif done.code:
            return {"code": done.code, "stdout": done.out, "stderr": done.err}
        if done.code:
            what = f"left with {done.code}: {done.last_words}"
            raise CheckFailed(what, where=session.board.name, fix="try it in: coordinator testbed shell")
        return {"code": 0, "stdout": done.out, "stderr": done.err}

    outcomes = found.over_ssh(work)
    for outcome in outcomes:
        if outcome.error is None and outcome.values["code"]:
            outcome.error = CheckFailed(f"left with {outcome.values['code']}", where=outcome.board.name)
    return tell("run", outcomes, as_json=arguments.json)


def run_logs(arguments: argparse.Namespace) -> int:
    """Print lines of daemons; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed import daemon
    from protos.errors import CheckFailed

    if arguments.lines < 0:
        raise UsageError(f"{arguments.lines} lines cannot be", where="--lines", fix="give 0 or more")
    if arguments.follow:
        found.parallel = len(found.boards)
    found.quiet = True

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        lines: list[str] = []

        def said(line: str) -> None:
            if arguments.json:
                lines.append(line)
            else:
                print(f"{session.board.name}: {line}", flush=True)

        script, *words = daemon.log_script(session.board, arguments.lines, follow=arguments.follow)
        code = await session.follow(script, *words, on_line=said)
        if code:
            fix = "is it deployed? see: coordinator testbed status"
            raise CheckFailed("has no log that can be read", where=session.board.name, fix=fix)
        return {"lines": lines}

    outcomes = found.over_ssh(work)
    if arguments.json or any(outcome.error for outcome in outcomes):
        return tell("logs", outcomes, as_json=arguments.json)
    return 0


def run_shell(arguments: argparse.Namespace) -> int:
    """A shell on one board, by OpenSSH's own client; it takes the place of this program."""
    lab = inventory.read(arguments.inventory)
    board = board_named(lab, arguments.board)
    ssh = shutil.which("ssh")
    if ssh is None:
        raise UsageError("the program ssh is not installed", fix="install openssh-client")
    words = [ssh, "-o", f"UserKnownHostsFile={lab.beside(lab.known_hosts)}", "-o", "StrictHostKeyChecking=yes"]
    words += ["-p", str(board.port)]
    words += ["-l", board.user] if board.user else []
    words += ["-i", str(lab.beside(board.key))] if board.key else []
    sys.stdout.flush()
    os.execv(ssh, [*words, board.host])


def run_reserve(arguments: argparse.Namespace) -> int:
    """Take boards, all or none; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.reservation import me, release, reserve

    who = me(arguments.who)
    until_unix_s = time.time() + duration_s(arguments.length, "--for")

    async def take(session: Session, progress: Progress) -> dict[str, Any]:
        progress.say("reserving")
        return {"new": await reserve(session, who, until_unix_s), "who": who, "until_unix_s": until_unix_s}

    outcomes = found.over_ssh(take)
    if not all(outcome.ok for outcome in outcomes):
        # Half of what was asked for is of no use, and would be missed by others.
        taken = tuple(outcome.board for outcome in outcomes if outcome.ok and outcome.values["new"])

        async def give(session: Session, progress: Progress) -> dict[str, Any]:
            return {"given": await release(session, who)}

        found.boards, found.quiet = taken, True
        kept = [outcome.board.name for outcome in found.over_ssh(give) if not outcome.ok] if taken else []
        for name in kept:
            print(f"{name}: stays reserved, since it could not be reached again", file=sys.stderr)
        for outcome in outcomes:
            if outcome.ok:
                outcome.values["given_back"] = outcome.board in taken and outcome.board.name not in kept
    return tell("reserve", outcomes, as_json=arguments.json)


def run_release(arguments: argparse.Namespace) -> int:
    """Give boards back; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.reservation import me, release

    who = me(arguments.who)

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        progress.say("releasing")
        return {"was_taken": await release(session, who, force=arguments.force)}

    outcomes: list[Outcome] = found.over_ssh(work)
    return tell("release", outcomes, as_json=arguments.json)
