"""The service that the command line calls: translate, delegate, translate back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from coordinator.export.exporter import DEFAULT_LIMIT
from coordinator.operator import messages
from coordinator.operator.upgrades import UpgradeWanted, header_from, upgrade_to, upgrades_to
from coordinator.server.gate import current_peer
from coordinator.server.operations import Operations
from coordinator.server.services.answering import answered, answered_stream
from coordinator.server.services.uploads import UPLOAD_S, OversizedError
from coordinator.server.version import software_version
from coordinator.store.reading import Cursor
from protos.convert.checks import finite
from protos.convert.upgrades import MAX_WHEEL_BYTES
from protos.convert.watts import bins_to
from protos.errors import UpdateError
from protos.orders import PART_BYTES
from protos.trust.signed import MAX_BYTES
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc


class OperatorService(rpc.OperatorServiceServicer):
    """Start, stop, look, export."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @answered
    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:  # noqa: N802
        """Checks a plan and queues its run."""
        return pb.StartRunResponse(run_id=await self._operations.start_run(request.plan_toml, request.plan_directory))

    @answered
    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.StopRunResponse:  # noqa: N802
        """Ends a run."""
        return pb.StopRunResponse(state=await self._operations.stop_run(request.run_id))

    @answered
    async def PauseRun(self, request: pb.PauseRunRequest, context: Any) -> pb.PauseRunResponse:  # noqa: N802
        """Lets a run rest."""
        state = await self._operations.pause_run(request.run_id, after_round=request.after_round)
        return pb.PauseRunResponse(state=state)

    @answered
    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.ResumeRunResponse:  # noqa: N802
        """Lets a run that rests go on."""
        state = await self._operations.resume_run(request.run_id, request.plan_toml, request.plan_directory)
        return pb.ResumeRunResponse(state=state)

    @answered
    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: N802
        """Shows one run or all."""
        begin = None
        if request.parts:
            say = finite(request.say, "say") if request.HasField("say") else None
            begin = Cursor(request.since_round, request.after, say)
        found, following = await self._operations.status(
            request.run_id, request.since_round, page=request.page, newest_only=request.newest_only, begin=begin
        )
        counts = self._operations.report_counts()
        details = await self._operations.details(found[0].run_id) if request.details and request.run_id else None
        made = await self._operations.aside(
            messages.runs_to, found, software_version(), following.round, counts, details
        )
        if following.say is not None:
            made.next_after, made.next_say = following.after, following.say
        return made

    @answered
    async def ListDevices(self, request: pb.ListDevicesRequest, context: Any) -> pb.ListDevicesResponse:  # noqa: N802
        """Shows every device that ever joined."""
        found, more = await self._operations.devices(request.after, request.page)
        return await self._operations.aside(messages.devices_to, found, more)

    @answered
    async def GetBudgets(self, request: pb.GetBudgetsRequest, context: Any) -> pb.GetBudgetsResponse:  # noqa: N802
        """Shows the ledger of a run."""
        found = await self._operations.budgets(request.run_id, request.after, request.page)
        return await self._operations.aside(messages.budgets_to, *found)

    @answered
    async def ForgetDevice(  # noqa: N802
        self, request: pb.ForgetDeviceRequest, context: Any
    ) -> pb.ForgetDeviceResponse:
        """Takes a device off the list."""
        await self._operations.forget_device(request.device_id)
        return pb.ForgetDeviceResponse()

    @answered
    async def UnlearnDevice(  # noqa: N802
        self, request: pb.UnlearnDeviceRequest, context: Any
    ) -> pb.UnlearnDeviceResponse:
        """Subtracts a device from a run that is over."""
        done = await self._operations.forget(request.run_id, request.device_id)
        return pb.UnlearnDeviceResponse(**vars(done))

    @answered
    async def EvaluateRun(  # noqa: N802
        self, request: pb.EvaluateRunRequest, context: Any
    ) -> pb.EvaluateRunResponse:
        """Runs a head with kernels of few bits."""
        found = await self._operations.evaluate(request.run_id, request.head_version, tuple(request.bits))
        return messages.evaluation_to(found)

    @answered
    async def StartUpgrade(  # noqa: N802
        self, parts: AsyncIterator[pb.StartUpgradeRequest], context: Any
    ) -> pb.StartUpgradeResponse:
        """Takes a signed wheel, and offers it."""
        wanted, data = await _wheel_of(parts)
        done = await self._operations.upgrades.start(wanted, data, _caller())
        return pb.StartUpgradeResponse(upgrade=upgrade_to(done))

    @answered
    async def StopUpgrade(self, request: pb.StopUpgradeRequest, context: Any) -> pb.StopUpgradeResponse:  # noqa: N802
        """Offers it to nobody else."""
        done = await self._operations.upgrades.stop(request.upgrade_id, _caller())
        return pb.StopUpgradeResponse(upgrade=upgrade_to(done))

    @answered
    async def ListUpgrades(  # noqa: N802
        self, request: pb.ListUpgradesRequest, context: Any
    ) -> pb.ListUpgradesResponse:
        """Shows one with its devices, or all."""
        upgrades = self._operations.upgrades
        return upgrades_to(await upgrades.all() if request.all else [await upgrades.one(request.upgrade_id)])

    @answered_stream
    async def WatchWatts(  # noqa: N802
        self, request: pb.WatchWattsRequest, context: Any
    ) -> AsyncGenerator[pb.WatchWattsResponse, None]:
        """Shows the power of one device as it is, until the caller goes."""
        async with contextlib.aclosing(self._operations.traces.watch(request.device_id)) as following:
            async for one in following:
                bins = None if one.bins is None else bins_to(one.bins)
                yield pb.WatchWattsResponse(bins=bins, reason=one.reason, skipped=one.skipped)

    @answered_stream
    async def ExportRun(  # noqa: N802
        self, request: pb.ExportRunRequest, context: Any
    ) -> AsyncGenerator[pb.ExportRunResponse, None]:
        """Assembles the integer model and sends it."""
        if request.head_alone:
            summary, model = await self._operations.export_head(request.run_id, request.head_version)
        elif request.bundle:
            summary, model = await self._operations.export_bundle(request.run_id, request.head_version)
        else:
            limit = request.max_drop if request.HasField("max_drop") else DEFAULT_LIMIT
            summary, model = await self._operations.export(request.run_id, request.head_version, limit)
        yield pb.ExportRunResponse(summary=messages.summary_to(summary))
        for start in range(0, len(model), PART_BYTES):
            yield pb.ExportRunResponse(data=model[start : start + PART_BYTES])


