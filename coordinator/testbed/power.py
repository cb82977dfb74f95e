"""Boards on, off, and off and on again: by a command of the inventory on this machine, or through labgrid."""

from __future__ import annotations

import asyncio
import shlex

from coordinator.testbed.across import Progress
from coordinator.testbed.inventory import Board
from protos.errors import CheckFailed, ConfigError, UsageError, WaitExpired

__all__ = ["ACTIONS", "command_of", "switch"]

ACTIONS = ("on", "off", "cycle")
_LIMIT_S = 60.0


def command_of(board: Board, action: str) -> list[str]:
    """The words that switch a board; no shell reads them.

    Raises:
        ConfigError: the inventory does not say how. UsageError: it names something that is not known.
    """
    if board.power:
        try:
            words = shlex.split(board.power)
            return [word.format(action=action, board=board.name, outlet=board.outlet) for word in words]
        except (KeyError, IndexError, ValueError) as error:
            what = f"{board.power!r} cannot be filled in ({error})"
            raise UsageError(what, where=f"{board.name}: power", fix="use {action}, {board} and {outlet}") from error
    if board.place:
        return ["labgrid-client", "-p", board.place, "power", action]
    raise ConfigError("has no power switch", where=board.name, fix="give it `power`, or `place` for one of labgrid")


async def switch(board: Board, action: str, progress: Progress, *, rest_s: float = 2.0) -> dict[str, object]:
    """Switch a board.

    Args:
        rest_s: between off and on.

    Raises:
        CheckFailed: the command failed. WaitExpired: it hangs.
    """
    steps = ("off", "on") if action == "cycle" and not board.place else (action,)
    for index, step in enumerate(steps):
        if index:
            await asyncio.sleep(rest_s)
        progress.say(f"power {step}")
        await _run(board, command_of(board, step))
    return {"power": action}


async def _run(board: Board, words: list[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        what = f"{words[0]} cannot be run ({error.strerror})"
        raise CheckFailed(what, where=f"{board.name}: power", fix="install it, or correct the inventory") from error
    try:
        async with asyncio.timeout(_LIMIT_S):
            out, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise WaitExpired(f"{words[0]} took more than {_LIMIT_S:g} s", where=f"{board.name}: power") from error
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = out.decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
        what = f"{shlex.join(words)} left with {process.returncode}: {lines[-1]}"
        raise CheckFailed(what, where=f"{board.name}: power", fix="try it by hand")
