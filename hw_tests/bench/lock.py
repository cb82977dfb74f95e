"""One at a time: a lock for each bench, which says who holds it.

``flock`` on a file: the kernel lets go when the holder dies, however it dies. What stands in the file is for people; a
file without a lock on it means nothing. Benches that labgrid's coordinator hands out are reserved there first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protos.errors import RefusedError, StoreError, WaitExpired

__all__ = ["BenchLock", "lock_path"]

LOOK_AGAIN_S = 0.2
SHARED = Path("/run/lock")


def lock_path(bench: str) -> Path:
    """Where the lock of a bench on this host is: in ``/run/lock``, which all users share, or with temporary files."""
    folder = SHARED if SHARED.is_dir() and os.access(SHARED, os.W_OK) else Path(tempfile.gettempdir())
    return folder / f"edgejoule-bench-{bench}.lock"


class BenchLock:
    """Held from :meth:`take` to :meth:`release`, or by ``with``.

    Args:
        path: of the lock's file; made if it is not there, and left there.
        what: the bench, for people.
        wait_s: how long to wait for another holder.
        now, sleep: the clock, for tests.
    """

    def __init__(
        self,
        path: Path,
        *,
        what: str,
        wait_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path, self.what, self.wait_s = path, what, wait_s
        self._now, self._sleep = now, sleep
        self._fd = -1

    def take(self) -> None:
        """Have the bench.

        Raises:
            RefusedError: somebody else has it, and waiting was not asked for; it says who.
            WaitExpired: somebody else has had it all the time.
            StoreError: the file cannot be made or opened.
        """
        fd = self._open()
        until_s = self._now() + self.wait_s
        try:
            while not _locked(fd):
                if self._now() >= until_s:
                    raise self._taken(fd)
                self._sleep(LOOK_AGAIN_S)
            self._sign(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let go. Harmless when repeated."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                # Without O_CREAT first: in a folder that is sticky and open to all, the kernel refuses O_CREAT on a
                # file of another user (fs.protected_regular), although the file may be written.
                return os.open(self.path, flags)
            except FileNotFoundError:
                fd = os.open(self.path, flags | os.O_CREAT, 0o666)
                with contextlib.suppress(PermissionError):  # another user has made it this very moment
                    os.fchmod(fd, 0o666)  # whatever the umask: other users lock it as well
                return fd
        except OSError as cause:
            what = f"the lock of bench {self.what} cannot be opened: {cause.strerror}"
            raise StoreError(what, where=str(self.path), fix="remove the file when nobody uses the bench") from cause

    def _sign(self, fd: int) -> None:
        holder = {
            "who": f"{_user()}@{socket.gethostname()}",
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "bench": self.what,
        }
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode() + b"\n", 0)

    def _taken(self, fd: int) -> RefusedError | WaitExpired:
        holder = _holder(fd)
        said = (
            f"{holder['who']}, process {holder['pid']}, since {holder['since']}"
            if holder
            else "somebody who left no name"
        )
        what = f"bench {self.what} is in use by {said}"
        if self.wait_s > 0:
            return WaitExpired(f"{what}; waited {self.wait_s:g} s", where=str(self.path), fix="try again later")
        return RefusedError(what, where=str(self.path), fix="try again later, or wait with --hw-wait SECONDS")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"user {os.getuid()}"


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        if cause.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _holder(fd: int) -> dict[str, Any] | None:
    """What the holder wrote; None when it cannot be read, as while it is being written."""
    try:
        told = json.loads(os.pread(fd, 4096, 0))
        return {name: str(told[name])[:80] for name in ("who", "pid", "since")}
    except (ValueError, KeyError, TypeError):
        return None
