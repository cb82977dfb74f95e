"""The power of a board as server-sent events: one call to the coordinator for each viewer, for as long as they look."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from coordinator.operator.client import Operator
from coordinator.operator.watts import WattsSeen
from protos.energy.bins import PowerBins
from protos.energy.trace import Floats
from protos.errors import EdgejouleError, RefusedError

__all__ = ["MOST_TRACES", "TraceStreams", "event_of"]

log = logging.getLogger("edgejoule.dashboard")

MOST_TRACES = 8
HEARTBEAT_S = 15.0
# Events that wait for a browser that is slow; then the oldest go, which shows as time without figures.
_MOST_WAITING = 64


class TraceStreams:
    """The boards that somebody looks at through this page.

    Args:
        connect: makes a connection to the coordinator.
    """

    def __init__(self, connect: Callable[[], Operator]) -> None:
        self._connect = connect
        self._open: set[_Stream] = set()
        self.events = self.sent_bytes = 0

    @property
    def viewers(self) -> int:
        return len(self._open)

    def watch(self, device_id: str) -> AsyncIterator[str]:
        """Events of one board.

        Raises:
            RefusedError: too many look on already.
        """
        self._check()
        return self._events(device_id)

    def _check(self) -> None:
        if len(self._open) >= MOST_TRACES:
            raise RefusedError(f"{MOST_TRACES} boards are looked at already", fix="close another page")

    async def _events(self, device_id: str) -> AsyncIterator[str]:
        try:
            # Again: others may have begun to look since this one was let in.
            self._check()
        except RefusedError as error:
            yield _event("trouble", {"reason": str(error)})
            return
        stream = _Stream(self._connect, device_id)
        self._open.add(stream)
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    self.events += 1
                    self.sent_bytes += len(event)
                    yield event
        finally:
            self._open.discard(stream)
            stream.end()

    async def close(self) -> None:
        """End all of it."""
        for stream in list(self._open):
            stream.end()


class _Stream:
    """One viewer of one board: a thread waits for the coordinator, and hands over what comes."""

    def __init__(self, connect: Callable[[], Operator], device_id: str) -> None:
        self._connect, self._device_id = connect, device_id
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._call: Any = None
        self._ended = False

    async def events(self) -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._follow, args=(loop,), name="watts", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if event is None:
                    return
                yield event
        finally:
            self.end()

    def end(self) -> None:
        """End the call, and who waits for it."""
        with self._lock:
            self._ended, call = True, self._call
        if call is not None:
            call.end()
        self._put(None)

    def _put(self, event: str | None) -> None:
        while self._queue.qsize() >= _MOST_WAITING:
            self._queue.get_nowait()
        self._queue.put_nowait(event)

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        def hand(event: str | None) -> None:
            try:
                loop.call_soon_threadsafe(self._put, event)
            except RuntimeError:
                # The loop is over: nobody looks any more.
                self._ended = True

        try:
            connection = self._connect()
            try:
                with self._lock:
                    call = None if self._ended else connection.watch_watts(self._device_id)
                    self._call = call
                for seen in call or ():
                    hand(event_of(seen))
            finally:
                connection.close()
        except EdgejouleError as error:
            hand(_event("trouble", {"reason": str(error)}))
        except Exception as error:
            log.exception("watts cannot be shown")
            hand(_event("trouble", {"reason": f"the dashboard's own fault: {type(error).__name__}"}))
        hand(None)


def event_of(seen: WattsSeen) -> str:
    """What a viewer is given: first_s and bin_s, and for each bin the mean, the least, the largest (W, 4 digits; null
    where nothing is covered), and the covered seconds where they are not all of each bin."""
    told: dict[str, Any] = {"reason": seen.reason, "skipped": seen.skipped}
    bins = seen.bins
    if bins is not None and len(bins):
        told |= {
            "first_s": round(bins.first_s, 6),
            "bin_s": bins.bin_s,
            "mean_w": _figures(bins, bins.mean_w),
            "low_w": _figures(bins, bins.low_w),
            "high_w": _figures(bins, bins.high_w),
        }
        if (bins.covered_s < 0.9999 * bins.bin_s).any():
            told["covered_s"] = [float(f"{one:.4g}") for one in bins.covered_s]
    return _event("watts", told)


def _figures(bins: PowerBins, values: Floats) -> list[float | None]:
    return [
        float(f"{value:.4g}") if covered > 0 else None for value, covered in zip(values, bins.covered_s, strict=True)
    ]


def _event(kind: str, value: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(value, separators=(',', ':'), allow_nan=False)}\n\n"
