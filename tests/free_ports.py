"""Ports of loopback for servers that a test starts later.

A port that the system chose and that was let go again may be taken meanwhile: the system gives it to any connection or
server of another test. These lie below those that it gives away by itself, and a lock keeps each for one process.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_FIRST, _LAST = 20_000, 32_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# The locks of this process: kept until it ends.
_held: dict[int, int] = {}


def free_ports(count: int) -> list[int]:
    """So many ports, one after the other, on which nobody listens, and which no other process is given as long as this
    one lives."""
    last = _LAST
    if _RANGE.exists() and (lowest := int(_RANGE.read_text().split()[0])) > _FIRST + 1000:
        last = min(_LAST, lowest)
    for _ in range(10_000):
        first = random.SystemRandom().randrange(_FIRST, last - count)
        ports = list(range(first, first + count))
        if all(map(_keep, ports)):
            return ports
        # Those of them that were kept stay so: there are enough.
    raise RuntimeError(f"no {count} free ports from {_FIRST} to {last}")


def free_port() -> int:
    """One of them."""
    (found,) = free_ports(1)
    return found


def _keep(port: int) -> bool:
    """Whether a port is this process's from now on."""
    if port in _held:
        return False
    folder = Path(tempfile.gettempdir()) / f"edgejoule-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))
    except OSError:
        os.close(lock)
        return False
    _held[port] = lock
    return True
