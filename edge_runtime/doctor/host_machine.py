"""The machine as the doctor sees it: its files below one root, and the few things that are asked of the system.

A check asks here and nowhere else, so that a test can hand in any machine.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.health.throttling import Bits, vcgencmd
from protos.plugins import Plugin, installed

__all__ = ["HostMachine", "Mount"]

# adjtimex(2): STA_UNSYNC of the status, and TIME_ERROR of the answer: nobody disciplines the clock.
_UNSYNCHRONISED, _TIME_ERROR = 0x40, 5


@dataclass(frozen=True)
class Mount:
    """One line of /proc/mounts."""

    device: str
    place: Path
    kind: str
    options: tuple[str, ...]


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>; only `status` is read, the tail is room for the kernel.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _synchronised() -> bool | None:
    try:
        state = _Timex()
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return None
    return not (answer < 0 or answer == _TIME_ERROR or state.status & _UNSYNCHRONISED)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _may_open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True)
class HostMachine:
    """What checks look at.

    Attributes:
        root: holds sys, proc, etc, usr, lib and dev.
        version: of an installed distribution, or None.
        python: major and minor.
        processor: what the kernel calls it, such as aarch64.
        pointer_bits: of this program.
        libc: name and version; the name is empty when it is not GNU's.
        user: name of who runs this.
        groups: numbers of the groups of this session.
        may_open: whether this session may read and write a node.
        synchronised: whether the clock is; None when nobody can say.
        firmware: the answer of vcgencmd, or None.
        plugins: what installed packages add, by kind.
        pid: of this process.
    """

    root: Path = Path("/")
    version: Callable[[str], str | None] = _version
    python: tuple[int, int] = sys.version_info[:2]
    processor: str = platform.machine()
    pointer_bits: int = struct.calcsize("P") * 8
    libc: tuple[str, str] = platform.libc_ver()
    user: str = os.environ.get("USER", "USER")
    groups: frozenset[int] = frozenset((*os.getgroups(), os.getegid()))
    may_open: Callable[[Path], bool] = _may_open
    synchronised: Callable[[], bool | None] = _synchronised
    firmware: Callable[[], tuple[Bits, Bits] | None] = vcgencmd
    plugins: Callable[[str], tuple[Plugin, ...]] = installed
    pid: int = os.getpid()

    def text(self, path: str | Path) -> str | None:
        """What is in a file below the root, without the ends' white space; None when it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str | Path) -> int | None:
        """The whole number in a file, with 0x or without; None when there is none."""
        try:
            return int(self.text(path) or "", 0)
        except ValueError:
            return None

    def below(self, pattern: str) -> list[Path]:
        """Paths below the root that fit, in order."""
        try:
            return sorted(self.root.glob(pattern))
        except OSError:
            return []

    def mounts(self) -> list[Mount]:
        """File systems, the last mounted last. Source: proc(5); a space in a path is written as \\040."""
        rows = [line.split() for line in (self.text("proc/mounts") or "").splitlines()]
        return [
            Mount(row[0], Path(row[1].replace("\\040", " ")), row[2], tuple(row[3].split(",")))
            for row in rows
            if len(row) >= 4
        ]

    def mount_of(self, path: Path) -> Mount | None:
        """The file system that a path is on; the last one that was mounted over it counts."""
        fitting = [mount for mount in self.mounts() if path.is_relative_to(mount.place)]
        return max(reversed(fitting), key=lambda mount: len(mount.place.parts), default=None)

    def processes(self) -> dict[int, Path]:
        """Folders in /proc by process number, this one left out."""
        found = {int(path.name): path for path in self.below("proc/[0-9]*") if path.name.isdecimal()}
        found.pop(self.pid, None)
        return found
