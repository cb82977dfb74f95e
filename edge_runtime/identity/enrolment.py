"""Becoming part of a fleet: a key is made here, a token is traded for its certificate.

The key never leaves this machine. The token's secret does not either: both ends prove that they know it
(:mod:`protos.trust.proofs`), and the root that comes back must have the token's fingerprint.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_runtime.identity.hints import hinted
from edge_runtime.identity.identity import Identity, write_identity
from edge_runtime.identity.signatures import forget_unless_same
from protos.errors import IntegrityError, RefusedError, UnreachableError
from protos.trust.names import SERVER_NAME, Role, peer_name
from protos.trust.proofs import request_mac, response_mac, same
from protos.trust.token import EnrolmentToken, token_id
from protos.v1 import identity_pb2 as pb
from protos.v1 import identity_pb2_grpc as rpc

__all__ = ["Enrolled", "above_root", "enroll", "machine_serial", "readmit", "renew"]

CALL_S = 15.0
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 10),
    # A connection of its own for each: the coordinator refuses a fifth question on one.
    ("grpc.use_local_subchannel_pool", 1),
]

R = TypeVar("R")


@dataclass(frozen=True)
class Enrolled:
    """What an enrolment gave.

    Attributes:
        clock_behind_s: the coordinator's clock less this one's, seconds.
    """

    identity: Identity
    path: Path
    clock_behind_s: float


def above_root(pem: bytes) -> str:
    """The root of the fleet above a site, from its file.

    Raises:
        IntegrityError: it is no certificate of a root.
    """
    try:
        root = x509.load_pem_x509_certificate(pem)
        root.verify_directly_issued_by(root)
        if not isinstance(root.public_key(), ec.EllipticCurvePublicKey):
            raise ValueError("another kind of key")
        return pem.decode("ascii")
    except Exception as error:
        raise IntegrityError(
            "is no root of a fleet", where="the root above", fix="give the root.pem of the coordinator above"
        ) from error


def machine_serial(root: Path = Path("/")) -> str:
    """What tells this board from others: its serial number, else a machine id; empty when it has neither."""
    for name in ("proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number", "etc/machine-id"):
        try:
            found = (root / name).read_text("ascii", "replace").strip("\0 \n")
        except OSError:
            continue
        if found:
            return found[:128]
    return ""


def enroll(token: EnrolmentToken, state: Path, *, machine: str | None = None) -> Enrolled:
    """Trade a token for an identity, and keep it in the state folder.

    Raises:
        UnreachableError: no address of the token answers.
        RefusedError: the token is not open, or is for another machine.
        IntegrityError: the answer does not come from who made the token.
        StoreError: the identity cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = _request(key, token.device_id)
    identity, machine = token_id(token.secret), machine_serial() if machine is None else machine
    mac = request_mac(token.secret, identity, machine, request)
    message = pb.EnrollRequest(token_id=identity, machine=machine, certificate_request=request, mac=mac)

    def ask(channel: grpc.Channel) -> Any:
        return rpc.EnrolmentServiceStub(channel).Enroll(message, timeout=CALL_S)  # type: ignore[no-untyped-call]

    port = token.enroll_port
    try:
        answer, address = _first_that_answers(token.addresses, port, ask)
    except UnreachableError as error:
        # Its network may have given it another address since. What the hint leads to must prove itself like any other.
        answer, address, port = _first_hinted(token, ask, error)
    above = bytes(answer.above_root_pem)
    proof = response_mac(token.secret, mac, answer.device_id, answer.chain_pem, answer.root_pem, answer.unix_s, above)
    false = IntegrityError(
        "what answered did not make this token",
        where=f"coordinator {address}",
        fix="check the address, then make another",
    )
    if not same(proof, answer.mac) or answer.device_id != token.device_id:
        raise false
    root = x509.load_pem_x509_certificate(answer.root_pem)
    if root.fingerprint(hashes.SHA256()) != token.fingerprint:
        raise false
    begins, ends = _checked(answer.chain_pem, root, key)
    found = Identity(
        token.device_id,
        # The address that answered first: who is asked next time.
        (address, *(text for text in token.addresses if text != address)),
        port,
        _pem(key),
        answer.chain_pem.decode("ascii"),
        answer.root_pem.decode("ascii"),
        begins,
        ends,
        above_root(above) if above else "",
    )
    # Another fleet, or a memory that nobody can read: what was signed before is that of another root.
    forget_unless_same(state, found.root_pem, found.above_root_pem)
    return Enrolled(found, write_identity(state, found), answer.unix_s - time.time())


