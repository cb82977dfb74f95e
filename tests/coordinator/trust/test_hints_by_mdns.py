"""mDNS says where a coordinator may be: a hint where no address of a token answers, and never who is there."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.server.announcing import Announcement
from edge_runtime.identity import enrolment, hints
from edge_runtime.identity.enrolment import enroll
from protos.errors import IntegrityError, UnreachableError
from protos.trust.hint import PORT, ROOT, SERVICE, tag_of
from protos.trust.token import EnrolmentToken, read_token

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(importlib.util.find_spec("zeroconf") is None, reason="the package zeroconf is not installed"),
]
LOOPBACK = ["127.0.0.1"]


@pytest.fixture
def said() -> Iterator[Any]:
    """`said(port, enroll_port, tag)`: somebody says so on the network."""
    zeroconf: Any = importlib.import_module("zeroconf")
    opened: list[Any] = []

    def announce(port: int, enroll_port: int, tag: str) -> None:
        info = zeroconf.ServiceInfo(
            SERVICE, f"somebody-{len(opened)}.{SERVICE}", addresses=[socket.inet_aton("127.0.0.1")], port=enroll_port,
            properties={ROOT: tag, PORT: str(port)},
        )  # fmt: skip
        opened.append(zeroconf.Zeroconf(interfaces=LOOPBACK))
        opened[-1].register_service(info)

    yield announce
    for one in opened:
        one.close()


def moved(token: EnrolmentToken) -> EnrolmentToken:
    """The token of a coordinator whose address is another by now."""
    return EnrolmentToken(token.device_id, ("127.0.0.1:1",), 2, token.fingerprint, token.secret)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hints.hinted
    monkeypatch.setattr(enrolment, "hinted", lambda fingerprint: heard(fingerprint, wait_s=5.0, interfaces=LOOPBACK))


def test_a_board_finds_a_coordinator_that_has_moved(start_lab: Any, loopback: None, tmp_path: Path) -> None:
    lab = start_lab("lab", "127.0.0.1", (), "--announce")
    token = read_token(lab.token("pi-1"))
    (tmp_path / "board").mkdir()
    done = enroll(moved(token), tmp_path / "board")
    assert (done.identity.addresses[0], done.identity.enroll_port) == (lab.address, lab.enroll_port)


def test_who_only_says_so_is_refused_and_learns_no_secret(
    lab: Any, start_lab: Any, said: Any, loopback: None, tmp_path: Path
) -> None:
    """Another coordinator says that it is of the fleet of the token."""
    token = read_token(lab.token("pi-1"))
    other = start_lab("other")
    said(int(other.address.rpartition(":")[2]), other.enroll_port, tag_of(token.fingerprint))
    (tmp_path / "board").mkdir()
    with pytest.raises((IntegrityError, PermissionError)):
        enroll(moved(token), tmp_path / "board")
    assert not (tmp_path / "board" / "identity").exists()


def test_other_fleets_and_nonsense_are_no_hints(said: Any, loopback: None, tmp_path: Path) -> None:
    fingerprint = bytes(range(32))
    said(50461, 50462, tag_of(bytes(32)))
    said(99999, 50462, tag_of(fingerprint))
    assert hints.hinted(fingerprint, wait_s=1.0, interfaces=LOOPBACK) == {}
    (tmp_path / "board").mkdir()
    with pytest.raises(UnreachableError):
        enroll(EnrolmentToken("pi-1", ("127.0.0.1:1",), 2, fingerprint, b"s" * 20), tmp_path / "board")


@pytest.mark.parametrize(("host", "addresses"), [("localhost", ["127.0.0.1"]), ("[::1]", []), ("no.such.invalid", [])])
def test_a_host_that_is_a_name_is_announced_by_its_address_and_one_without_ipv4_is_said(
    host: str, addresses: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fingerprint = bytes(range(32))

    async def announced() -> dict[str, int]:
        one = Announcement(host, 50461, 50462, fingerprint)
        await one.open()
        try:
            return await asyncio.to_thread(hints.hinted, fingerprint, wait_s=2.0, interfaces=LOOPBACK)
        finally:
            await one.close()

    with caplog.at_level(logging.WARNING, "edgejoule.coordinator"):
        assert asyncio.run(announced()) == {f"{address}:50461": 50462 for address in addresses}
    assert ("cannot be announced" in caplog.text) == (not addresses)
