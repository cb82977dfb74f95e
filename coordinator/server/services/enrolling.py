"""The services with which devices become part of a fleet, and stay in it.

Enrolment has a port and a server of its own, without TLS (see protos/v1/identity.proto) and with small limits: requests
of a few kilobytes, few at a time, a number of tries a minute for each address and for all. A token's proof is checked
before anything else of a request is looked at.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.run.workers import Worker
from coordinator.server.gate import Peer, current_peer
from coordinator.server.services.answering import answered
from coordinator.trust.authority import DEVICE_DAYS, OPERATOR_DAYS, Authority, peer_of
from coordinator.trust.register import Register
from protos.errors import RefusedError, UsageError
from protos.trust.names import Role
from protos.trust.proofs import request_mac, response_mac, same
from protos.v1 import identity_pb2 as pb
from protos.v1 import identity_pb2_grpc as rpc

log = logging.getLogger("edgejoule.coordinator")

__all__ = ["READMIT_RULE", "EnrolmentService", "IdentityService", "RateLimit", "enrolment_server"]

READMIT_RULE = "readmit_days"
"""Days past its end within which a certificate is renewed by its old key."""
_MAX_MESSAGE_BYTES = 32 << 10
_MAX_CALLS = 16
_MOST_RENEWED = 65_536
_FROM_ONE, _FROM_ALL, _WINDOW_S = 10, 300, 60.0


class RateLimit:
    """At most so many tries in any window, of one address and of all.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._by_peer: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def take(self, peer: str) -> None:
        """Count a try.

        Raises:
            RefusedError: too many.
        """
        now = self._clock()
        if len(self._by_peer) > 4096:
            self._by_peer = {
                # An address that was held off by the limit of all has no try of its own.
                name: times
                for name, times in self._by_peer.items()
                if times and times[-1] > now - _WINDOW_S
            }
        mine = self._by_peer.setdefault(peer, deque())
        for times in (mine, self._all):
            while times and times[0] <= now - _WINDOW_S:
                times.popleft()
        if len(mine) >= _FROM_ONE or len(self._all) >= _FROM_ALL:
            raise RefusedError("too many enrolments are tried", fix="wait a minute, then try again")
        mine.append(now)
        self._all.append(now)


