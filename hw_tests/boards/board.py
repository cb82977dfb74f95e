"""A machine that tests act on as root: a booted box on this one, or a real board."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Board(Protocol):
    """What every machine under test can do. Paths on the board are absolute texts.

    Attributes:
        name: for people and reports.
        simulated: no metal is behind it.
        has_systemd: systemd is process 1.
    """

    name: str
    simulated: bool
    has_systemd: bool

    def run(
        self, *words: str, timeout_s: float = 120.0, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Args:
            check: raise when it leaves with another code than 0.

        Raises:
            BoardError: it failed, and ``check`` is set; or the board did not answer in time.
        """

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder onto the board, as ``target``; what was there is replaced."""

    def get(self, source: str, target: Path) -> None:
        """Copy a file or folder from the board, as ``target``."""

    def reboot(self, *, hard: bool = False) -> None:
        """Boot again, and come back when it is up.

        Args:
            hard: like a power cut: nothing is told, nothing is written first.
        """

    def expose(self, port: int) -> None:
        """From now on ``127.0.0.1:port`` of the board leads to that port of this machine's loopback."""

    def close(self) -> None:
        """Give it back. Harmless when repeated."""


class BoardError(AssertionError):
    """A command on a board that failed: the test that asked for it fails with its words."""


class NoBoard(Exception):
    """Such a board cannot be had here; the text says why, and what to install."""


def checked(
    name: str, words: tuple[str, ...], done: subprocess.CompletedProcess[str], *, check: bool
) -> subprocess.CompletedProcess[str]:
    """``done``, unless it failed and that was not allowed.

    Raises:
        BoardError: with the command, its code, and the end of what it said.
    """
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise BoardError(f"{name}: {' '.join(words)} left with {done.returncode}\n{said}")
    return done
