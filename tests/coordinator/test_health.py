"""Standard probes of gRPC: is it serving, and which version."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.server.version import software_version
from coordinator.store.layouts import LAYOUT

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
# As they are on the wire: field 1, a number.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def named(service: str) -> bytes:
    """A request: field 1, a string; nothing for the empty one."""
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


def test_a_probe_learns_that_it_serves_and_which_version_and_layout(address: str) -> None:
    opened: Any = grpc.insecure_channel(address)
    with opened as channel:
        check = channel.unary_unary(CHECK)
        for service in ("", "edgejoule.v1.DeviceService", "edgejoule.v1.OperatorService"):
            answer, call = check.with_call(named(service), timeout=20)
            assert answer == SERVING
            told = dict(call.initial_metadata())
            assert (told["edgejoule-version"], told["edgejoule-layout"]) == (software_version(), str(LAYOUT))
        with pytest.raises(grpc.RpcError) as caught:
            check(named("no.such.Service"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_watches_is_told_when_it_stops(tools: Any, tmp_path: Path) -> None:
    seen: list[bytes] = []
    first = threading.Event()

    def watch(channel: Any) -> None:
        for one in channel.unary_stream(WATCH)(b"", timeout=60):
            seen.append(one)
            first.set()

    with tools.served(tmp_path / "state") as address:
        channel: Any = grpc.insecure_channel(address)
        watching = threading.Thread(target=watch, args=(channel,))
        watching.start()
        assert first.wait(20)
    watching.join(30)
    channel.close()
    assert seen == [SERVING, NOT_SERVING]
