"""What the verbs of `coordinator testbed` share: the inventory, the boards that are meant, and work on all of them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.testbed import inventory, selection
from coordinator.testbed.inventory import Board, Inventory
from protos.commands.json_document import document
from protos.durations import duration_s
from protos.errors import UsageError
from protos.extras import require

if TYPE_CHECKING:
    from coordinator.testbed.across import Outcome, Progress
    from coordinator.testbed.ssh import Session

__all__ = ["Laboratory", "SessionWork", "print_json", "tell"]

SessionWork = Callable[["Session", "Progress"], Awaitable[dict[str, Any]]]


@dataclass
class Laboratory:
    """An inventory, the boards that a command is about, and how it reaches them."""

    lab: Inventory
    boards: tuple[Board, ...]
    timeout_s: float
    parallel: int
    quiet: bool
    learn: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Laboratory:
        """As the command line says.

        Raises:
            UsageError: the extra is not installed, or an option makes no sense. ConfigError: the inventory is wrong.
        """
        require(("asyncssh", "rich"), "testbed")
        lab = inventory.read(arguments.inventory)
        boards = selection.chosen(lab.boards, arguments.on)
        parallel = arguments.parallel or lab.parallel
        if not 1 <= parallel <= 256:
            raise UsageError(f"{parallel} at a time cannot be", where="--parallel", fix="give 1 to 256")
        timeout_s = duration_s(arguments.timeout, "--timeout")
        learn = getattr(arguments, "learn_host_keys", False)
        return cls(lab, boards, timeout_s, parallel, bool(arguments.json), learn)

    @property
    def known_hosts(self) -> Path:
        return self.lab.beside(self.lab.known_hosts)

    def key_file(self, board: Board) -> str | None:
        """The private key that the inventory names for a board."""
        return str(self.lab.beside(board.key)) if board.key else None

    def over_ssh(self, work: SessionWork) -> list[Outcome]:
        """Do the work on each board over a connection of its own, and show how far it is."""
        return asyncio.run(self._over_ssh(work))

    async def _over_ssh(self, work: SessionWork) -> list[Outcome]:
        from coordinator.testbed.host_keys import HostKeys
        from coordinator.testbed.ssh import connect

        keys = HostKeys(self.known_hosts)
        if self.learn:
            await self._learn(keys)

        async def one(board: Board, progress: Progress) -> dict[str, Any]:
            progress.say("connecting")
            async with connect(board, keys, key_file=self.key_file(board), timeout_s=self.timeout_s) as session:
                return await work(session, progress)

        return await self.shown(one)

    async def _learn(self, keys: Any) -> None:
        """Keep the host keys of boards of which none is known, and say which; a changed one is never taken."""
        new = [board for board in self.boards if not keys.of(board)]
        seen = await self.host_keys(keys, new)
        keys.keep([outcome.values["seen"] for outcome in seen if outcome.error is None])
        for outcome in seen:
            if outcome.error is None:
                print(
                    f"{outcome.board.name}: from now on known by {outcome.values['seen'].fingerprint}", file=sys.stderr
                )

    async def host_keys(self, keys: Any, boards: Sequence[Board]) -> list[Outcome]:
        """The host keys that boards show."""
        from coordinator.testbed.host_keys import ask

        async def one(board: Board, progress: Progress) -> dict[str, Any]:
            progress.say("asking for its host key")
            return {"seen": await ask(board, keys, timeout_s=self.timeout_s)}

        return await self.shown(one, boards, quiet=True)

    async def shown(self, work: Any, boards: Sequence[Board] | None = None, *, quiet: bool = False) -> list[Outcome]:
        """Do any work on each board, and show how far it is."""
        from coordinator.testbed.across import across
        from coordinator.testbed.display import Display

        chosen = self.boards if boards is None else boards
        logs = logging.getLogger("asyncio")
        logs.addFilter(_is_ours)
        try:
            with Display(len(chosen), quiet=quiet or self.quiet) as display:
                return await across(chosen, work, parallel=self.parallel, watcher=display)
        finally:
            logs.removeFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line of asyncio says something: that a socket broke is told as the board's error."""
    return "socket.send() raised exception" not in record.getMessage()


def tell(verb: str, outcomes: Sequence[Outcome], *, as_json: bool, more: dict[str, Any] | None = None) -> int:
    """Say what became of all boards, at the end; the exit code, by cause.

    In JSON a board has ``ok``, ``took_s``, ``error`` and ``exit_code`` (null and 0 where it went well), and what the
    verb found.
    """
    from coordinator.testbed.across import code_of, summary

    if as_json:
        boards = {
            outcome.board.name: {
                "ok": outcome.ok,
                "host": outcome.board.host,
                "took_s": round(outcome.took_s, 3),
                "error": None if outcome.error is None else str(outcome.error),
                "exit_code": 0 if outcome.error is None else outcome.error.exit_code,
                **outcome.values,
            }
            for outcome in outcomes
        }
        print_json({"verb": verb, "boards": boards, "exit_code": code_of(outcomes), **(more or {})})
    else:
        print(f"testbed {verb}: {summary(outcomes)}", file=sys.stderr)
    return code_of(outcomes)


def print_json(values: dict[str, Any]) -> None:
    """The document that every verb prints with --json."""
    import json

    print(json.dumps(document("testbed", values), indent=2, sort_keys=True, allow_nan=False, default=str))