class EnrolmentService(rpc.EnrolmentServiceServicer):
    """Enrolment, for who holds a token or an old key.

    Args:
        above_root_pem: of a site: the root of the fleet above it, which boards are to know; empty: it is no site.
    """

    def __init__(self, authority: Authority, register: Register, worker: Worker, above_root_pem: bytes = b"") -> None:
        self._authority, self._register, self._worker = authority, register, worker
        self._above = above_root_pem
        self._limit = RateLimit()
        # Requests that were answered since the start, those of long ago first.
        self._readmitted: dict[bytes, None] = {}

    @answered
    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:  # noqa: N802
        """Checks the proof, issues the certificate, and proves itself in turn."""
        peer = _address(context)
        self._limit.take(peer)
        return await self._worker.do(self._enroll, request, peer)

    @answered
    async def Readmit(self, request: pb.ReadmitRequest, context: Any) -> pb.ReadmitResponse:  # noqa: N802
        """Renews a certificate that has expired, by the operator's rule."""
        peer = _address(context)
        self._limit.take(peer)
        return pb.ReadmitResponse(chain_pem=await self._worker.do(self._readmit, request, peer))

    def _enroll(self, request: pb.EnrollRequest, peer: str) -> pb.EnrollResponse:
        token = self._register.open_token(request.token_id[:64])
        if token is None:
            raise RefusedError(
                "this token is not open: it was used, or has ended, or was never made here",
                fix="make another with `coordinator enroll`",
            )
        machine = request.machine[:128]
        proof = request_mac(token.secret, request.token_id, request.machine, request.certificate_request)
        if not same(proof, request.mac):
            self._register.wrong_proof(request.token_id, where=peer)
            raise RefusedError("the proof of the token's secret is wrong", fix="copy the whole line again")
        if token.machine and token.machine != machine:
            self._register.wrong_proof(request.token_id, where=peer)
            raise RefusedError(
                f"this token is for the machine {token.machine}, and this is {machine or 'unnamed'}",
                fix="use the token that was made for this board",
            )
        days = DEVICE_DAYS if token.role is Role.DEVICE else OPERATOR_DAYS
        issued = self._authority.device(token.device_id, request.certificate_request, days=days, role=token.role)
        self._register.use_token(request.token_id, issued, machine, where=peer)
        now = time.time()
        root = self._authority.root_pem
        above = self._above if token.role is Role.DEVICE else b""
        return pb.EnrollResponse(
            device_id=token.device_id,
            chain_pem=issued.chain_pem,
            root_pem=root,
            unix_s=now,
            mac=response_mac(token.secret, request.mac, token.device_id, issued.chain_pem, root, now, above),
            above_root_pem=above,
        )

    def _readmit(self, request: pb.ReadmitRequest, peer: str) -> bytes:
        certificate = self._authority.issued_by_us(request.old_chain_pem)
        whose = peer_of(certificate) if certificate is not None else None
        if certificate is None or whose is None or whose.role is not Role.DEVICE:
            raise RefusedError("this is no device's certificate of this fleet", fix="enrol the board again")
        key = certificate.public_key()
        try:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise InvalidSignature
            key.verify(request.signature, request.certificate_request, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise RefusedError(
                "the old key did not sign this", where=str(whose), fix="enrol the board again"
            ) from error
        # It came in the clear. Who sends it again, without any key, would use up what its board may ask for in an hour.
        digest = hashlib.sha256(request.certificate_request).digest()
        if digest in self._readmitted:
            raise RefusedError("this request was answered before", where=str(whose), fix="ask again with a new key")
        serial = f"{certificate.serial_number:x}"
        if serial in self._register.revoked():
            raise RefusedError("its certificate was revoked", where=str(whose), fix="enrol the board again")
        days = float(self._register.rule(READMIT_RULE, "0"))
        away_days = (time.time() - certificate.not_valid_after_utc.timestamp()) / 86400
        if away_days > days:
            raise RefusedError(
                f"its certificate ended {away_days:.1f} days ago, and {days:g} are allowed",
                where=str(whose),
                fix="enrol it again, or allow more with `coordinator identities --readmit-days N`",
            )
        issued = self._authority.device(whose.name, request.certificate_request)
        self._register.issued(issued, who=f"{whose} at {peer}", what="certificate renewed after its end", by=serial)
        self._readmitted[digest] = None
        if len(self._readmitted) > _MOST_RENEWED:
            del self._readmitted[next(iter(self._readmitted))]
        return issued.chain_pem


class IdentityService(rpc.IdentityServiceServicer):
    """Renewal, over TLS and by the device's own certificate."""

    def __init__(self, authority: Authority, register: Register, worker: Worker) -> None:
        self._authority, self._register, self._worker = authority, register, worker
        # Serial numbers by which somebody renewed since the start, those of long ago first.
        self._renewed: dict[str, None] = {}

    @answered
    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:  # noqa: N802
        """A new certificate for a new key of the caller."""
        peer = current_peer.get()
        if peer is None:
            raise UsageError("a certificate is renewed over TLS only", where="Renew")
        return pb.RenewResponse(chain_pem=await self._worker.do(self._renew, request.certificate_request, peer))

    def _renew(self, request: bytes, peer: Peer) -> bytes:
        issued = self._authority.device(peer.name.name, request)
        again = peer.serial in self._renewed
        what = "certificate renewed again by the same one" if again else "certificate renewed"
        self._register.issued(issued, who=str(peer.name), what=what, by=peer.serial)
        if again:
            log.warning(
                "%s renewed again with the certificate that it renewed before: its answer was lost, or two machines "
                "have one key; if it has a twin, revoke it and enrol both",
                peer.name,
            )
        self._renewed[peer.serial] = None
        if len(self._renewed) > _MOST_RENEWED:
            del self._renewed[next(iter(self._renewed))]
        return issued.chain_pem


def enrolment_server(service: EnrolmentService, limits: Sequence[tuple[str, int]] = ()) -> grpc.aio.Server:
    """A server for enrolment alone; not started, and without a port yet.

    Args:
        limits: options of its listener, on its connections.
    """
    options = [
        *limits,
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 4 << 10),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 4),
        ("grpc.max_connection_age_ms", 30_000),
        ("grpc.max_connection_idle_ms", 10_000),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
    rpc.add_EnrolmentServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    return server


def _address(context: Any) -> str:
    """The caller's address without its port, such as `ipv4:192.0.2.7`."""
    return str(context.peer()).rpartition(":")[0] or "unknown"
