"""Certificates on lines that are cut, and from coordinators that are killed: a key and its certificate always fit."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator.trust.audit import AuditLog
from coordinator.trust.authority import FOLDER
from coordinator.trust.register import Register
from edge_runtime.identity.enrolment import enroll, renew
from edge_runtime.identity.identity import Identity, read_identity
from protos.errors import EdgejouleError, RefusedError
from protos.trust.names import PeerName, Role
from protos.trust.token import read_token

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[3]


def fits(identity: Identity) -> bool:
    """Whether the key is that of the certificate."""
    key = serialization.load_pem_private_key(identity.key_pem.encode(), None)
    return key.public_key() == x509.load_pem_x509_certificate(identity.chain_pem.encode()).public_key()


def kept(state: Path) -> Identity:
    found = read_identity(state)
    assert found is not None
    assert fits(found)
    return found


@contextlib.contextmanager
def cut_after(target: str, down_bytes: int) -> Iterator[str]:
    """A line to a coordinator that is cut when so many bytes have come down it; its address here."""
    host, _, port = target.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        ended = threading.Event()
        threads: list[threading.Thread] = []

        def one(near: socket.socket) -> None:
            with near, socket.create_connection((host, int(port))) as far:
                near.settimeout(0.02)
                far.settimeout(0.02)
                left = down_bytes
                while left > 0 and not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        data = near.recv(1 << 16)
                        if not data:
                            return
                        far.sendall(data)
                    with contextlib.suppress(TimeoutError):
                        data = far.recv(1 << 16)
                        if not data:
                            return
                        near.sendall(data[:left])
                        left -= len(data)

        def quiet(near: socket.socket) -> None:
            with contextlib.suppress(OSError):
                one(near)

        def accept() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    near, _ = listener.accept()
                    threads.append(threading.Thread(target=quiet, args=(near,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            accepting.join()
            for thread in threads:
                thread.join()


def secrets_of(folder: Path) -> set[bytes]:
    """A line of the body of each private key below a folder: what a listing or a log would show of it."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes().replace(b"\\n", b"\n")
            for at, piece in enumerate(text.split(b"PRIVATE KEY-----")):
                if at % 2:
                    found.add(piece.strip(b"\n- ").split(b"\n")[0])
    return {line for line in found if len(line) > 32}


