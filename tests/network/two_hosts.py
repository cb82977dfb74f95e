"""Two hosts on one machine: network namespaces, joined by a veth pair, each with an address of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LAB, DESK = "10.77.0.1", "10.77.0.2"
# Of a board behind a router, and of the router on that side; its other side has the address of a desk.
HIDDEN, GATEWAY = "192.168.77.2", "192.168.77.1"
# What slirp4netns gives to who is behind it, and calls itself.
SLIRPED, SLIRP = "10.0.2.100", "10.0.2.2"
_MASQUERADE = """table ip edgejoule {{
 chain out {{ type nat hook postrouting priority srcnat; oifname "{outer}" masquerade; }}
}}
"""


@dataclass(frozen=True)
class Host:
    """A network namespace and its address.

    Attributes:
        gateway: by which it reaches the others; empty where they are in its own network.
    """

    name: str
    address: str
    link: str
    gateway: str = ""

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


def nats() -> tuple[dict[str, Nat], str]:
    """The ways of having a router with NAT between the hosts here, by program; and why there is no other."""
    reasons = {name: _why_no_nat(name) for name in _NATS}
    there = {name: way for name, way in _NATS.items() if not reasons[name]}
    return there, "; ".join(reason for reason in reasons.values() if reason)


def _why_no_nat(program: str) -> str:
    if shutil.which(program) is None:
        return f"the program {program} is not installed"
    if program != "nft":
        return "" if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun"
    probe = f"ejprobe{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        command = ["ip", "netns", "exec", probe, "nft", "-f", "-"]
        made = subprocess.run(
            command, input=_MASQUERADE.format(outer="lo"), capture_output=True, text=True, check=False
        )
        return "" if made.returncode == 0 else "the kernel knows no NAT by nft"
    finally:
        subprocess.run(["ip", "netns", "del", probe], check=False, capture_output=True)


@contextlib.contextmanager
def behind_nat() -> Iterator[tuple[Host, Host]]:
    """The lab's host, and a board behind a router that hides its address: the lab has no way to it but answering."""
    mark = f"{os.getpid() % 100000}"
    lab, board = Host(f"ejlab{mark}", LAB, f"ejl{mark}"), Host(f"ejdesk{mark}", HIDDEN, f"ejd{mark}", GATEWAY)
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
def behind_user_nat() -> Iterator[tuple[Host, Host]]:
    """The same with a router that is a program, slirp4netns: it ends each connection of the board, and makes one of its
    own to the lab. The kernel need know no NAT."""
    mark = f"{os.getpid() % 100000}"
    lab, board = Host(f"ejlab{mark}", LAB, f"ejl{mark}"), Host(f"ejdesk{mark}", SLIRPED, "tap0", SLIRP)
    router, outer = f"ejnat{mark}", f"ejo{mark}"
    names, running = (lab.name, router, board.name), list[subprocess.Popen[bytes]]()
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", lab.link, "type", "veth", "peer", "name", outer)
        for name, device, address in ((lab.name, lab.link, LAB), (router, outer, DESK)):
            _ip("link", "set", device, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        ready, told = os.pipe()
        command = ["ip", "netns", "exec", router, "slirp4netns", "--configure", "--disable-host-loopback",
                   f"--ready-fd={told}", "--netns-type=path", f"/var/run/netns/{board.name}", board.link]  # fmt: skip
        running.append(subprocess.Popen(command, pass_fds=[told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        os.close(told)
        with os.fdopen(ready, "rb") as file:
            assert file.read(1), "slirp4netns ended"
        yield lab, board
    finally:
        for process in running:
            process.kill()
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


Nat = Callable[[], contextlib.AbstractContextManager[tuple[Host, Host]]]
_NATS: dict[str, Nat] = {"nft": behind_nat, "slirp4netns": behind_user_nat}


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
    if not off and host.gateway:
        # It went with the link.
        _ip("-n", host.name, "route", "replace", "default", "via", host.gateway)


def slow(host: Host, rate: str) -> None:
    """Hold a host's sending at a rate such as `1mbit`."""
    tc = ["tc", "-n", host.name, "qdisc", "replace", "dev", host.link, "root", "tbf", "rate", rate]
    subprocess.run([*tc, "burst", "16kb", "latency", "400ms"], check=True, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
