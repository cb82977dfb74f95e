"""A board that is a booted Debian on this machine. It has systemd, Python and no metal."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hw_tests.boards import namespaces
from hw_tests.boards.board import BoardError, NoBoard
from hw_tests.boards.namespaces import Namespaces
from hw_tests.boards.root_folder import root_folder


class Box:
    """See ``Board``. Its network is this machine's, its files are forgotten when it is closed.

    Args:
        scratch: an empty folder, not on a file system that an overlay cannot stand on.

    Raises:
        NoBoard: this machine cannot boot one, and why.
    """

    simulated = True
    has_systemd = True

    def __init__(self, scratch: Path) -> None:
        if (reason := namespaces.why_not()) is not None:
            raise NoBoard(reason)
        namespaces.sweep()
        self.name = f"{namespaces.PREFIX}{os.getpid()}"
        self._scratch = scratch
        self._box = Namespaces(root_folder(), scratch, self.name)
        try:
            self._box.boot()
        except BoardError as error:
            raise NoBoard(str(error)) from error

    def run(
        self, *words: str, timeout_s: float = 120.0, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._box.run(*words, timeout_s=timeout_s, check=check, env=env)

    def words(self, *words: str) -> list[str]:
        """The command of this machine that runs those words on the board."""
        return self._box.words(*words)

    def put(self, source: Path, target: str) -> None:
        parent, _, name = target.rpartition("/")
        self.run("mkdir", "-p", parent or "/")
        self.run("rm", "-rf", target)
        pack = ["tar", "-C", str(source.parent), "--owner=0", "--group=0", "-cf", "-", source.name]
        # The name on the board may be another one; in an expression of sed a name of ours needs no care.
        unpack = ["tar", "-C", parent or "/", f"--transform=s,^{source.name},{name},", "-xf", "-"]
        _pipe(pack, self._box.words(*unpack))

    def get(self, source: str, target: Path) -> None:
        parent, _, name = source.rpartition("/")
        pack = self._box.words("tar", "-C", parent or "/", "-cf", "-", name)
        _pipe(pack, ["tar", "-C", str(target.parent), f"--transform=s,^{name},{target.name},", "-xf", "-"])

    def reboot(self, *, hard: bool = False) -> None:
        if not hard:
            self._box.shut_down()
        self._box.kill()
        self._box.boot()

    def expose(self, port: int) -> None:
        """Nothing is to be done: the network is the same."""

    def close(self) -> None:
        self._box.kill()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._scratch)


def _pipe(pack: list[str], unpack: list[str]) -> None:
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        done = subprocess.run(unpack, stdin=packing.stdout, capture_output=True, text=True, check=False, timeout=300.0)
    if packing.returncode or done.returncode:
        raise BoardError(f"{' '.join(pack)} | {' '.join(unpack)}\n{done.stderr.strip()[-500:]}")
