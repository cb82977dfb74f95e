"""Two hosts on one machine: network namespaces, joined by a veth pair, each with an address of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

LAB, DESK = "10.77.0.1", "10.77.0.2"
# Of a board behind a router, and of the router on that side; its other side has the address of a desk.
HIDDEN, GATEWAY = "192.168.77.2", "192.168.77.1"
_MASQUERADE = """table ip edgejoule {{
 chain out {{ type nat hook postrouting priority srcnat; oifname "{outer}" masquerade; }}
}}
"""


@dataclass(frozen=True)
class Host:
    """A network namespace and its address."""

    name: str
    address: str
    link: str

    def command(self, *words: str) -> list[str]:
        """A command that runs there."""
        return ["ip", "netns", "exec", self.name, *words]


def why_not() -> str | None:
    """Why this machine cannot have two hosts, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not installed"
    probe = f"ejprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=False, capture_output=True)
    return None


def why_no_nat() -> str | None:
    """Why there can be no router with NAT between the hosts, or None."""
    return None if shutil.which("nft") else "the program nft (nftables) is not installed"


@contextlib.contextmanager
def behind_nat() -> Iterator[tuple[Host, Host]]:
    """The lab's host, and a board behind a router that hides its address: the lab has no way to it but answering."""
    mark = f"{os.getpid() % 100000}"
    lab, board = Host(f"ejlab{mark}", LAB, f"ejl{mark}"), Host(f"ejdesk{mark}", HIDDEN, f"ejd{mark}")
    router, outer, inner = f"ejnat{mark}", f"ejo{mark}", f"eji{mark}"
    names = (lab.name, router, board.name)
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for host, link, own in ((lab, outer, DESK), (board, inner, GATEWAY)):
            _ip("link", "add", host.link, "type", "veth", "peer", "name", link)
            for name, device, address in ((host.name, host.link, host.address), (router, link, own)):
                _ip("link", "set", device, "netns", name)
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
                _ip("-n", name, "link", "set", device, "up")
        _ip("-n", board.name, "route", "add", "default", "via", GATEWAY)
        inside = ["ip", "netns", "exec", router]
        subprocess.run([*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True, capture_output=True)
        rules = _MASQUERADE.format(outer=outer)
        subprocess.run([*inside, "nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
        way = subprocess.run(
            ["ip", "-n", lab.name, "route", "get", HIDDEN], check=False, capture_output=True, text=True
        )
        assert way.returncode, f"the lab knows a way to the board: {way.stdout}"
        yield lab, board
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """The lab's host and the board's, in one network; gone at the end."""
    mark = f"{os.getpid() % 100000}"
    lab, desk = Host(f"ejlab{mark}", LAB, f"ejl{mark}"), Host(f"ejdesk{mark}", DESK, f"ejd{mark}")
    try:
        for host in (lab, desk):
            _ip("netns", "add", host.name)
        _ip("link", "add", lab.link, "type", "veth", "peer", "name", desk.link)
        for host in (lab, desk):
            _ip("link", "set", host.link, "netns", host.name)
            for words in (
                ("addr", "add", f"{host.address}/24", "dev", host.link),
                ("link", "set", host.link, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", host.name, *words)
        yield lab, desk
    finally:
        for host in (lab, desk):
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)


def cut(host: Host, *, off: bool) -> None:
    """Take a host's cable out, or put it in again."""
    _ip("-n", host.name, "link", "set", host.link, "down" if off else "up")
    if not off and host.address == HIDDEN:
        # It went with the link.
        _ip("-n", host.name, "route", "replace", "default", "via", GATEWAY)


def slow(host: Host, rate: str) -> None:
    """Hold a host's sending at a rate such as `1mbit`."""
    tc = ["tc", "-n", host.name, "qdisc", "replace", "dev", host.link, "root", "tbf", "rate", rate]
    subprocess.run([*tc, "burst", "16kb", "latency", "400ms"], check=True, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
