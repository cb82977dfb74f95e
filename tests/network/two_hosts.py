"""Two hosts on one machine: network namespaces, joined by a veth pair, each with an address of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

LAB, DESK = "10.77.0.1", "10.77.0.2"


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


def slow(host: Host, rate: str) -> None:
    """Hold a host's sending at a rate such as `1mbit`."""
    tc = ["tc", "-n", host.name, "qdisc", "replace", "dev", host.link, "root", "tbf", "rate", rate]
    subprocess.run([*tc, "burst", "16kb", "latency", "400ms"], check=True, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
