"""The same work on many boards at once, so many at a time; what became of it on each, and by which cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coordinator.testbed.inventory import Board
from protos.errors import CheckFailed, EdgejouleError

__all__ = ["Outcome", "Progress", "Watcher", "across", "code_of", "summary"]


@dataclass
class Progress:
    """How far the work is on one board.

    Attributes:
        doing: what is being done, in words; "" before it begins.
        share: of this step, 0 to 1, or None where nobody can tell.
    """

    board: Board
    on_change: Callable[[], None]
    doing: str = ""
    share: float | None = None

    def say(self, doing: str) -> None:
        """Something else is being done."""
        self.doing, self.share = doing, None
        self.on_change()

    def part(self, done: int, whole: int) -> None:
        """So much of what is being done."""
        self.share = done / whole if whole else 1.0
        self.on_change()


@dataclass
class Outcome:
    """What became of a board: its values where it went well, else the error."""

    board: Board
    values: dict[str, Any] = field(default_factory=dict)
    error: EdgejouleError | None = None
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def failure(self) -> str:
        """Why it failed, without the board's name in front, which stands beside it; "" where it went well."""
        return "" if self.error is None else str(self.error).removeprefix(f"{self.board.name}: ")


class Watcher(Protocol):
    """Who shows how far everything is."""

    def begun(self, progress: Progress) -> None:
        """A board has its turn."""

    def changed(self) -> None:
        """Somewhere something has moved."""

    def done(self, outcome: Outcome) -> None:
        """A board is through."""


Work = Callable[[Board, Progress], Awaitable[dict[str, Any]]]


async def across(boards: Sequence[Board], work: Work, *, parallel: int, watcher: Watcher) -> list[Outcome]:
    """Do the work on every board, ``parallel`` at a time; outcomes in the boards' order. One that fails hinders none.

    ``work`` raises an EdgejouleError where a board is at fault; anything else ends all of it.
    """
    turns = asyncio.Semaphore(max(1, parallel))

    async def one(board: Board) -> Outcome:
        async with turns:
            progress, begun_s = Progress(board, watcher.changed), time.monotonic()
            watcher.begun(progress)
            made = Outcome(board)
            try:
                made.values = await work(board, progress)
            except EdgejouleError as error:
                made.error = error
            made.took_s = time.monotonic() - begun_s
            watcher.done(made)
            return made

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(board)) for board in boards]
    return [task.result() for task in tasks]


def code_of(outcomes: Sequence[Outcome]) -> int:
    """0 when all went well; the exit code of the cause where all failures have one; else that of `CheckFailed`."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    return 0 if not codes else codes.pop() if len(codes) == 1 else CheckFailed.exit_code


_CAUSES = {
    "UnreachableError": "does not answer",
    "WaitExpired": "hangs",
    "IntegrityError": "another host key, or bytes that are not those that were sent",
    "RefusedError": "not allowed",
    "CheckFailed": "something on the board is not as it must be",
    "ConfigError": "the inventory",
    "UsageError": "the command",
}


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many went well, and for each cause which did not.

    Such as "14 of 16 boards; does not answer: pi-3; hangs: pi-9".
    """
    by_cause: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            kind = type(outcome.error).__name__
            by_cause.setdefault(_CAUSES.get(kind, kind), []).append(outcome.board.name)
    good = sum(outcome.ok for outcome in outcomes)
    return "; ".join([f"{good} of {len(outcomes)} boards", *(f"{c}: {', '.join(who)}" for c, who in by_cause.items())])