def shown(secrets: set[bytes]) -> list[str]:
    """Processes in whose arguments or environment one of them stands."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                text = (process / name).read_bytes().replace(b"\\n", b"\n")
                if any(secret in text for secret in secrets):
                    found.append(f"{process.name}: {name}")
    return found


def no_key_is_shown(lab: Any, state: Path) -> set[bytes]:
    """While a board renews: in no arguments, no environment; the secrets that there are."""
    secrets = secrets_of(lab.state) | secrets_of(state)
    # Of the root, the issuing certificate, the server, the signer, the operator and the board.
    assert len(secrets) >= 6
    seen: list[str] = []
    renewing = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.identity.renewal", str(state), lab.address],
        env=lab.environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while renewing.poll() is None:
        seen += shown(secrets)
        time.sleep(0.05)
    said = renewing.communicate()[0]
    assert renewing.returncode == 0, said
    secrets |= secrets_of(state)
    assert seen + shown(secrets) == []
    for place in (0, 1):
        # It would be seen.
        secret = next(iter(secrets)).decode()
        words = ["sleep", "60"] if place else ["sh", "-c", "sleep 60; true", secret]
        with subprocess.Popen(words, env={"KEY": secret} if place else None) as leaking:
            try:
                end_s = time.monotonic() + 60
                while not any(one.startswith(f"{leaking.pid}: ") for one in shown(secrets)):
                    assert time.monotonic() < end_s, "a key that is shown is not seen"
                    time.sleep(0.05)
            finally:
                leaking.kill()
    return secrets


def cut_anywhere(lab: Any, state: Path) -> None:
    """A renewal that is cut in the handshake, after it, and in the answer."""
    first = kept(state)
    # In the handshake, after it, and in the answer, whose certificate was then made for nobody.
    for down_bytes in (0, 400, 1200, 2400, 3200):
        before = kept(state)
        with cut_after(lab.address, down_bytes) as line, contextlib.suppress(EdgejouleError):
            renew(before, state, line)
        now = kept(state)
        assert now.ends_unix_s >= before.ends_unix_s
    last = renew(kept(state), state, lab.address)
    assert kept(state) == last
    assert last.key_pem != first.key_pem
    assert lab.run("audit", "verify", "--state", str(lab.state)).returncode == 0


def two_boards_with_one_key(lab: Any, state: Path, tmp_path: Path) -> str:
    """A copied card: the second renewal by one certificate is told; what the coordinator said."""
    old = kept(state)
    twin = tmp_path / "twin"
    twin.mkdir()
    one, other = renew(old, state, lab.address), renew(old, twin, lab.address)
    assert one.key_pem != other.key_pem
    lines = [
        line for line in AuditLog(lab.state / FOLDER).lines() if str(line["what"]).startswith("certificate renewed")
    ]
    first, second = lines[-2:]
    assert (first["what"], second["what"]) == ("certificate renewed", "certificate renewed again by the same one")
    assert first["by"] == second["by"]
    # The operator's way out: both are out, and one comes back with a new token.
    assert lab.run("revoke", "--state", str(lab.state), "pi-1").returncode == 0
    for identity, folder in ((one, state), (other, twin), (old, tmp_path)):
        with pytest.raises(RefusedError, match="was revoked"):
            renew(identity, folder, lab.address)
    lab.process.terminate()
    said = str(lab.process.communicate(timeout=60)[0])
    assert "two machines have one key" in said
    return said


def test_renewals_that_are_cut_or_doubled_leave_a_key_that_counts_and_no_key_is_shown(
    lab: Any, board: Callable[[str], Path], tmp_path: Path
) -> None:
    state = board("pi-1")
    secrets = no_key_is_shown(lab, state)
    cut_anywhere(lab, state)
    said = two_boards_with_one_key(lab, state, tmp_path) + (lab.state / FOLDER / "audit.jsonl").read_text()
    assert not [secret for secret in secrets | secrets_of(state) if secret.decode() in said]


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.02, 0.03, 0.05, 0.1])
def test_a_token_that_is_used_while_the_coordinator_is_killed_makes_one_certificate_or_none(
    after_s: float, start_lab: Any, tmp_path: Path
) -> None:
    lab = start_lab()
    token = read_token(lab.token("pi-1"))
    state = tmp_path / "board"
    said: list[str] = []

    def ask() -> None:
        try:
            enroll(token, state, machine="m")
        except EdgejouleError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(after_s)
    lab.process.send_signal(signal.SIGKILL)
    lab.process.communicate()
    thread.join()
    ready = tmp_path / "again.ready"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(lab.state), "--listen", lab.address,
               "--tls", "--ready-file", str(ready)]  # fmt: skip
    lab.process = subprocess.Popen(
        command, cwd=ROOT, env=lab.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end_s = time.monotonic() + 60
        while not ready.exists():
            assert lab.process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.02)
        with closing(Register(lab.state / FOLDER)) as register:
            made = register.certificates(PeerName(Role.DEVICE, "pi-1"))
            assert register.unlogged() == []
        if not said:
            assert fits(kept(state))
            assert len(made) == 1
        elif made:
            # Made, and its answer lost: the token is used up, and says so.
            with pytest.raises(RefusedError, match="this token is not open"):
                enroll(token, state, machine="m")
        else:
            assert fits(enroll(token, state, machine="m").identity)
        assert lab.run("audit", "verify", "--state", str(lab.state)).returncode == 0
    finally:
        lab.process.terminate()
        lab.process.communicate(timeout=60)
