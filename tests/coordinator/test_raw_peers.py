"""Peers that speak HTTP/2 by hand, slowly, or too much: the coordinator stays small, and devices go on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
Fleet = Callable[..., Any]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing, its strings without Huffman codes (RFC 7541, 6.2.2)."""

    def said(text: bytes) -> bytes:
        if len(text) < 127:
            return bytes([len(text)]) + text
        rest, made = len(text) - 127, bytearray([127])
        while rest >= 128:
            made.append(rest % 128 + 128)
            rest //= 128
        return bytes([*made, rest]) + text

    return b"\0" + said(name) + said(value)


def request(method: str, *more: bytes) -> bytes:
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"x"),
              (b"content-type", b"application/grpc"), (b"te", b"trailers"))  # fmt: skip
    return b"".join(literal(*field) for field in fields) + b"".join(more)


REPORT = "/edgejoule.v1.DeviceService/Report"


def unfinished() -> bytes:
    return PREFACE


def headers_without_end() -> bytes:
    parts = [PREFACE, frame(SETTINGS, 0, 0), frame(HEADERS, 0, 1, request(REPORT))]
    parts += [frame(CONTINUATION, 0, 1, literal(b"x-%d" % at, b"y" * 1000)) for at in range(400)]
    return b"".join(parts)


def huge_metadata() -> bytes:
    block = request(REPORT, literal(b"x", b"y" * 16_000))
    return PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, block)


def opened_and_reset() -> bytes:
    """Rapid reset (CVE-2023-44487)."""
    parts = [PREFACE, frame(SETTINGS, 0, 0)]
    for at in range(2000):
        stream = 2 * at + 1
        parts += [frame(HEADERS, 4, stream, request(REPORT)), frame(RST, 0, stream, struct.pack(">I", 8))]
    return b"".join(parts)


def pings() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"12345678") * 5000


def settings_flood() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 3000


def window_overflow() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 3


def a_message_that_never_ends() -> bytes:
    """A length prefix of 2 GiB, and then nothing of it."""
    started = frame(HEADERS, 4, 1, request(REPORT))
    return PREFACE + frame(SETTINGS, 0, 0) + started + frame(DATA, 0, 1, b"\0\x7f\xff\xff\xff" + b"x" * 1000)


def frames_on_no_stream() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 7, b"x" * 100) + frame(RST, 0, 9, b"\0\0\0\1")


def frame_of_another_length() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + b"\xff\xff\xff" + bytes([DATA, 0]) + struct.pack(">I", 1) + b"x" * 5000


ATTACKS = (
    unfinished, headers_without_end, huge_metadata, opened_and_reset, pings, settings_flood, window_overflow,
    a_message_that_never_ends, frames_on_no_stream, frame_of_another_length,
)  # fmt: skip


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def many(address: str, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that have said only this."""
    host, port = address.rsplit(":", 1)
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(OSError):
                opened[-1].sendall(first)
        yield opened
    finally:
        for sock in opened:
            sock.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.__name__)
def test_a_peer_that_breaks_the_rules_harms_only_itself(
    attack: Callable[[], bytes], address: str, fleet: Fleet
) -> None:
    device = fleet(address, "honest")
    device.join()
    before = resident_mb()
    with many(address, 8, attack()):
        for _ in range(5):
            device.ask()
    assert device.join()
    # Coordinator and test are one process: what eight of them can make it keep is bounded.
    assert resident_mb() - before < 64


def test_two_hundred_peers_that_say_one_byte_now_and_then_hold_up_nobody(
    address: str, fleet: Fleet, plain_bundle: Path, tools: Any, tmp_path: Path
) -> None:
    from coordinator.operator.client import Operator

    with many(address, 200, PREFACE[:3]) as slow, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "honest")
        device.join()
        order = device.order()
        for at, sock in enumerate(slow):
            with contextlib.suppress(OSError):
                sock.sendall(PREFACE[3 : 4 + at % 3])
        assert device.send(device.answer(order, 0.1)).verdict.value == "accepted"
        assert tools.finished(operator, run_id).state == "finished"


def test_a_report_that_trickles_in_does_not_hold_up_others(
    address: str, fleet: Fleet, plain_bundle: Path, tools: Any, tmp_path: Path
) -> None:
    """Uploads that were begun and never end wait for their ten minutes; the round does not wait for them."""
    from coordinator.operator.client import Operator
    from protos.v1 import edgejoule_pb2 as pb

    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=0.5, deadline_s=3), tmp_path)
        slow, honest = fleet(address, "slow"), fleet(address, "honest")
        slow.join()
        honest.join()
        order, mine = slow.order(), honest.order()

        def trickle() -> Iterator[Any]:
            header = pb.ReportHeader(run_id=run_id, round=order.round, device_id="slow", total_bytes=1000, sha256=b"x")
            yield pb.ReportRequest(header=header)
            while True:
                time.sleep(0.2)
                yield pb.ReportRequest(data=b"x")

        calls = [slow.stub.Report.future(trickle()) for _ in range(16)]
        try:
            assert honest.send(honest.answer(mine, 0.1)).verdict.value == "accepted"
            assert tools.finished(operator, run_id).state == "finished"
        finally:
            for call in calls:
                call.cancel()
