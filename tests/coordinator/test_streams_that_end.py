"""What a stream holds is let go of when its caller hangs up, not when the collector of garbage comes by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from coordinator.server.services.answering import answered_stream


class _Service:
    def __init__(self) -> None:
        self.held = False

    @answered_stream
    async def Watch(self, request: Any, context: Any) -> AsyncGenerator[int, None]:  # noqa: N802
        self.held = True
        try:
            for number in range(100):
                yield number
        finally:
            # As a call of its own takes its time.
            await asyncio.sleep(0)
            self.held = False


def test_a_stream_that_its_caller_leaves_lets_go_at_once() -> None:
    async def look() -> bool:
        service = _Service()
        stream: Any = service.Watch(None, None)
        kept = [await anext(stream)]
        assert kept == [0]
        assert service.held
        await stream.aclose()
        return service.held

    assert asyncio.run(look()) is False
