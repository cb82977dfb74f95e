"""The calls that a site makes to the coordinator above it: those of a device, on the event loop.

Without an identity only loopback is spoken to. With one the connection is TLS, and both ends show certificates; one
that was renewed is taken up at the next call.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc

from coordinator.server.upstream.identity import SiteIdentity, read_site_identity, stamp_of
from protos.addresses import host_and_port, is_loopback
from protos.convert.calls import CALL_S, FETCH_S, LATER_S, check_protocol, report_parts, report_timeout_s, resumes
from protos.convert.cards import card_to
from protos.convert.energy import settled_to
from protos.convert.orders import order_from
from protos.convert.received_files import ReceivedFiles, receive_file_part
from protos.convert.reports import receipt_from
from protos.convert.uploads import UploadKey, held_from, held_request, upload_of
from protos.errors import ConfigError, RefusedError, UnreachableError
from protos.orders import PROTOCOL, DeviceCard, Order, Receipt, SettledEnergy, Verdict
from protos.trust.names import SERVER_NAME
from protos.trust.signed import BUNDLE_SIGNATURE
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
]
_AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


class Away(UnreachableError):
    """The coordinator above does not answer now; asking again is harmless."""


def check_upstream(address: str, identity: SiteIdentity | None = None) -> str:
    """``address`` itself when it can be spoken to.

    Raises:
        ConfigError: it is no HOST:PORT.
        RefusedError: it is not on loopback, and the site has no identity.
    """
    if (found := host_and_port(address)) is None:
        raise ConfigError(f"{address!r} is not HOST:PORT", where="--upstream", fix="write it like 127.0.0.1:50461")
    if not is_loopback(found[0]) and identity is None:
        raise RefusedError(
            "is not on this machine, and this site was never enrolled there",
            where=f"--upstream {address}",
            fix="enrol it with `edge-runtime enroll TOKEN --state DIR --no-start` and give --upstream-identity DIR, "
            "or use 127.0.0.1:PORT through a tunnel such as `ssh -L`",
        )
    return address


class UpstreamLink:
    """A connection to the coordinator above; nothing is sent before the first call.

    Every method raises Away when nobody answers, and RefusedError when asking again would not help.

    Args:
        folder: of the site's identity; None: it has none, and speaks to loopback alone.
    """

    def __init__(self, address: str, folder: Path | None = None) -> None:
        self._folder = folder
        self.identity = None if folder is None else read_site_identity(folder)
        self._stamp = None if folder is None else stamp_of(folder)
        self.address = check_upstream(address, self.identity)
        self._connect()

    def _connect(self) -> None:
        if self.identity is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        else:
            one = self.identity
            secure = grpc.ssl_channel_credentials(one.root_pem.encode(), one.key_pem.encode(), one.chain_pem.encode())
            named = ("grpc.ssl_target_name_override", SERVER_NAME)
            self._channel = grpc.aio.secure_channel(self.address, secure, options=[*_OPTIONS, named])
        self._stub = rpc.DeviceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def take_up_renewed(self) -> bool:
        """Connect again when the identity on disk is another than the one in use; whether it was."""
        if self._folder is None or (stamp := stamp_of(self._folder)) in (None, self._stamp):
            return False
        self.identity, self._stamp = read_site_identity(self._folder), stamp
        await self._channel.close(None)
        self._connect()
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def join(self, card: DeviceCard) -> bool:
        """Say who is there, or what is new; whether joules of what came in may be told as such."""
        answer = await self._call(self._stub.Join(card_to(card, PROTOCOL), timeout=CALL_S))
        check_protocol(answer, self.address)
        return bool(answer.receive_known)

    async def next_order(
        self, card: DeviceCard, settled: Iterable[SettledEnergy], bundle_id: str, published: str, waits_s: float
    ) -> tuple[Order, int]:
        """Ask for work, and wait so long for it. Energy in ``settled`` is known above afterwards."""
        request = pb.NextOrderRequest(
            device_id=card.device_id,
            session=card.session,
            settled=settled_to(settled, card.meter),
            bundle_id=bundle_id,
            waits_s=waits_s,
            published=published,
        )
        answer = await self._call(self._stub.NextOrder(request, timeout=waits_s + LATER_S))
        return order_from(answer), int(answer.ByteSize())

    async def report(self, run_id: str, round: int, device_id: str, data: bytes) -> Receipt:
        """Send the bytes of a report; of a large one, those that an earlier try did not bring."""
        key = upload_of(run_id, round, device_id, data)

        async def parts() -> AsyncIterator[pb.ReportRequest]:
            for part in report_parts(key, data, from_byte):
                yield part

        try:
            from_byte = await self._held(key)
            timeout_s = report_timeout_s(len(data), left_bytes=len(data) - from_byte)
            return receipt_from(await self._call(self._stub.Report(parts(), timeout=timeout_s)))
        except RefusedError as error:
            return Receipt(Verdict.REJECTED, error.what)

    async def _held(self, key: UploadKey) -> int:
        """How much of a report is above already; 0 where a release takes reports whole alone."""
        if not resumes(key.total_bytes):
            return 0
        try:
            return held_from(await self._stub.ReportHeld(held_request(key), timeout=CALL_S), key)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return 0
            raise self._translated(error) from error

    async def leave(self, card: DeviceCard, reason: str) -> None:
        """Say goodbye."""
        request = pb.LeaveRequest(device_id=card.device_id, session=card.session, reason=reason[:200])
        await self._call(self._stub.Leave(request, timeout=CALL_S))

    def _fetching(self, bundle_id: str) -> Any:
        return self._stub.FetchBundle(pb.FetchBundleRequest(bundle_id=bundle_id, signature=True), timeout=FETCH_S)

    async def fetch_signature(self, bundle_id: str) -> bytes:
        """The signature of a bundle as it is above now; empty where it has none.

        Raises:
            IntegrityError: damaged on the way.
        """
        stream, found = self._fetching(bundle_id), io.BytesIO()
        received = ReceivedFiles(lambda name: found if name == BUNDLE_SIGNATURE else io.BytesIO())
        begun: list[str] = []
        try:
            async for part in stream:
                if part.WhichOneof("part") == "file":
                    # It is the second, after the manifest: the rest is here already.
                    if len(begun) == 2 or (begun and part.file.name != BUNDLE_SIGNATURE):
                        break
                    begun.append(part.file.name)
                receive_file_part(received, part)
            received.finish()
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        finally:
            stream.cancel()
        return found.getvalue()

    async def fetch_bundle(self, bundle_id: str) -> dict[str, bytes]:
        """The files of a bundle by name, each as it was declared.

        Raises:
            IntegrityError: damaged on the way, or no files of a bundle.
        """
        stream = self._fetching(bundle_id)
        files: dict[str, io.BytesIO] = {}
        received = ReceivedFiles(lambda name: files.setdefault(name, io.BytesIO()))
        try:
            async for part in stream:
                receive_file_part(received, part)
            received.finish()
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return {name: data.getvalue() for name, data in files.items()}

    async def _call(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: grpc.aio.AioRpcError) -> Exception:
        where, what = f"coordinator {self.address}", (error.details() or error.code().name).strip()
        if error.code() in _AWAY:
            if error.code() is grpc.StatusCode.UNAVAILABLE and self.identity is not None:
                ended = time.time() >= self.identity.ends_unix_s
                why = "its certificate has ended" if ended else "or does not take the site's certificate"
                return Away(f"does not answer, {why}", where=where)
            return Away(what if error.code() is not grpc.StatusCode.UNAVAILABLE else "does not answer", where=where)
        return RefusedError(f"refuses: {what}", where=where)