def renew(identity: Identity, state: Path, address: str | None = None) -> Identity:
    """A new key and certificate, asked for with the present ones, and kept in the state folder.

    Raises:
        UnreachableError, RefusedError, IntegrityError, StoreError: it could not be had; the present ones stay.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = pb.RenewRequest(certificate_request=_request(key, identity.device_id))
    secure = grpc.ssl_channel_credentials(
        identity.root_pem.encode(), identity.key_pem.encode(), identity.chain_pem.encode()
    )
    where = address or identity.addresses[0]
    named = ("grpc.ssl_target_name_override", SERVER_NAME)
    with grpc.secure_channel(where, secure, options=[*_OPTIONS, named]) as channel:
        stub = rpc.IdentityServiceStub(channel)  # type: ignore[no-untyped-call]
        answer = _asked(lambda: stub.Renew(request, timeout=CALL_S), where)
    return _kept(identity, state, key, answer.chain_pem)


def readmit(identity: Identity, state: Path) -> Identity:
    """The same for a certificate that has ended: the old key signs the request.

    Raises:
        UnreachableError, RefusedError, IntegrityError, StoreError: it could not be had.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = _request(key, identity.device_id)
    old = serialization.load_pem_private_key(identity.key_pem.encode(), None)
    assert isinstance(old, ec.EllipticCurvePrivateKey)
    message = pb.ReadmitRequest(
        old_chain_pem=identity.chain_pem.encode(),
        certificate_request=request,
        signature=old.sign(request, ec.ECDSA(hashes.SHA256())),
    )

    def ask(channel: grpc.Channel) -> Any:
        return rpc.EnrolmentServiceStub(channel).Readmit(message, timeout=CALL_S)  # type: ignore[no-untyped-call]

    answer, _ = _first_that_answers(identity.addresses, identity.enroll_port, ask)
    return _kept(identity, state, key, answer.chain_pem)


def _kept(identity: Identity, state: Path, key: ec.EllipticCurvePrivateKey, chain_pem: bytes) -> Identity:
    root = x509.load_pem_x509_certificate(identity.root_pem.encode())
    begins, ends = _checked(chain_pem, root, key)
    found = identity.renewed(_pem(key), chain_pem.decode("ascii"), begins, ends)
    write_identity(state, found)
    return found


def _first_hinted(
    token: EnrolmentToken, ask: Callable[[grpc.Channel], R], silence: UnreachableError
) -> tuple[R, str, int]:
    """Ask where mDNS says that the token's coordinator is. Raises ``silence`` when nobody answers there either."""
    for address, port in hinted(token.fingerprint).items():
        with contextlib.suppress(UnreachableError):
            return (*_first_that_answers((address,), port, ask), port)
    raise silence


def _first_that_answers(addresses: tuple[str, ...], port: int, ask: Callable[[grpc.Channel], R]) -> tuple[R, str]:
    """Ask at one address after the other; what answered, and where."""
    away: UnreachableError | None = None
    for address in addresses:
        host = address.rpartition(":")[0]
        with grpc.insecure_channel(f"{host}:{port}", options=_OPTIONS) as channel:
            try:
                return _asked(lambda channel=channel: ask(channel), f"{host}:{port}"), address  # type: ignore[misc]
            except UnreachableError as error:
                away = away or error
    assert away is not None
    raise away


def _asked(call: Callable[[], R], where: str) -> R:
    try:
        return call()
    except grpc.RpcError as error:
        code = error.code()
        details = str(error.details() or "").strip()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise UnreachableError(
                "does not answer",
                where=f"coordinator {where}",
                fix="is it serving with --listen on an address that this board can reach, and is no firewall between?",
            ) from error
        raise RefusedError(f"refuses: {details or code.name}", where=f"coordinator {where}") from error


def _request(key: ec.EllipticCurvePrivateKey, device_id: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def _checked(chain_pem: bytes, root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[float, float]:
    """Begin and end of a chain's certificate, which must be for this key and lead to the root."""
    wrong = IntegrityError("the certificate that came is not for this board's key", fix="enrol it again")
    try:
        certificate, issuing = x509.load_pem_x509_certificates(chain_pem)
        issuing.verify_directly_issued_by(root)
        certificate.verify_directly_issued_by(issuing)
        # The runtime of gRPC reads it as well; better said here than in a handshake.
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes(serialization.Encoding.PEM).decode())
    except Exception as error:
        raise wrong from error
    if certificate.public_key() != key.public_key():
        raise wrong
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        roles = [peer_name(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    except x509.ExtensionNotFound:
        roles = []
    if not any(role is not None and role.role is Role.DEVICE for role in roles):
        raise IntegrityError("this token is a person's", fix="use it with `coordinator login` on that person's machine")
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
