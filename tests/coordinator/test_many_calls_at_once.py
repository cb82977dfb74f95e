"""When a round opens for a large fleet all of it calls at once, and the coordinator is busy: no call is dropped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from coordinator.server.serving import _OPTIONS, MAX_CALLS
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

CHANNELS, EACH = 20, 100  # twice as many calls as gRPC keeps for certain where nobody says more


class _Waiting(rpc.DeviceServiceServicer):
    async def NextOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.NextOrderResponse(rejoin=pb.Rejoin())


async def _serve() -> None:
    """A server as the coordinator makes it. At the first line of its input it stands still until the second."""
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
    rpc.add_DeviceServiceServicer_to_server(_Waiting(), server)  # type: ignore[no-untyped-call]
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.readline)
    print("stands still", flush=True)
    sys.stdin.readline()
    await asyncio.to_thread(sys.stdin.readline)
    await server.stop(None)


async def _call(server: subprocess.Popen[str]) -> Counter[str]:
    assert server.stdin is not None
    assert server.stdout is not None
    address, options = f"127.0.0.1:{server.stdout.readline().strip()}", [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    stubs = [rpc.DeviceServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    await asyncio.gather(*(stub.NextOrder(pb.NextOrderRequest()) for stub in stubs))
    print("stand still", file=server.stdin, flush=True)
    server.stdout.readline()
    calls = [stub.NextOrder(pb.NextOrderRequest(), timeout=120) for stub in stubs for _ in range(EACH)]
    # Until they are on the wire.
    await asyncio.sleep(1)
    print("go on", file=server.stdin, flush=True)
    found: Counter[str] = Counter()
    for call in calls:
        try:
            await call
            found["answered"] += 1
        except grpc.aio.AioRpcError as error:
            found[error.code().name] += 1
    for channel in channels:
        await channel.close(None)
    return found


def test_no_call_of_a_fleet_is_dropped_while_the_coordinator_is_busy() -> None:
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = asyncio.run(_call(server))
        finally:
            server.kill()
    assert found == {"answered": CHANNELS * EACH}


if __name__ == "__main__":
    asyncio.run(_serve())
