"""What somebody tries who holds a token, a stolen board, an old connection or the files: real gRPC, TLS and SQLite."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509

from coordinator.operator.client import Operator
from coordinator.operator.credentials import Contexts, read_credentials
from coordinator.run.workers import Worker
from coordinator.server.gate import Gate, Peer
from coordinator.server.listening import open_trust
from coordinator.server.services.enrolling import IdentityService
from coordinator.trust import register as registers
from coordinator.trust import signing
from coordinator.trust.audit import AuditLog
from coordinator.trust.authority import FOLDER, Authority, peer_of
from coordinator.trust.register import Register
from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.enrolment import enroll, renew
from edge_runtime.identity.identity import Identity, read_identity, write_identity
from edge_runtime.identity.signatures import Signatures
from protos.convert.cards import card_to
from protos.errors import ConfigError, EdgejouleError, RefusedError
from protos.orders import PROTOCOL, DeviceCard, Engine, MeterCard
from protos.trust.names import SERVER_NAME, PeerName, Role
from protos.trust.token import read_token
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc
from protos.v1 import identity_pb2 as idpb
from protos.v1 import identity_pb2_grpc as idrpc

pytestmark = pytest.mark.processes


def card(name: str) -> DeviceCard:
    return DeviceCard(name, "s1", "0.1.0", "test", Engine("test", "1", ""), MeterCard("unknown", "none"), 8, 0, None)


def identity(state: Path) -> Identity:
    found = read_identity(state)
    assert found is not None
    return found


@contextmanager
def channel(address: str, root: str, key: str, chain: str) -> Iterator[grpc.Channel]:
    secure = grpc.ssl_channel_credentials(root.encode(), key.encode(), chain.encode())
    with grpc.secure_channel(address, secure, [("grpc.ssl_target_name_override", SERVER_NAME)]) as opened:
        yield opened


def test_one_token_used_by_six_at_the_same_instant_makes_one_certificate(lab: Any, tmp_path: Path) -> None:
    token = read_token(lab.token("pi-1"))
    together = threading.Barrier(6)

    def attempt(number: int) -> str:
        together.wait(30)
        try:
            return enroll(token, tmp_path / str(number), machine="m").identity.device_id
        except RefusedError as error:
            return error.what

    with ThreadPoolExecutor(6) as pool:
        said = sorted(pool.map(attempt, range(6)))
    assert said.count("pi-1") == 1, said
    assert sum("not open" in one or "used already" in one for one in said) == 5, said
    with closing(Register(lab.state / FOLDER)) as register:
        assert len(register.certificates(PeerName(Role.DEVICE, "pi-1"))) == 1


def test_a_certificate_is_good_for_its_own_role_alone(lab: Any, board: Any) -> None:
    operator = read_credentials(lab.state / FOLDER / "admin.json")
    with channel(lab.address, operator.root_pem, operator.key_pem, operator.chain_pem) as opened:
        with pytest.raises(grpc.RpcError) as failure:
            rpc.DeviceServiceStub(opened).Join(card_to(card("admin"), PROTOCOL), timeout=10)
        assert "Join is for the role device" in failure.value.details()
        with pytest.raises(grpc.RpcError) as failure:
            idrpc.IdentityServiceStub(opened).Renew(idpb.RenewRequest(), timeout=10)
        assert "Renew is for the role device" in failure.value.details()
        # A megabyte of metadata is too much, and harms nobody else on the connection.
        with pytest.raises(grpc.RpcError):
            rpc.OperatorServiceStub(opened).GetStatus(
                pb.GetStatusRequest(), timeout=10, metadata=[("x-huge", "a" * (1 << 20))]
            )
    with Operator(lab.address, operator) as again:
        assert again.devices() == []
    # A stolen board that plays the coordinator to others, also one whose name is that of a coordinator.
    other = board("pi-2")
    for name in ("pi-1", SERVER_NAME):
        stolen = identity(board(name))
        server = grpc.server(ThreadPoolExecutor(2))
        pair = (stolen.key_pem.encode(), stolen.chain_pem.encode())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        server.start()
        try:
            with closing(Link(f"127.0.0.1:{port}", Stopping(), state=other)) as link, pytest.raises(Away):
                link.join(card("pi-2"))
        finally:
            server.stop(0).wait()
    with closing(Link(lab.address, Stopping(), state=other)) as link:
        assert link.join(card("pi-2")).protocol


def test_who_renews_without_end_fills_no_register(lab: Any, board: Any) -> None:
    state, other = board("pi-1"), board("pi-2")
    before = identity(state)
    for _ in range(registers.RENEWALS - 1):
        renew(before, state, lab.address)
    with pytest.raises(RefusedError, match="has had 12 certificates within an hour"):
        renew(before, state, lab.address)
    with closing(Register(lab.state / FOLDER)) as register:
        assert len(register.certificates(PeerName(Role.DEVICE, "pi-1"))) == registers.RENEWALS
    renew(identity(other), other, lab.address)


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    authority = Authority.create(tmp_path / FOLDER)
    authority.server(["127.0.0.1"])
    return authority


def device(authority: Authority, name: str) -> tuple[str, str, bytes]:
    """Key, chain and a request of a device; its certificate is in the register."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = made.public_bytes(serialization.Encoding.DER)
    issued = authority.device(name, request)
    with closing(Register(authority.folder)) as register:
        register.issued(issued, who="test", what="certificate issued")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode(), issued.chain_pem.decode(), request


