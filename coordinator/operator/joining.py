"""A person who becomes one of a fleet from elsewhere: a key is made here, a token is traded for its certificate.

The same exchange as a board's (protos/v1/identity.proto): the token's secret never travels, both ends prove that they
know it, and the root that comes back must have the token's fingerprint.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.operator.credentials import Credentials
from coordinator.operator.failures import error_of
from coordinator.trust.authority import peer_of
from protos.errors import IntegrityError, UnreachableError
from protos.trust.names import Role
from protos.trust.proofs import request_mac, response_mac, same
from protos.trust.token import EnrolmentToken, token_id
from protos.v1 import identity_pb2 as pb
from protos.v1 import identity_pb2_grpc as rpc

__all__ = ["join"]

_CALL_S = 15.0
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 10)]


def join(token: EnrolmentToken) -> Credentials:
    """Trade a token of `coordinator operators invite` for credentials.

    Raises:
        UnreachableError: no address of the token answers. RefusedError: the token is not open.
        IntegrityError: the answer does not come from who made the token, or is for a board.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, token.device_id)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request, identity = made.public_bytes(serialization.Encoding.DER), token_id(token.secret)
    mac = request_mac(token.secret, identity, "", request)
    message = pb.EnrollRequest(token_id=identity, machine="", certificate_request=request, mac=mac)
    answer, address = _asked(token, message)
    proof = response_mac(token.secret, mac, answer.device_id, answer.chain_pem, answer.root_pem, answer.unix_s)
    false = IntegrityError(
        "what answered did not make this token", where=f"coordinator {address}", fix="ask for another token"
    )
    if not same(proof, answer.mac) or answer.device_id != token.device_id:
        raise false
    root = x509.load_pem_x509_certificate(answer.root_pem)
    if root.fingerprint(hashes.SHA256()) != token.fingerprint:
        raise false
    try:
        certificate, issuing = x509.load_pem_x509_certificates(answer.chain_pem)
        issuing.verify_directly_issued_by(root)
        certificate.verify_directly_issued_by(issuing)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise false from error
    peer = peer_of(certificate)
    if peer is None or certificate.public_key() != key.public_key():
        raise false
    if peer.role is Role.DEVICE:
        raise IntegrityError("is the token of a board", where=token.device_id, fix="use it with `edge-runtime enroll`")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(
        peer.role.value,
        peer.name,
        (address, *(text for text in token.addresses if text != address)),
        key.private_bytes(*form).decode(),
        answer.chain_pem.decode("ascii"),
        answer.root_pem.decode("ascii"),
    )


def _asked(token: EnrolmentToken, message: pb.EnrollRequest) -> tuple[pb.EnrollResponse, str]:
    """The answer of the first address that has one, and that address."""
    away: UnreachableError | None = None
    for address in token.addresses:
        where = f"{address.rpartition(':')[0]}:{token.enroll_port}"
        with grpc.insecure_channel(where, options=_OPTIONS) as channel:
            try:
                stub = rpc.EnrolmentServiceStub(channel)  # type: ignore[no-untyped-call]
                return stub.Enroll(message, timeout=_CALL_S), address
            except grpc.RpcError as failure:
                error = error_of(failure, where)
                if not isinstance(error, UnreachableError):
                    raise error from failure
                away = away or error
    assert away is not None
    raise away
