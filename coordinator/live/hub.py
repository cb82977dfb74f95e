"""One poll for all who look on: a task follows a run while somebody watches it, and tells each viewer what changed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any

from coordinator.live.following import Following, changes
from coordinator.operator.client import Operator
from protos.errors import EdgejouleError, RefusedError

__all__ = ["MOST_RUNS", "MOST_VIEWERS", "Hub", "Hubs"]

log = logging.getLogger("edgejoule.dashboard")

POLL_S = 2.0
SHARE = 20
"""A poll that took the coordinator t seconds is followed by a rest of at least so many times t: 5 % of it at most."""
LONGEST_S = 60.0
HEARTBEAT_S = 15.0
MOST_RUNS = 4
MOST_VIEWERS = 64
ROWS = 100
"""Rounds or devices in one event of the state."""
# A viewer that is so many messages behind is given the whole state again instead.
_BEHIND = 8


class _Whole:
    """In a viewer's queue: the state as it is when its turn comes."""


class Hub:
    """Follows one run for its viewers.

    Args:
        connect: makes a connection to the coordinator.
        run: see :class:`coordinator.live.following.Following`.
    """

    def __init__(self, connect: Callable[[], Operator], run: str) -> None:
        self._connect, self._run = connect, run
        self._viewers: set[asyncio.Queue[str | _Whole | None]] = set()
        self._state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self.polls = 0
        self.sent_bytes = 0

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def start(self) -> None:
        """Begin to poll."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop polling, and end what viewers wait for."""
        for queue in self._viewers:
            queue.put_nowait(None)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-sent events for one viewer: the state in pages, then what changes."""
        queue: asyncio.Queue[str | _Whole | None] = asyncio.Queue()
        self._viewers.add(queue)
        try:
            if self._state:
                queue.put_nowait(_Whole())
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if message is None:
                    return
                if queue.qsize() > _BEHIND:
                    while not queue.empty():
                        if queue.get_nowait() is None:
                            return
                    message = _Whole()
                for part in [message] if isinstance(message, str) else self._pages(self._state):
                    self.sent_bytes += len(part)
                    yield part
        finally:
            self._viewers.discard(queue)

    async def _follow(self) -> None:
        connection = self._connect()
        try:
            following = Following(connection, self._run)
            wait_s = POLL_S
            while True:
                began_s = time.monotonic()
                try:
                    found = await asyncio.to_thread(following.poll)
                    found["trouble"] = ""
                    wait_s = min(LONGEST_S, max(POLL_S, SHARE * (time.monotonic() - began_s)))
                except EdgejouleError as error:
                    # The last figures stay, with the word that they are old.
                    found = {**self._state, "trouble": str(error)}
                    wait_s = min(LONGEST_S, wait_s * 1.5)
                except Exception as error:
                    log.exception("a poll failed")
                    found = {**self._state, "trouble": f"the dashboard's own fault: {type(error).__name__}"}
                    wait_s = min(LONGEST_S, wait_s * 1.5)
                found["pause_s"] = round(wait_s, 1)
                self.polls += 1
                self._tell(found)
                await asyncio.sleep(wait_s)
        finally:
            connection.close()

    def _tell(self, found: dict[str, Any]) -> None:
        message: str | _Whole | None = _Whole() if not self._state else None
        if message is None and (different := changes(self._state, found)):
            message = self._event("change", different)
        self._state = found
        if message is not None:
            for queue in self._viewers:
                queue.put_nowait(message)

    @classmethod
    def _pages(cls, state: dict[str, Any]) -> Iterator[str]:
        """The whole of a state: its newest rounds and first devices, then the others page by page as changes, so that
        a fleet of any size begins to be shown at once."""
        rounds = sorted(state.get("rounds", {}).items(), key=lambda row: int(row[0]), reverse=True)
        devices = list(state.get("devices", {}).items())
        yield cls._event("state", {**state, "rounds": dict(rounds[:ROWS]), "devices": dict(devices[:ROWS])})
        for key, rows in (("rounds", rounds), ("devices", devices)):
            for begin in range(ROWS, len(rows), ROWS):
                yield cls._event("change", {key: dict(rows[begin : begin + ROWS])})

    @staticmethod
    def _event(kind: str, value: dict[str, Any]) -> str:
        told = {"at_unix_s": round(time.time(), 1), **value}
        return f"event: {kind}\ndata: {json.dumps(told, separators=(',', ':'), allow_nan=False)}\n\n"


class Hubs:
    """The runs that somebody looks at."""

    def __init__(self, connect: Callable[[], Operator]) -> None:
        self._connect = connect
        self.by_run: dict[str, Hub] = {}

    async def watch(self, run: str) -> AsyncIterator[str]:
        """Events of one run; it is polled while anybody watches it.

        Raises:
            RefusedError: too many look on already.
        """
        self._check(run)
        return self._events(run)

    def _check(self, run: str) -> None:
        if sum(hub.viewers for hub in self.by_run.values()) >= MOST_VIEWERS:
            raise RefusedError("too many viewers", fix="close another page")
        if run not in self.by_run and len(self.by_run) >= MOST_RUNS:
            raise RefusedError(f"{MOST_RUNS} runs are watched already", fix="look at one of them, or close a page")

    async def _events(self, run: str) -> AsyncIterator[str]:
        try:
            # Again: others may have begun to look since this one was let in.
            self._check(run)
        except RefusedError as error:
            yield Hub._event("change", {"trouble": str(error)})
            return
        # Here and not before: of a browser that hung up before its first event nothing is left that polls.
        hub = self.by_run.setdefault(run, Hub(self._connect, run))
        hub.start()
        try:
            async with aclosing(hub.events()) as events:
                async for message in events:
                    yield message
        finally:
            if not hub.viewers and self.by_run.get(run) is hub:
                del self.by_run[run]
                await hub.close()

    async def close(self) -> None:
        """End all of it."""
        for hub in list(self.by_run.values()):
            await hub.close()
        self.by_run.clear()
