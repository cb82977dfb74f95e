"""Receiving a report in parts, bounded before anything of it is decoded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass

from coordinator.server.services.unfinished import OutOfStepError, Taking, Uploads
from protos.convert.calls import resumes
from protos.convert.uploads import upload_from
from protos.errors import IntegrityError, UpdateError
from protos.v1 import edgejoule_pb2 as pb

# A report that is still coming after this long is given up; the device sends it again.
UPLOAD_S = 600.0
# An update is never larger than its head in float32, whatever the codec.
_SAME_RELEASE = "install the same release on the device and the coordinator"


class OversizedError(UpdateError):
    """A report that declares, or sends, more than a report can honestly weigh."""


@dataclass(frozen=True)
class Upload:
    """A report whose bytes are the declared ones."""

    run_id: str
    round: int
    device_id: str
    data: bytes


async def receive(
    parts: AsyncIterator[pb.ReportRequest],
    limit_of: Callable[[str], Awaitable[int]],
    calling: Callable[[str], AbstractContextManager[None]],
    admit: Callable[[int], Awaitable[None]],
    uploads: Uploads | None = None,
) -> Upload:
    """Read one header and its data; of a large report, what a call before this one did not bring.

    Args:
        limit_of: run id to the most bytes that a report of it may have.
        calling: device id to what is entered while its report comes in.
        admit: waits for room for so many bytes.
        uploads: where what comes of large reports is kept until they are whole; None: nowhere.

    Raises:
        OversizedError: it declares or sends too much; nothing was kept.
        OutOfStepError: it goes on from another byte than the last that is held.
        IntegrityError: other bytes than declared.
        UpdateError: parts in another order than header, data, data...
        StoreError: what comes cannot be kept.
        TimeoutError: it took longer than UPLOAD_S.
    """
    async with asyncio.timeout(UPLOAD_S), AsyncExitStack() as stack:
        header: pb.ReportHeader | None = None
        taking: Taking | _InMemory | None = None
        async for part in parts:
            kind = part.WhichOneof("part")
            if header is None or taking is None:
                if kind != "header":
                    raise UpdateError("a report begins with its header", where="report")
                header = _named(part.header)
                # From here on its device waits for us, also while the books are asked what it may send.
                stack.enter_context(calling(header.device_id))
                await check_size(header.run_id, header.total_bytes, limit_of)
                if uploads is not None and resumes(header.total_bytes):
                    taking = await stack.enter_async_context(uploads.taking(upload_from(header), header.from_byte))
                elif header.from_byte:
                    raise OutOfStepError("nothing is held of so small a report", where="report", fix="send it whole")
                else:
                    await admit(header.total_bytes)
                    taking = _InMemory()
            elif kind != "data":
                raise UpdateError("a report has one header, then data", where="report")
            elif taking.size_bytes + len(part.data) > header.total_bytes:
                raise OversizedError(
                    f"more than the declared {header.total_bytes} bytes", where="report", fix=_SAME_RELEASE
                )
            else:
                await taking.add(part.data)
        if header is None or taking is None:
            raise UpdateError("an empty stream", where="report")
        if not isinstance(taking, _InMemory):
            # Not before it is whole: a slow line takes no memory.
            await admit(header.total_bytes)
        data = await taking.whole()
    if len(data) != header.total_bytes or hashlib.sha256(data).digest() != header.sha256:
        raise IntegrityError(
            f"{len(data)} of {header.total_bytes} bytes, or not the declared ones", where="report", fix="send it again"
        )
    return Upload(header.run_id, header.round, header.device_id, data)


class _InMemory:
    """A small report on its way."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    async def add(self, data: bytes) -> None:
        self._data += data

    async def whole(self) -> bytes:
        return bytes(self._data)


def _named(header: pb.ReportHeader) -> pb.ReportHeader:
    for name, value in (("run_id", header.run_id), ("device_id", header.device_id)):
        if not 0 < len(value) <= 256 or not value.isprintable():
            raise UpdateError("not a name", where=f"report.{name}")
    return header


async def check_size(run_id: str, total_bytes: int, limit_of: Callable[[str], Awaitable[int]]) -> None:
    """Raise OversizedError where a report of this run cannot honestly weigh so much."""
    limit = await limit_of(run_id)
    if total_bytes > limit:
        raise OversizedError(f"declares {total_bytes} bytes, {limit} at most", where="report", fix=_SAME_RELEASE)
