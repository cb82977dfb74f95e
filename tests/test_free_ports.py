"""Ports for servers that start later stay free until then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import free_ports as ports
import pytest
from free_ports import free_port, free_ports

ASKS = "import sys; from free_ports import free_ports; print(*free_ports(3), flush=True); sys.stdin.read()"


def test_ports_are_neighbours_and_none_is_given_twice_or_to_another_process() -> None:
    mine = [free_ports(2) for _ in range(20)]
    assert all(second == first + 1 for first, second in mine)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    other = subprocess.Popen(
        [sys.executable, "-c", ASKS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    with other:
        theirs = [int(part) for part in other.stdout.readline().split()]
        assert not {*theirs} & {one for pair in mine for one in pair}
        # Nobody listens there, and yet they are not to be had as long as it lives.
        assert not any(map(ports._keep, theirs))
        other.stdin.close()
    assert all(map(ports._keep, theirs))


def test_one_that_is_listened_on_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports._keep(int(server.getsockname()[1]))


@pytest.mark.skipif(not Path("/proc/sys/net/ipv4/ip_local_port_range").exists(), reason="asks Linux for its ports")
def test_the_system_does_not_give_them_away_by_itself() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest <= 21_000:
        pytest.skip("the system gives away all of the ports here")
    assert free_port() < lowest
