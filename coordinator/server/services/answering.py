"""Wrappers around service methods: our errors become statuses, surprises become one logged line and INTERNAL."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from coordinator.operator.failures import metadata_of, status_of
from coordinator.server.services.unfinished import OutOfStepError
from coordinator.server.services.uploads import OversizedError
from protos.errors import EdgejouleError

log = logging.getLogger("edgejoule.coordinator")

R = TypeVar("R")


def answered(method: Callable[[Any, Any, Any], Awaitable[R]]) -> Callable[[Any, Any, Any], Awaitable[R]]:
    """For a method with one answer."""

    @functools.wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> R:
        try:
            return await method(self, request, context)
        except Exception as error:
            await abort(error, context)
            raise

    return wrapped


def answered_stream(
    method: Callable[[Any, Any, Any], AsyncGenerator[R, None]],
) -> Callable[[Any, Any, Any], AsyncIterator[R]]:
    """For a method whose answer is a stream."""

    @functools.wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> AsyncIterator[R]:
        try:
            # Closed with this one when its caller hangs up, and not by the collector of garbage some time later.
            async with aclosing(method(self, request, context)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:
            await abort(error, context)
            raise

    return wrapped


async def abort(error: Exception, context: Any) -> None:
    """End a call with an error: ours with their status and parts, others with INTERNAL and one logged line."""
    if isinstance(error, OversizedError):
        log.warning("refused: %s", error)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), metadata_of(error))
    if isinstance(error, OutOfStepError):
        # Nothing is wrong with the report: its device asks again how much is here.
        log.info("refused: %s", error)
        await context.abort(grpc.StatusCode.ABORTED, str(error), metadata_of(error))
    if isinstance(error, EdgejouleError):
        log.warning("refused: %s", error)
        await context.abort(status_of(error), str(error), metadata_of(error))
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the call took too long")
    if not isinstance(error, grpc.aio.AbortError):
        log.exception("internal error")
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}; see the log")
