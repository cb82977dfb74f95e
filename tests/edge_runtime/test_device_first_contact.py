"""What a daemon does about a coordinator that it has not met yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from edge_runtime.config import Settings
from edge_runtime.daemon import process as daemon
from protos.errors import EdgejouleError, RefusedError, UnreachableError, UpdateError
from protos.model.bundle import Bundle

Make = Callable[..., Settings]
Start = Callable[..., RunningDaemon]


def test_a_coordinator_that_was_never_there_is_said(settings: Make) -> None:
    with pytest.raises(UnreachableError) as caught:
        daemon.run(settings(coordinator="127.0.0.1:9", wait_for_coordinator_s=0.3))
    assert "127.0.0.1:9" in str(caught.value)
    assert "coordinator serve" in str(caught.value)


def test_a_coordinator_of_another_protocol_is_refused(peer: PeerCoordinator, started: Start) -> None:
    peer.protocol = (2, 0)
    with pytest.raises(RefusedError, match=r"protocol 2\.0"):
        started(peer, wait_for_coordinator_s=0.3).end()


def test_a_newer_coordinator_is_waited_for_until_it_is_one_that_is_understood(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.protocol = (2, 0)
    running = started(peer, max_rounds=1)
    peer.until(lambda: len(peer.joins) >= 2)
    peer.protocol = (1, 0)
    peer.orders.append(order(bundle))
    running.end()
    assert peer.read().steps_done == 12


@pytest.mark.parametrize("address", ["192.168.1.5:50461", "example.org:50461", "[2001:db8::1]:50461", "0.0.0.0:50461"])
def test_an_address_that_is_not_loopback_is_refused_for_want_of_certificates(settings: Make, address: str) -> None:
    with pytest.raises(RefusedError, match="certificates"):
        daemon.run(settings(coordinator=address))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":5", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_is_said(settings: Make, address: str) -> None:
    with pytest.raises(EdgejouleError, match="HOST:PORT"):
        daemon.run(settings(coordinator=address))


@pytest.mark.parametrize("check_in_s", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_coordinator_that_sets_a_pace_without_sense_is_not_joined(
    peer: PeerCoordinator, started: Start, check_in_s: float
) -> None:
    peer.check_in_s = check_in_s
    with pytest.raises(UpdateError, match="check_in_s"):
        started(peer, wait_for_coordinator_s=0.3).end()
