"""Connections that never shake hands, on real sockets: files and memory are bounded, and boards are served."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.server.listening import _KEPT_FILES, ENROLMENTS, HANDSHAKE_S
from edge_runtime.identity.identity import read_identity
from protos.trust.names import SERVER_NAME

pytestmark = pytest.mark.processes
# As little as a shell gives where somebody has set it low.
FILES = 500


def hello() -> bytes:
    """The first message of an honest handshake, for which the other end does all of its arithmetic."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@contextmanager
def half_open(address: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have said nothing, a part of a hello, or all of it."""
    host, _, port = address.rpartition(":")
    whole = hello()
    firsts = (b"", whole[:1], whole[: len(whole) // 2], whole)
    opened: list[socket.socket] = []
    try:
        for number in range(count):
            sock = socket.socket()
            opened.append(sock)
            sock.settimeout(20)
            try:
                sock.connect((host, int(port)))
                sock.sendall(firsts[number % len(firsts)])
            except OSError:
                # Past the limit: closed at once.
                continue
            sock.setblocking(False)
        yield opened
    finally:
        for sock in opened:
            sock.close()


def still_open(socks: list[socket.socket]) -> int:
    """How many the other end has not closed."""
    left = 0
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        readable = {key.fd for key, _ in selector.select(0)}
    for sock in socks:
        if sock.fileno() not in readable:
            left += 1
            continue
        with suppress(OSError):
            left += bool(sock.recv(1 << 16, socket.MSG_PEEK))
    return left


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# The server's own limit of files, set as a shell would.
LIMITED = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES})); \
sys.argv[0] = 'coordinator'; runpy.run_module('coordinator.cli', run_name='__main__')"


def flooded(
    start_lab: Any, enrolled: Callable[[Any, str], Path], tools: Any, count: int, program: tuple[str, ...]
) -> tuple[Any, float]:
    """A served coordinator with a live board, and so many half-open ones; the lab, and what memory they took, MB."""
    lab = start_lab("flood", "127.0.0.1", program)
    identity = read_identity(enrolled(lab, "pi-1"))
    assert identity is not None
    secure = grpc.ssl_channel_credentials(
        identity.root_pem.encode(), identity.key_pem.encode(), identity.chain_pem.encode()
    )
    named = [("grpc.ssl_target_name_override", SERVER_NAME)]
    with closing(tools.device(lab.address, "pi-1", grpc.secure_channel(lab.address, secure, named))) as device:
        device.join()
        before_mb, files = resident_mb(lab.process.pid), files_of(lab.process.pid)
        with half_open(lab.address, count) as socks, half_open(f"127.0.0.1:{lab.enroll_port}", count // 4):
            for _ in range(20):
                # Who is there is served, and what is said of it goes to disk.
                assert device.join().protocol_major
                device.ask(waits_s=0.01)
            took_mb = resident_mb(lab.process.pid) - before_mb
            if program:
                # Those past the limit are turned away, and files for the coordinator's own work are left.
                most = FILES - _KEPT_FILES - ENROLMENTS
                end_s = time.monotonic() + 90
                while still_open(socks) > most:
                    device.ask(waits_s=0.01)
                    assert time.monotonic() < end_s, f"{still_open(socks)} are kept, {most} may be"
                    time.sleep(0.2)
                assert files_of(lab.process.pid) <= files + most + count // 4 + 16
            else:
                assert files_of(lab.process.pid) <= files + count + ENROLMENTS + 64
            if count > 1000:
                end_s = time.monotonic() + 10 * HANDSHAKE_S
                while still_open(socks):
                    device.ask(waits_s=0.01)
                    assert time.monotonic() < end_s, f"{still_open(socks)} half-open ones are kept"
                    time.sleep(0.5)
                # Room again for who comes anew.
                assert enrolled(lab, "pi-2").is_dir()
                assert files_of(lab.process.pid) <= files + 32
    return lab, took_mb


@pytest.fixture
def enrolled(tmp_path: Path) -> Callable[[Any, str], Path]:
    def enrol(lab: Any, name: str) -> Path:
        done = lab.edge("enroll", lab.token(name), "--state", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return enrol


def test_hundreds_that_never_shake_hands_take_no_file_that_the_coordinator_needs(
    start_lab: Any, enrolled: Any, tools: Any
) -> None:
    lab, took_mb = flooded(start_lab, enrolled, tools, 280, (sys.executable, "-c", LIMITED))
    assert took_mb < 64
    assert lab.operate("status").returncode == 0
    lab.process.terminate()
    said = lab.process.communicate(timeout=60)[0]
    assert "Too many open files" not in said
    assert "Traceback" not in said


def test_who_hangs_up_in_a_thousand_handshakes_does_not_end_the_coordinator(start_lab: Any) -> None:
    """A segmentation fault of gRPC, where it is given a configuration anew at each handshake."""
    lab = start_lab()
    # A process may have 1024 files where nobody has raised that.
    for _ in range(3):
        with half_open(lab.address, 500) as socks:
            assert len(socks) == 500
    assert lab.operate("status").returncode == 0
    assert lab.process.poll() is None
