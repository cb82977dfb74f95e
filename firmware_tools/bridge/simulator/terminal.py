"""The simulated bridge's end of a serial line: a pseudo-terminal under a stable name.

The other end of the pair is closed here as soon as it is made: so a hang-up tells that no reader has the port open,
and what would be sent is thrown away, as a real bridge's line does. A name (symbolic link) stands for the udev
name by-id: after a replug the terminal has another number behind the same name.
"""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import numpy as np

from protos.errors import UsageError

__all__ = ["Line", "WireFaults"]


class WireFaults:
    """Damage on the way to the host: each byte is dropped or changed with a probability."""

    def __init__(self, rng: np.random.Generator, *, drop: float = 0.0, corrupt: float = 0.0) -> None:
        self._rng, self.drop, self.corrupt = rng, drop, corrupt

    def apply(self, data: bytes) -> bytes:
        """The bytes that arrive."""
        if not data or not (self.drop or self.corrupt):
            return data
        received = np.frombuffer(data, np.uint8).copy()
        hit = self._rng.random(len(received)) < self.corrupt
        received[hit] ^= (1 << self._rng.integers(0, 8, int(hit.sum()))).astype(np.uint8)
        return received[self._rng.random(len(received)) >= self.drop].tobytes()


class Line:
    """A pseudo-terminal in raw mode behind ``link``; opened at once."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.dropped_bytes = 0
        self._fd = -1
        self._poll = select.poll()
        self.plug()

    def fileno(self) -> int:
        """The master side, -1 while unplugged."""
        return self._fd

    @property
    def plugged(self) -> bool:
        return self._fd >= 0

    def plug(self) -> None:
        """Make the terminal and its name; nothing happens when it is there.

        Raises:
            UsageError: the name is taken by something that is not our kind of link.
        """
        if self.plugged:
            return
        if self.link.exists() and not self.link.is_symlink():
            raise UsageError("a file is in the way", where=str(self.link), fix="choose another --link")
        master, slave = os.openpty()
        import tty  # not on Windows, where there is no pseudo-terminal either

        tty.setraw(slave)
        name = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(master, False)
        self._fd, self._name = master, name
        self._poll.register(master, select.POLLIN)
        # Written beside and renamed: a reader never sees a half-made name.
        fresh = self.link.with_name(f".{self.link.name}.{os.getpid()}")
        try:
            self.link.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(name)
            fresh.replace(self.link)
        except OSError as cause:
            self.unplug()
            raise UsageError(
                f"cannot make the link: {cause.strerror}", where=str(self.link), fix="choose another --link"
            ) from cause

    def unplug(self) -> None:
        """Pull the cable: readers see a hang-up, and the name is gone."""
        if not self.plugged:
            return
        self._poll.unregister(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self.link.is_symlink() and str(self.link.readlink()) == self._name:
            self.link.unlink()

    def attached(self) -> bool:
        """Whether a reader has the port open."""
        return self.plugged and not any(event & select.POLLHUP for _, event in self._poll.poll(0))

    def read(self) -> bytes:
        """What the host has sent; empty when nothing, or nobody is there."""
        try:
            return os.read(self._fd, 4096) if self.plugged else b""
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EIO):
                return b""
            raise

    def write(self, data: bytes) -> None:
        """Send to the host; what the line cannot take is dropped and counted."""
        if not data or not self.plugged:
            return
        try:
            sent = os.write(self._fd, data)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise
            sent = 0
        self.dropped_bytes += len(data) - sent
