"""A lab's host and so many boards on one machine: network namespaces on one switch, each with an address of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from two_hosts import Host, _ip

NETWORK = "10.78.0"


@contextlib.contextmanager
def many_hosts(count: int) -> Iterator[tuple[Host, list[Host]]]:
    """The lab's host, which has the switch, and the boards' hosts; gone at the end."""
    mark = f"{os.getpid() % 100000}"
    lab = Host(f"ejlab{mark}", f"{NETWORK}.1", "ejswitch")
    boards = [Host(f"ejb{number}x{mark}", f"{NETWORK}.{10 + number}", "eth0") for number in range(1, count + 1)]
    try:
        for host in (lab, *boards):
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", lab.name, "link", "add", lab.link, "type", "bridge")
        _ip("-n", lab.name, "addr", "add", f"{lab.address}/24", "dev", lab.link)
        _ip("-n", lab.name, "link", "set", lab.link, "up")
        for number, host in enumerate(boards, 1):
            port = f"port{number}"
            _ip("-n", lab.name, "link", "add", port, "type", "veth", "peer", "name", host.link, "netns", host.name)
            _ip("-n", lab.name, "link", "set", port, "master", lab.link, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.link)
            _ip("-n", host.name, "link", "set", host.link, "up")
        yield lab, boards
    finally:
        for host in (*boards, lab):
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
