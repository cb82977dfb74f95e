"""A bad line between two hosts: it is slow, late, and loses packets, in a program between two tunnels.

    python tests/network/bad_line.py LAB ADDRESS BOARD ADDRESS [--rate-bps N] [--delay-s S] [--loss P]

LAB and BOARD are network namespaces; each gets the interface `bad0` with its address. Ends with its stdin. Each
direction has the rate, the delay and the loss by itself, and a queue of a second. So no queueing discipline of the
kernel is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LINK = "bad0"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
_MTU = 1500
# What waits longer than this behind the rate is dropped, as by any router.
_QUEUE_S = 1.0


def tunnel(host: str, address: str, other: str) -> int:
    """The interface of a host, with the way to the other one; a file of its packets."""
    with open(f"/var/run/netns/{host}") as there, open("/proc/self/ns/net") as here:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            packets = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(packets, _TUNSETIFF, struct.pack("16sH", LINK.encode(), _IFF_TUN | _IFF_NO_PI))
        finally:
            assert libc.setns(here.fileno(), _CLONE_NEWNET) == 0
    for words in (
        ("addr", "add", address, "peer", other, "dev", LINK),
        ("link", "set", LINK, "mtu", str(_MTU), "txqueuelen", "100", "up"),
    ):
        subprocess.run(["ip", "-n", host, *words], check=True, capture_output=True)
    return packets


def carry(ends: tuple[int, int], rate_bps: float, delay_s: float, loss: float, dice: random.Random) -> None:
    """Carry packets both ways until stdin ends."""
    flying: list[tuple[float, int, int, bytes]] = []
    free_s, count = [0.0, 0.0], 0
    while True:
        now_s = time.monotonic()
        while flying and flying[0][0] <= now_s:
            _, _, to, data = heapq.heappop(flying)
            with contextlib.suppress(OSError):
                os.write(ends[to], data)
        wait_s = max(0.0, flying[0][0] - now_s) if flying else None
        ready, _, _ = select.select([*ends, sys.stdin], [], [], wait_s)
        if sys.stdin in ready:
            return
        for side in (0, 1):
            if ends[side] not in ready:
                continue
            data, now_s = os.read(ends[side], 65536), time.monotonic()
            begun_s = max(free_s[side], now_s)
            if begun_s - now_s > _QUEUE_S:
                continue
            # What is lost on the way had its time on the line.
            free_s[side] = begun_s + 8 * len(data) / rate_bps
            if dice.random() >= loss:
                count += 1
                heapq.heappush(flying, (free_s[side] + delay_s, count, 1 - side, data))


@contextlib.contextmanager
def bad_line(
    lab: tuple[str, str], board: tuple[str, str], *, rate_bps: float = 1e6, delay_s: float = 0.2, loss: float = 0.3
) -> Iterator[None]:
    """Such a line between two namespaces, each with the address it gets."""
    command = [sys.executable, str(Path(__file__).resolve()), *lab, *board,
               "--rate-bps", str(rate_bps), "--delay-s", str(delay_s), "--loss", str(loss)]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "no bad line could be made"
        yield
    finally:
        process.communicate()


def main() -> int:
    """Be the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("lab", "lab_address", "board", "board_address"):
        parser.add_argument(name)
    parser.add_argument("--rate-bps", type=float, default=1e6, metavar="N", help="bits a second (1000000)")
    parser.add_argument("--delay-s", type=float, default=0.2, metavar="S", help="one way (0.2)")
    parser.add_argument("--loss", type=float, default=0.3, metavar="P", help="of packets, 0 to 1 (0.3)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is lost (1)")
    given = parser.parse_args()
    ends = (
        tunnel(given.lab, given.lab_address, given.board_address),
        tunnel(given.board, given.board_address, given.lab_address),
    )
    print("ready", flush=True)
    carry(ends, given.rate_bps, given.delay_s, given.loss, random.Random(given.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
