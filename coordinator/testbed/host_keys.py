"""Host keys of boards: a file as OpenSSH has it. An unknown key is never taken without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from coordinator.testbed.inventory import Board
from protos.atomic import write_whole
from protos.errors import ConfigError, IntegrityError, UnreachableError, WaitExpired

__all__ = ["HostKeys", "Seen", "ask"]


@dataclass(frozen=True)
class Seen:
    """A board's host key as it showed it, and what is known of it: "known", "new" or "changed"."""

    board: Board
    key: asyncssh.SSHKey
    state: str

    @property
    def fingerprint(self) -> str:
        return f"{self.key.get_algorithm()} {self.key.get_fingerprint()}"


class HostKeys:
    """The keys of a file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""
        try:
            if path.exists():
                self._text = path.read_text(encoding="utf-8")
            self.known = asyncssh.import_known_hosts(self._text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"is no file of host keys ({error})", where=str(path), fix="correct it") from error

    def of(self, board: Board) -> list[asyncssh.SSHKey]:
        """Keys that are written down for a board."""
        found = self.known.match(board.host, "", None if board.port == 22 else board.port)
        return [key for key in found[0] if isinstance(key, asyncssh.SSHKey)]

    def state(self, board: Board, key: asyncssh.SSHKey) -> str:
        """Whether a key is "known" to be the board's, "new" as nothing is known of it, or "changed"."""
        here = self.of(board)
        if any(each_key.public_data == key.public_data for each_key in here):
            return "known"
        return "changed" if here else "new"

    def keep(self, seen: Sequence[Seen]) -> None:
        """Write keys down, in place of others that were known for the same boards."""
        lines = self._text.splitlines()
        for host_key in seen:
            name = (
                host_key.board.host if host_key.board.port == 22 else f"[{host_key.board.host}]:{host_key.board.port}"
            )
            lines = [line for line in lines if line.split(" ")[0] != name]
            lines.append(f"{name} {host_key.key.export_public_key().decode('ascii').strip()}")
        self._text = "\n".join(lines) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(self.path) as file:
            file.write(self._text.encode())
        self.known = asyncssh.import_known_hosts(self._text)


async def ask(board: Board, keys: HostKeys, *, timeout_s: float) -> Seen:
    """The host key that a board shows. Nothing is sent that it could use.

    Raises:
        UnreachableError: nobody answers there. WaitExpired: it takes the connection and says nothing.
    """
    try:
        async with asyncio.timeout(timeout_s):
            key = await asyncssh.get_server_host_key(board.host, board.port, config=None)
    except TimeoutError as error:
        raise WaitExpired(f"said nothing in {timeout_s:g} s", where=board.host, fix="is it busy, or hung?") from error
    except (OSError, asyncssh.Error) as error:
        raise UnreachableError(
            f"does not answer at port {board.port} ({getattr(error, 'strerror', None) or error})",
            where=board.host, fix="is it on, and is sshd there?",
        ) from error  # fmt: skip
    if key is None:
        raise IntegrityError("showed no host key", where=board.host, fix="look at its sshd")
    return Seen(board, key, keys.state(board, key))