def test_no_certificate_is_renewed_past_its_own_revocation(trusted: Authority) -> None:
    _, chain, request = device(trusted, "pi-1")
    certificate = x509.load_pem_x509_certificate(chain.encode())
    name = peer_of(certificate)
    assert name is not None
    peer = Peer(name, f"{certificate.serial_number:x}", certificate.not_valid_after_utc.timestamp())
    worker = Worker("trust")
    with closing(Register(trusted.folder)) as register:
        # The gate looks twice a second; a call that passed it just before is at work here.
        service = IdentityService(trusted, register, worker)
        service._renew(request, peer)
        register.revoke("pi-1")
        with pytest.raises(RefusedError, match="was revoked"):
            service._renew(request, peer)
        assert register.valid(name) == []
    worker.close()


def test_a_certificate_that_ends_is_out_also_on_a_connection_of_before(trusted: Authority, tmp_path: Path) -> None:
    key, chain, request = device(trusted, "pi-1")
    ends = x509.load_pem_x509_certificate(chain.encode()).not_valid_after_utc.timestamp()
    now = [ends - 5 * 86400]

    async def main() -> list[str]:
        trust = open_trust(tmp_path)
        trust.gate = Gate(trust.register, clock=lambda: now[0])
        server = grpc.aio.server(interceptors=(trust.gate,))
        trust.serve_identities(server)
        port = server.add_secure_port("127.0.0.1:0", trust.credentials())
        await server.start()

        def calls() -> list[str]:
            said = []
            root = trusted.root_pem.decode()
            with channel(f"127.0.0.1:{port}", root, key, chain) as opened:
                stub = idrpc.IdentityServiceStub(opened)
                # A clock that is 25 days ahead is within the 30; then it has ended, on the same connection.
                for at in (now[0], ends + 1):
                    now[0] = at
                    try:
                        said.append(str(bool(stub.Renew(idpb.RenewRequest(certificate_request=request), timeout=20))))
                    except grpc.RpcError as error:
                        said.append(str(error.details()))
            return said

        try:
            return await asyncio.to_thread(calls)
        finally:
            await server.stop(0)
            await trust.close()

    good, ended = asyncio.run(main())
    assert good == "True"
    assert "its certificate has ended" in ended


def test_a_certificate_that_ends_ends_what_is_being_told_without_an_end(trusted: Authority) -> None:
    _, chain, _ = device(trusted, "pi-1")
    certificate = x509.load_pem_x509_certificate(chain.encode())
    now, closed = [certificate.not_valid_after_utc.timestamp() - 3], []

    async def endless(request: object, context: object) -> AsyncIterator[int]:
        try:
            while True:
                now[0] += 1
                yield 1
        finally:
            closed.append(True)

    class Context:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {"x509_pem_cert": [chain.encode()]}

        async def abort(self, code: object, details: str = "", trailing: object = ()) -> None:
            raise ConnectionAbortedError(details)

    async def handled(details: object) -> object:
        return grpc.unary_stream_rpc_method_handler(endless)

    told = []

    async def main() -> None:
        with closing(Register(trusted.folder)) as register:
            gate = Gate(register, clock=lambda: now[0])
            details = SimpleNamespace(method="/edgejoule.v1.DeviceService/FetchBundle")
            handler = await gate.intercept_service(handled, details)
            async for part in handler.unary_stream(SimpleNamespace(), Context()):
                told.append(part)
                assert len(told) < 9

    with pytest.raises(ConnectionAbortedError, match="its certificate has ended"):
        asyncio.run(main())
    assert (told, closed) == ([1, 1], [True])


def test_what_a_power_cut_left_of_a_line_is_said_and_spoils_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for number in range(3):
        log.write("local", "note", number=number)
    whole = log.path.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 30, whole.rindex(b"\n", 0, -1) + 2):
        log.path.write_bytes(whole[:kept])
        log.write("local", "note", number=4)
        assert log.verify().lines == 4
        assert [line["what"] for line in log.lines()] == ["note", "note", "line cut short", "note"]
    # Longer than what is looked at first, and with nothing before it.
    log.path.write_bytes(b'{"cut": "' + b"x" * 50_000)
    log.write("local", "note")
    assert [(line["what"], line.get("bytes")) for line in log.lines()] == [("line cut short", 50_009), ("note", None)]
    assert log.verify().lines == 2


def test_credentials_that_others_can_read_are_not_used(trusted: Authority, tmp_path: Path) -> None:
    from coordinator.operator.credentials import Credentials

    contexts = Contexts(tmp_path / "contexts")
    contexts.add("lab", Credentials("operator", "ada", ("127.0.0.1:1",), "key", "chain", "root"))
    assert contexts.read("lab").name == "ada"
    path = contexts.folder / "lab.json"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"can be read by others \(mode 644\)"):
        contexts.read("lab")
    path.chmod(0o600)
    assert contexts.read("lab").name == "ada"


def test_a_policy_that_has_ended_lets_nothing_in(trusted: Authority, tmp_path: Path) -> None:
    key = trusted.folder / signing.KEY_FILE
    signing.write_signers(trusted.folder, [signing.make_key(key)], 1, days=1.0)
    wheel = tmp_path / "edgejoule-0.2.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    signing.sign(trusted.folder, wheel, [key], line="edgejoule", days=90)
    state = tmp_path / "device"
    write_identity(state, Identity("pi-1", ("127.0.0.1:1",), 2, "", "", trusted.root_pem.decode(), 0.0, 1.0))
    what, digest, size = signing.content_of(wheel)
    with pytest.raises(EdgejouleError, match="the say of its signers has ended"):
        Signatures(state, lambda: time.time() + 2 * 86400).check(wheel, what, digest, size)
    Signatures(state).check(wheel, what, digest, size)
