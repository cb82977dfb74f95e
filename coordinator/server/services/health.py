"""The standard health service of gRPC, so that standard probes work: `grpc.health.v1.Health`.

Its messages have one field each, and are the same bytes as those of protobuf's well-known wrappers: a request is a
string, an answer a number. Each answer says in its metadata which software answers, and which layout it stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue, UInt32Value

from coordinator.server.version import software_version
from coordinator.store.layouts import LAYOUT

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# "" is the server as a whole.
_KNOWN = ("", "edgejoule.v1.DeviceService", "edgejoule.v1.OperatorService", SERVICE)


class Health:
    """What the process says of itself.

    Args:
        stopping: set when it takes no more work.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For the server."""
        parts: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": UInt32Value.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, **parts),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **parts),
            },
        )

    @property
    def _status(self) -> int:
        return NOT_SERVING if self._stopping.is_set() else SERVING

    async def _check(self, request: StringValue, context: Any) -> UInt32Value:
        await context.send_initial_metadata(_about())
        if request.value not in _KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is called {request.value[:80]!r}")
        return UInt32Value(value=self._status)

    async def _watch(self, request: StringValue, context: Any) -> AsyncIterator[UInt32Value]:
        await context.send_initial_metadata(_about())
        if request.value not in _KNOWN:
            yield UInt32Value(value=SERVICE_UNKNOWN)
            await self._stopping.wait()
            return
        yield UInt32Value(value=self._status)
        await self._stopping.wait()
        yield UInt32Value(value=NOT_SERVING)


def _about() -> tuple[tuple[str, str], ...]:
    return ("edgejoule-version", software_version()), ("edgejoule-layout", str(LAYOUT))
