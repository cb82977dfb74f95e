"""Who may call what: every call over TLS passes here before its method sees it.

* The peer is who its certificate says. A call that names a device must name that one.
* A certificate that has ended counts no longer, however long ago the connection was made.
* A certificate that was revoked counts no longer, on the next call and on those that are open: the register is looked
  at twice a second, and open calls of who was revoked are ended.
* Devices call the services of devices; persons call those of operators, by their role. What is not in the table is
  for operators alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509

from coordinator.server.services.answering import abort
from coordinator.trust.authority import peer_of
from coordinator.trust.register import Register
from protos.errors import RefusedError
from protos.trust.names import PeerName, Role

__all__ = ["LOOK_S", "Gate", "Peer", "current_peer"]

log = logging.getLogger("edgejoule.coordinator")

LOOK_S = 0.5
_READERS = frozenset({Role.OPERATOR, Role.OBSERVER, Role.AUDITOR})
_SERVICES: dict[str, frozenset[Role]] = {
    "edgejoule.v1.DeviceService": frozenset({Role.DEVICE}),
    "edgejoule.v1.IdentityService": frozenset({Role.DEVICE}),
    "grpc.health.v1.Health": frozenset({Role.DEVICE}) | _READERS,
}
_METHODS: dict[str, frozenset[Role]] = {
    "/edgejoule.v1.OperatorService/GetStatus": _READERS,
    "/edgejoule.v1.OperatorService/ListDevices": _READERS,
    "/edgejoule.v1.OperatorService/GetBudgets": _READERS,
    "/edgejoule.v1.OperatorService/ListUpgrades": _READERS,
    "/edgejoule.v1.OperatorService/WatchWatts": _READERS,
}
_ONLY_OPERATORS = frozenset({Role.OPERATOR})


@dataclass(frozen=True)
class Peer:
    """Who calls, and with which certificate, and until when that counts."""

    name: PeerName
    serial: str
    ends_unix_s: float


current_peer: contextvars.ContextVar[Peer | None] = contextvars.ContextVar("current_peer", default=None)
"""Who the call that runs now comes from; None without TLS."""


@functools.lru_cache(maxsize=4096)
def _peer(pem: bytes) -> Peer | None:
    """Reading a certificate costs about 0.1 ms; a fleet has few, and each calls often."""
    certificate = x509.load_pem_x509_certificate(pem)
    name = peer_of(certificate)
    if name is None:
        return None
    return Peer(name, f"{certificate.serial_number:x}", certificate.not_valid_after_utc.timestamp())


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The gate of one server.

    Args:
        register: read here, written elsewhere.
        clock: wall time, unix seconds.
    """

    def __init__(self, register: Register, clock: Callable[[], float] = time.time) -> None:
        self._register, self._clock = register, clock
        self._version = register.version()
        self._revoked = register.revoked()
        self._blind = False
        self._open: dict[str, set[asyncio.Task[Any]]] = {}

    async def watch(self) -> None:
        """Follow the register until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.look()
                self._blind = False
            except Exception as error:
                # Revocations are not seen meanwhile: said once an outage, and tried again.
                if not self._blind:
                    log.error("revocations cannot be read, and do not act until they can: %s", error)
                self._blind = True

    def look(self) -> None:
        """Take notice of revocations, and end the calls that are open for who was revoked."""
        if (version := self._register.version()) == self._version:
            return
        self._version = version
        self._revoked = self._register.revoked()
        for serial in self._revoked & self._open.keys():
            for task in self._open[serial]:
                task.cancel()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of a method, behind the gate."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:

            async def one(request: Any, context: Any) -> Any:
                peer = await self._admit(method, context)
                await self._same(peer, request, context)
                return await self._kept(peer, handler.unary_unary(request, context), context)

            return grpc.unary_unary_rpc_method_handler(one, **codecs)
        if handler.stream_unary:

            async def parts(requests: AsyncIterator[Any], context: Any) -> Any:
                peer = await self._admit(method, context)
                return await self._kept(peer, handler.stream_unary(self._checked(peer, requests), context), context)

            return grpc.stream_unary_rpc_method_handler(parts, **codecs)
        if handler.unary_stream:

            async def many(request: Any, context: Any) -> AsyncIterator[Any]:
                peer = await self._admit(method, context)
                await self._same(peer, request, context)
                task = asyncio.current_task()
                assert task is not None
                try:
                    with self._counted(peer, task):
                        async with contextlib.aclosing(handler.unary_stream(request, context)) as answers:
                            async for part in answers:
                                # Some of them have no end of their own.
                                if peer.ends_unix_s <= self._clock():
                                    await abort(_ended(peer), context)
                                yield part
                except asyncio.CancelledError:
                    if peer.serial not in self._revoked:
                        raise
                    task.uncancel()
                    await abort(_revoked(peer), context)

            return grpc.unary_stream_rpc_method_handler(many, **codecs)
        # No method of ours streams both ways; one that does later gets its own gate.
        return None

    async def _admit(self, method: str, context: Any) -> Peer:
        try:
            (pem,) = context.auth_context().get("x509_pem_cert", ())
            peer = _peer(bytes(pem))
        except ValueError:
            peer = None
        if peer is None:
            await abort(
                RefusedError(
                    "the certificate names no device and no operator of a fleet",
                    fix="use what `edge-runtime enroll` or `coordinator operators add` made",
                ),
                context,
            )
            raise AssertionError
        if peer.serial in self._revoked:
            await abort(_revoked(peer), context)
        if peer.ends_unix_s <= self._clock():
            # TLS looked at it when the connection was made, which may be weeks ago.
            await abort(_ended(peer), context)
        service = method.removeprefix("/").partition("/")[0]
        allowed = _METHODS.get(method) or _SERVICES.get(service, _ONLY_OPERATORS)
        if peer.name.role not in allowed:
            roles = " or ".join(sorted(role.value for role in allowed))
            await abort(
                RefusedError(
                    f"{method.rpartition('/')[2]} is for the role {roles}",
                    where=str(peer.name),
                    fix="ask who runs the coordinator for credentials of that role",
                ),
                context,
            )
        current_peer.set(peer)
        return peer

    async def _same(self, peer: Peer, request: Any, context: Any) -> None:
        """A device speaks for itself alone."""
        if peer.name.role is not Role.DEVICE:
            return
        said = getattr(request, "device_id", peer.name.name)
        if said != peer.name.name:
            await abort(_other(peer, said), context)

    async def _checked(self, peer: Peer, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for part in requests:
            header = getattr(part, "header", None)
            if header is not None and part.WhichOneof("part") == "header":
                said = getattr(header, "device_id", peer.name.name)
                if said != peer.name.name:
                    raise _other(peer, said)
            yield part

    async def _kept(self, peer: Peer, work: Awaitable[Any], context: Any) -> Any:
        """Wait for a method that can be ended when its caller is revoked."""
        task = asyncio.ensure_future(work)
        with self._counted(peer, task):
            try:
                return await task
            except asyncio.CancelledError:
                if task.cancelled() and peer.serial in self._revoked:
                    await abort(_revoked(peer), context)
                task.cancel()
                raise

    @contextlib.contextmanager
    def _counted(self, peer: Peer, task: asyncio.Task[Any]) -> Iterator[None]:
        """A call of this peer is open, and ends with that task."""
        tasks = self._open.setdefault(peer.serial, set())
        tasks.add(task)
        try:
            yield
        finally:
            tasks.discard(task)
            if not tasks:
                self._open.pop(peer.serial, None)


def _revoked(peer: Peer) -> RefusedError:
    return RefusedError(
        "its certificate was revoked", where=str(peer.name), fix="enrol it again with a new `coordinator enroll` token"
    )


def _ended(peer: Peer) -> RefusedError:
    return RefusedError(
        "its certificate has ended", where=str(peer.name), fix="connect anew; a board renews its certificate by itself"
    )


def _other(peer: Peer, said: Any) -> RefusedError:
    return RefusedError(
        f"the certificate is of {peer.name.name}, and the call speaks for {str(said)[:64]}",
        where=str(peer.name),
        fix="give each board its own certificate with `edge-runtime enroll`",
    )