def _caller() -> str:
    peer = current_peer.get()
    return "local" if peer is None else str(peer.name)


async def _wheel_of(parts: AsyncIterator[pb.StartUpgradeRequest]) -> tuple[UpgradeWanted, bytes]:
    """One header, then its data, no more than it declares.

    Raises:
        OversizedError: it declares or sends too much.
        UpdateError: parts in another order.
    """
    wanted: UpgradeWanted | None = None
    data = bytearray()
    async with asyncio.timeout(UPLOAD_S):
        async for part in parts:
            kind = part.WhichOneof("part")
            if wanted is None:
                if kind != "header":
                    raise UpdateError("a wheel begins with its header", where="upgrade")
                wanted = header_from(part.header)
                if wanted.size_bytes > MAX_WHEEL_BYTES or len(wanted.signature) > MAX_BYTES:
                    raise OversizedError(
                        f"declares {wanted.size_bytes} bytes, {MAX_WHEEL_BYTES} at most", where="wheel"
                    )
            elif kind != "data":
                raise UpdateError("a wheel has one header, then data", where="upgrade")
            elif len(data) + len(part.data) > wanted.size_bytes:
                raise OversizedError(f"more than the declared {wanted.size_bytes} bytes", where="wheel")
            else:
                data += part.data
    if wanted is None:
        raise UpdateError("an empty stream", where="upgrade")
    return wanted, bytes(data)
