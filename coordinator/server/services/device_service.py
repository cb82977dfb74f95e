"""The service that devices call: translate, delegate to the run scheduler, translate back."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

from coordinator.server.run_scheduler import RunScheduler
from coordinator.server.services.admission import Admission
from coordinator.server.services.answering import answered, answered_stream
from coordinator.server.services.unfinished import OutOfStepError, Uploads
from coordinator.server.services.uploads import OversizedError, check_size, receive
from coordinator.server.version import software_version
from protos.convert.cards import card_from
from protos.convert.checks import MAX_NAME, MAX_WAIT_S, checked_name, finite, said
from protos.convert.energy import settled_from
from protos.convert.masks import keys_from, open_from, roster_to, shares_from, shares_to
from protos.convert.orders import order_to
from protos.convert.publications import receptions_from
from protos.convert.reports import receipt_to
from protos.convert.upgrades import upgrade_state_from
from protos.convert.uploads import upload_from
from protos.convert.watts import bins_from
from protos.errors import IntegrityError, RefusedError, StoreError, UnknownRunError, UpdateError
from protos.model.bundle import record_of
from protos.model.manifest import MANIFEST_FILE
from protos.orders import PART_BYTES, PROTOCOL, Holding, Receipt, TrainOrder
from protos.secure_sum.party import Keys, Revealed
from protos.trust.signed import BUNDLE_SIGNATURE
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

log = logging.getLogger("edgejoule.coordinator")

# Orders on their way out, at once; each takes up to three times its size meanwhile.
MOST_LEAVING_BYTES = 8 << 20
ROOM_S = 2.0

# What ends a call that brings a report, narrowest first, and its row in the table of reasons.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (OversizedError, "oversized"),
    (OutOfStepError, "out_of_step"),
    (IntegrityError, "damaged"),
    (UnknownRunError, "unknown_run"),
    (StoreError, "not_written"),
    (TimeoutError, "too_slow"),
    (UpdateError, "malformed"),
)


def _head_bytes(order: TrainOrder) -> int:
    """About what its head takes: four bytes a coordinate, or one for each difference."""
    tensors = order.head or [tensor for difference in order.differences for tensor in difference.tensors]
    return sum(math.prod(tensor.shape) for tensor in tensors) * (4 if order.head else 1)


class DeviceService(rpc.DeviceServiceServicer):
    """Devices ask; the coordinator never calls.

    Args:
        uploads: keeps what came of large reports whose call was cut; None: they are sent again whole.
    """

    def __init__(self, run_scheduler: RunScheduler, uploads: Uploads | None = None) -> None:
        self._run_scheduler, self._uploads = run_scheduler, uploads
        self._admission, self._leaving = Admission(), Admission(MOST_LEAVING_BYTES)

    @answered
    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:  # noqa: N802
        """Says who is there. Another major protocol version is refused."""
        if request.protocol_major != PROTOCOL[0]:
            raise RefusedError(
                f"the device speaks protocol {request.protocol_major}.{request.protocol_minor}, "
                f"the coordinator {PROTOCOL[0]}.{PROTOCOL[1]}",
                where=request.device_id[:80],
                fix="install the same release on both",
            )
        check_in_s = await self._run_scheduler.join(card_from(request))
        return pb.JoinResponse(
            protocol_major=PROTOCOL[0],
            protocol_minor=PROTOCOL[1],
            software_version=software_version(),
            check_in_s=check_in_s,
            receive_known=True,
        )

    @answered
    async def NextOrder(self, request: pb.NextOrderRequest, context: Any) -> pb.NextOrderResponse:  # noqa: N802
        """Hands out the order that the device has not answered yet, or says when to come again."""
        settled = settled_from(request.settled)
        published = checked_name(request.published, "published", empty=True) if request.HasField("published") else None
        holding = Holding(
            request.head_version,
            request.rebuilds,
            request.basis_version,
            request.bundle_id,
            published=published,
            upgrade=upgrade_state_from(request.upgrade) if request.HasField("upgrade") else None,
        )
        waits_s = finite(request.waits_s, "waits_s", at_most=MAX_WAIT_S)
        receptions = receptions_from(request.receptions)
        order = await self._run_scheduler.next_order(
            request.device_id, request.session, settled, holding, waits_s, receptions=receptions
        )
        if isinstance(order, TrainOrder):
            await self._make_room(order, context)
        response = order_to(order)
        if isinstance(order, TrainOrder):
            self._run_scheduler.sent(order, request.device_id, response.ByteSize())
        return response

    async def _make_room(self, order: TrainOrder, context: Any) -> None:
        """Wait until other orders have left: heads for all devices at once would be in memory together. Slow lines keep
        their room for minutes, and nobody waits longer than :data:`ROOM_S` for them."""
        size_bytes = _head_bytes(order)
        with suppress(TimeoutError):
            async with asyncio.timeout(ROOM_S):
                await self._leaving.take(size_bytes)
            context.add_done_callback(lambda *_: self._leaving.give_back(size_bytes))

    @answered_stream
    async def FetchBundle(  # noqa: N802
        self, request: pb.FetchBundleRequest, context: Any
    ) -> AsyncGenerator[pb.FetchBundleResponse, None]:
        """Sends the files of a bundle, each with its declared size and hash first; its Edge TPU twin only if asked. Of
        what the device holds of a file no byte is sent again."""
        bundle = await self._run_scheduler.bundle(request.bundle_id)
        twin = bundle.manifest.edge_tpu
        left_out = twin.file if twin is not None and not request.edge_tpu_twin else None
        names = [MANIFEST_FILE, *sorted(set(bundle.manifest.files) - {left_out})]
        if request.signature and (bundle.path / BUNDLE_SIGNATURE).is_file():
            # Second: a device need not fetch the rest of what it may not run.
            names.insert(1, BUNDLE_SIGNATURE)
        for name in names:
            path = bundle.path / name
            record = bundle.manifest.files.get(name)
            if record is None:
                record = await asyncio.to_thread(record_of, path)
            begin = min(request.held_bytes.get(name, 0), record.size_bytes)
            sha256 = bytes.fromhex(record.sha256)
            yield pb.FetchBundleResponse(
                file=pb.BundleFile(name=name, size_bytes=record.size_bytes, sha256=sha256, from_byte=begin)
            )
            with path.open("rb") as file:
                file.seek(begin)
                while part := await asyncio.to_thread(file.read, PART_BYTES):
                    yield pb.FetchBundleResponse(data=part)

    @answered_stream
    async def FetchUpgrade(  # noqa: N802
        self, request: pb.FetchUpgradeRequest, context: Any
    ) -> AsyncGenerator[pb.FetchUpgradeResponse, None]:
        """Sends the signature of a wheel, then the wheel: a device need not fetch what it may not run."""
        device_id = checked_name(request.device_id, "device_id")
        upgrade_id = checked_name(request.upgrade_id, "upgrade_id")
        with self._run_scheduler.calling(device_id):
            wheel = await self._run_scheduler.upgrades.wheel(device_id, upgrade_id)
            signature = wheel.signature
            sha256 = hashlib.sha256(signature).digest()
            name = f"{wheel.name}.signature.json"
            yield pb.FetchUpgradeResponse(file=pb.BundleFile(name=name, size_bytes=len(signature), sha256=sha256))
            yield pb.FetchUpgradeResponse(data=signature)
            file = pb.BundleFile(name=wheel.name, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
            yield pb.FetchUpgradeResponse(file=file)
            for start in range(0, wheel.size_bytes, PART_BYTES):
                yield pb.FetchUpgradeResponse(data=await asyncio.to_thread(wheel.part, start, PART_BYTES))

    @answered
    async def Report(self, parts: AsyncIterator[pb.ReportRequest], context: Any) -> pb.ReportResponse:  # noqa: N802
        """Takes a report. ACCEPTED means that it is on disk; sent again, the answer is DUPLICATE."""
        with self._failures_counted():
            return receipt_to(await self._taken(parts))

    @answered
    async def ReportHeld(self, request: pb.ReportHeldRequest, context: Any) -> pb.ReportHeldResponse:  # noqa: N802
        """Says how much of a report is here from a call that was cut."""
        key = upload_from(request)
        with self._run_scheduler.calling(key.device_id):
            await check_size(key.run_id, key.total_bytes, self._run_scheduler.report_limit_bytes)
            held_bytes = 0 if self._uploads is None else await self._uploads.held_bytes(key)
        return pb.ReportHeldResponse(held_bytes=held_bytes)

    async def _taken(self, parts: AsyncIterator[pb.ReportRequest]) -> Receipt:
        async with AsyncExitStack() as held:

            async def admit(size_bytes: int) -> None:
                # Until it is answered: so long it is in memory.
                await held.enter_async_context(self._admission.room(size_bytes))

            limit_of, calling = self._run_scheduler.report_limit_bytes, self._run_scheduler.calling
            upload = await receive(parts, limit_of, calling, admit, self._uploads)
            return await self._run_scheduler.report(upload.run_id, upload.round, upload.device_id, upload.data)

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            for kinds, code in _FAILURES:
                if isinstance(error, kinds):
                    self._run_scheduler.report_counts.failed(code)
                    break
            raise

    @answered
    async def AwaitEnd(self, request: pb.AwaitEndRequest, context: Any) -> pb.AwaitEndResponse:  # noqa: N802
        """Answers when an order is not wanted any more, or when the device waits no longer."""
        waits_s = finite(request.waits_s, "waits_s", at_most=MAX_WAIT_S)
        device_id, session = checked_name(request.device_id, "device_id"), checked_name(request.session, "session")
        run_id = checked_name(request.run_id, "run_id")
        wanted = await self._run_scheduler.await_end(device_id, session, run_id, request.round, waits_s)
        return pb.AwaitEndResponse(wanted=wanted, watts=wanted and self._run_scheduler.traces.ask(device_id))

    @answered
    async def LiveWatts(self, request: pb.LiveWattsRequest, context: Any) -> pb.LiveWattsResponse:  # noqa: N802
        """Takes the power of a device as it is, for those who look; nobody: it is told to end."""
        device_id, session = checked_name(request.device_id, "device_id"), checked_name(request.session, "session")
        bins, reason = bins_from(request.bins), said(request.reason, MAX_NAME)
        return pb.LiveWattsResponse(
            wanted=self._run_scheduler.watts(device_id, session, bins, reason, ends=request.ends)
        )

    @answered
    async def Mask(self, request: pb.MaskRequest, context: Any) -> pb.MaskResponse:  # noqa: N802
        """One step of a masked sum: keys, sealed shares, or what unmasks the sum. Waits for the other devices."""
        device_id, session = checked_name(request.device_id, "device_id"), checked_name(request.session, "session")
        run_id = checked_name(request.run_id, "run_id")
        with self._run_scheduler.calling(device_id):
            group = await self._run_scheduler.mask(device_id, session, run_id, request.round, request.attempt)
            match request.WhichOneof("step"):
                case "keys":
                    roster, threshold = await group.offer(device_id, Keys(*keys_from(request.keys)))
                    found = {
                        name: (public_keys.seal, public_keys.mask, public_keys.seed)
                        for name, public_keys in roster.items()
                    }
                    return roster_to(found, threshold)
                case "shares":
                    given = await group.share(device_id, shares_from(request.shares.shares))
                    return pb.MaskResponse(shares=shares_to(given))
                case "reveal":
                    seeds, keys = open_from(request.reveal.seeds), open_from(request.reveal.keys)
                    group.reveal(device_id, Revealed(seeds, keys))
                    return pb.MaskResponse()
                case _:
                    raise UpdateError("is no step of a masked sum", where="mask")

    @answered
    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.LeaveResponse:  # noqa: N802
        """Says goodbye, with the last joules."""
        settled = settled_from(request.settled)
        reason = "".join(character for character in request.reason[:200] if character.isprintable())
        await self._run_scheduler.leave(request.device_id, request.session, settled, reason)
        return pb.LeaveResponse()
