"""The calls that a site makes to the coordinator above it: those of a device, on the event loop.

Only loopback is spoken to: certificates of a device are kept by a device's daemon, and a site is none. A tunnel such as
``ssh -L`` leads to another machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from protos.addresses import host_and_port, is_loopback
from protos.convert.cards import card_to
from protos.convert.energy import settled_to
from protos.convert.orders import order_from
from protos.convert.reports import receipt_from
from protos.errors import ConfigError, IntegrityError, RefusedError, UnreachableError
from protos.model.manifest import brief
from protos.orders import PART_BYTES, PROTOCOL, DeviceCard, Order, Receipt, SettledEnergy, Verdict
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

CALL_S, FETCH_S, LATER_S = 15.0, 900.0, 30.0
# The slowest uplink that a report is waited for on.
_UPLINK_BYTES_PER_S = 20_000
MAX_BUNDLE_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
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
}


class Away(UnreachableError):
    """The coordinator above does not answer now; asking again is harmless."""


def check_upstream(address: str) -> str:
    """``address`` itself when it can be spoken to.

    Raises:
        ConfigError: it is no HOST:PORT.
        RefusedError: it is not on loopback.
    """
    if (found := host_and_port(address)) is None:
        raise ConfigError(f"{address!r} is not HOST:PORT", where="--upstream", fix="write it like 127.0.0.1:50461")
    if not is_loopback(found[0]):
        raise RefusedError(
            "is not on this machine, and a site has no certificate to show",
            where=f"--upstream {address}", fix="use 127.0.0.1:PORT through a tunnel such as `ssh -L`",
        )  # fmt: skip
    return address


class UpstreamLink:
    """A connection to the coordinator above; nothing is sent before the first call.

    Every method raises Away when nobody answers, and RefusedError when asking again would not help.
    """

    def __init__(self, address: str) -> None:
        self.address = check_upstream(address)
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = rpc.DeviceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def join(self, card: DeviceCard) -> None:
        """Say who is there, or what is new."""
        answer = await self._call(self._stub.Join(card_to(card, PROTOCOL), timeout=CALL_S))
        if answer.protocol_major != PROTOCOL[0]:
            raise RefusedError(
                f"speaks protocol {answer.protocol_major}.{answer.protocol_minor}, and this one {PROTOCOL[0]}",
                where=f"coordinator {self.address}", fix="install the same release on both",
            )  # fmt: skip

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
        """Send the bytes of a report."""

        async def parts() -> AsyncIterator[pb.ReportRequest]:
            digest = hashlib.sha256(data).digest()
            yield pb.ReportRequest(
                header=pb.ReportHeader(
                    run_id=run_id, round=round, device_id=device_id, total_bytes=len(data), sha256=digest
                )
            )
            for start in range(0, len(data), PART_BYTES):
                yield pb.ReportRequest(data=data[start : start + PART_BYTES])

        timeout_s = CALL_S + len(data) / _UPLINK_BYTES_PER_S
        try:
            return receipt_from(await self._call(self._stub.Report(parts(), timeout=timeout_s)))
        except RefusedError as error:
            return Receipt(Verdict.REJECTED, error.what)

    async def leave(self, card: DeviceCard, reason: str) -> None:
        """Say goodbye."""
        request = pb.LeaveRequest(device_id=card.device_id, session=card.session, reason=reason[:200])
        await self._call(self._stub.Leave(request, timeout=CALL_S))

    async def fetch_bundle(self, bundle_id: str) -> dict[str, bytes]:
        """The files of a bundle by name, each as it was declared.

        Raises:
            IntegrityError: damaged on the way, or no files of a bundle.
        """
        stream = self._stub.FetchBundle(pb.FetchBundleRequest(bundle_id=bundle_id), timeout=FETCH_S)
        files: dict[str, bytearray] = {}
        declared: dict[str, tuple[int, bytes]] = {}
        where, name = f"bundle {brief(bundle_id)}", ""
        try:
            async for part in stream:
                if part.WhichOneof("part") == "file":
                    name = part.file.name
                    if not _NAME.fullmatch(name) or name in files:
                        raise IntegrityError(f"{name[:80]!r} is no name of a file in it", where=where)
                    files[name], declared[name] = bytearray(), (part.file.size_bytes, part.file.sha256)
                    if sum(size for size, _ in declared.values()) > MAX_BUNDLE_BYTES:
                        raise IntegrityError("is larger than any bundle", where=where)
                elif name:
                    files[name] += part.data
                    if len(files[name]) > declared[name][0]:
                        raise IntegrityError(f"{name} is longer than declared", where=where)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        for one, (size, digest) in declared.items():
            if len(files[one]) != size or hashlib.sha256(files[one]).digest() != digest:
                raise IntegrityError(f"{one} came damaged", where=where, fix="it is fetched again")
        return {one: bytes(data) for one, data in files.items()}

    async def _call(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: grpc.aio.AioRpcError) -> Exception:
        where, what = f"coordinator {self.address}", (error.details() or error.code().name).strip()
        if error.code() in _AWAY:
            return Away(what if error.code() is not grpc.StatusCode.UNAVAILABLE else "does not answer", where=where)
        return RefusedError(f"refuses: {what}", where=where)
