"""Where the coordinator listens, and with which certificates.

Loopback needs none. Any other address is TLS on both sides: the coordinator shows the certificate that its authority
made, and takes calls only from who shows one of the same authority.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from coordinator.run.workers import Worker
from coordinator.server.gate import Gate
from coordinator.server.services.enrolling import EnrolmentService, IdentityService, enrolment_server
from coordinator.trust.authority import FOLDER, Authority
from coordinator.trust.register import Register
from protos.addresses import bare, host_and_port, is_loopback
from protos.errors import RefusedError, UsageError
from protos.trust.names import SERVER_NAME
from protos.v1 import identity_pb2_grpc as rpc

__all__ = ["DEFAULT_LISTEN", "Trust", "check_listen", "open_trust", "tls_version"]

log = logging.getLogger("edgejoule.coordinator")

DEFAULT_LISTEN = "127.0.0.1:50461"
_DAY_S = 86400.0


HANDSHAKE_S = 20.0
"""A connection that has not shaken hands by then is closed; a line of 400 ms that loses a third takes half of that."""
# What the database, bundles, logs and calls between threads need, and what enrolment may have.
_KEPT_FILES, ENROLMENTS = 256, 128
_MOST_CONNECTIONS = 32_768


def connection_limits() -> list[tuple[str, int]]:
    """Options of a listener, by which connections cannot take the files that a coordinator writes with.

    Who opens thousands and says nothing has them closed after :data:`HANDSHAKE_S`, and those past the limit at once.
    The limit of open files of this process is raised as far as it may be.
    """
    most = _MOST_CONNECTIONS
    try:
        import resource
    except ImportError:  # Windows counts no files
        pass
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_CONNECTIONS + _KEPT_FILES + ENROLMENTS
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
                soft = allowed
            except (OSError, ValueError):
                pass
        if soft != resource.RLIM_INFINITY:
            most = min(most, max(32, soft - _KEPT_FILES - ENROLMENTS))
    return limits_of(most)


def limits_of(connections: int) -> list[tuple[str, int]]:
    """The options that let a listener have so many connections, also while they shake hands."""
    return [
        ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_S)),
        ("grpc.max_allowed_incoming_connections", connections),
    ]


def check_listen(listen: str, *, tls: bool = False) -> str:
    """``listen`` itself when it is HOST:PORT, and on loopback unless calls are authenticated.

    Raises:
        UsageError: not HOST:PORT.
        RefusedError: the host is not loopback, and there are no certificates.
    """
    if (found := host_and_port(listen, least_port=0)) is None:
        raise UsageError(f"{listen!r} is not HOST:PORT", where="--listen", fix=f"write it like {DEFAULT_LISTEN}")
    host, port = bare(found[0]), found[1]
    if not tls and not is_loopback(host):
        raise RefusedError(
            f"{host} is not a loopback address, and without certificates nothing that is said would be authenticated",
            where="--listen",
            fix="make certificates with `coordinator init --state DIR`, or listen on 127.0.0.1",
        )
    # One address, not whatever the name means today.
    return f"127.0.0.1:{port}" if host == "localhost" else listen


@dataclass
class Trust:
    """What a server with certificates needs; :meth:`close` gives it back."""

    authority: Authority
    register: Register
    gate: Gate
    worker: Worker
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _pair: tuple[bytes, bytes] = (b"", b"")
    _shown: tuple[bytes, bytes] = (b"", b"")
    _enrolment: grpc.aio.Server | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """TLS with a certificate of the authority asked of every peer. The server's own may be renewed meanwhile."""
        self._pair = self.authority.server_pair()
        self._shown = self._pair
        # The stubs know no answer without a configuration; gRPC does, and then shows what it showed before.
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._renewed,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What to show from now on, asked at each handshake; None: what was shown before.

        A new configuration at every handshake ends the process with a segmentation fault when many handshakes that were
        begun are hung up (gRPC 1.85.3): whoever reaches the port could do that.
        """
        if self._shown == self._pair:
            return None
        self._shown = self._pair
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair], root_certificates=self.authority.root_pem)

    def serve_identities(self, server: grpc.aio.Server) -> None:
        """Add the renewal of certificates to the main server."""
        service = IdentityService(self.authority, self.register, self.worker)
        rpc.add_IdentityServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]

    async def open_enrolment(self, listen: str, above_root_pem: bytes = b"") -> str:
        """Serve enrolment there; the address with its port.

        Raises:
            UsageError: it cannot be listened on.
        """
        service = EnrolmentService(self.authority, self.register, self.worker, above_root_pem)
        server = enrolment_server(service, limits_of(ENROLMENTS))
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {listen}: is it in use?", where="--enroll-listen", fix="choose another port"
            ) from error
        await server.start()
        self._enrolment = server
        return f"{listen.rpartition(':')[0]}:{port}"

    def watch(self) -> None:
        """Follow revocations, and keep the server's own certificate fresh."""
        self._tasks = [asyncio.create_task(self.gate.watch()), asyncio.create_task(self._refresh())]

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_DAY_S)
            try:
                self._pair = await self.worker.do(self.authority.server_pair)
            except Exception as error:
                log.warning("the server's certificate could not be renewed: %s", error)

    async def close(self) -> None:
        """Stop enrolment, the watch, and close the register."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._enrolment is not None:
            await self._enrolment.stop(1.0)
        await asyncio.to_thread(self.worker.close)
        self.register.close()


def open_trust(state: Path) -> Trust:
    """The authority and register of a state folder.

    Raises:
        ConfigError, RefusedError, StoreError: there is none; or it cannot be used.
    """
    folder = state / FOLDER
    authority, register = Authority(folder), Register(folder)
    return Trust(authority, register, Gate(register), Worker("trust"))


def tls_version(address: str, root_pem: bytes) -> str:
    """Which TLS a server speaks with a client of today, asked of the server itself; "unknown" when it says nothing."""
    import socket

    if (found := host_and_port(address)) is None:
        return "unknown"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root_pem.decode())
    host = bare(found[0])
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with (
            socket.create_connection((reach, found[1]), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=SERVER_NAME) as secure,
        ):
            return secure.version() or "unknown"
    except OSError:
        return "unknown"
