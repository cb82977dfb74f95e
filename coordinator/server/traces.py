"""The power of boards as it is, for those who look: asked for while a call of an operator is open, and kept nowhere.

Rules kept here:

* A board is asked only while somebody looks at that board, with the answer to a call of its own that waits; nobody else
  is asked. One that does not begin is asked ever more rarely.
* What comes goes to those who look, each by a queue of its own that holds a few seconds. Who is too slow loses the
  oldest of it, and is told how much.
* Nothing is stored, and no round depends on it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from coordinator.server.fleet import Fleet
from coordinator.store import clock
from protos.catalog import hint
from protos.energy.bins import PowerBins
from protos.errors import RefusedError, UnknownRunError

__all__ = ["MOST_VIEWERS", "Seen", "Traces"]

MOST_VIEWERS = 32
HELD = 32
"""Messages that wait for one viewer: sixteen seconds."""
SILENT_S = 5.0
"""Without a message for so long a board does not send, and is asked again."""
MOST_SILENT_S = 60.0


@dataclass(frozen=True)
class Seen:
    """What is new for one viewer.

    Attributes:
        bins: on the board's own clock; None: nothing came.
        reason: what is wrong with them, or why there are none; empty when nothing is.
        skipped: messages so far that this viewer was too slow for.
    """

    bins: PowerBins | None
    reason: str = ""
    skipped: int = 0


@dataclass
class _Viewer:
    waiting: deque[tuple[PowerBins, str]] = field(default_factory=deque)
    skipped: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Board:
    """A board that is looked at. It is asked when ``due_s`` has passed, and then ``wait_s`` later."""

    viewers: list[_Viewer] = field(default_factory=list)
    due_s: float = float("-inf")
    wait_s: float = field(default_factory=lambda: SILENT_S)
    heard: bool = False


class Traces:
    """The boards that are looked at.

    Args:
        fleet: who is here.
        publish: ends the calls that wait, so that their devices are told what is new.
        now_s: a monotonic clock.
    """

    def __init__(self, fleet: Fleet, publish: Callable[[], None], now_s: Callable[[], float] = clock.now_s) -> None:
        self._fleet, self._publish, self._now_s = fleet, publish, now_s
        self._boards: dict[str, _Board] = {}
        self._closing = False
        self.messages = self.bins = 0
        """That devices sent since the start."""

    @property
    def viewers(self) -> int:
        """How many look on."""
        return sum(len(board.viewers) for board in self._boards.values())

    def release(self) -> None:
        """End what is open: the coordinator stops."""
        self._closing = True
        for board in self._boards.values():
            for viewer in board.viewers:
                viewer.news.set()

    def is_due(self, device_id: str) -> bool:
        """Whether this device is to be asked for its power now."""
        board = self._boards.get(device_id)
        return board is not None and self._now_s() >= board.due_s

    def ask(self, device_id: str) -> bool:
        """Whether the answer that is being given asks for it; not again for a while."""
        if not self.is_due(device_id):
            return False
        board = self._boards[device_id]
        board.due_s = self._now_s() + board.wait_s
        board.wait_s = min(MOST_SILENT_S, 2 * board.wait_s)
        return True

    def told(self, device_id: str, bins: PowerBins, reason: str, *, ends: bool) -> bool:
        """Bins of a device; whether it is to go on."""
        self.messages += 1
        self.bins += len(bins)
        board = self._boards.get(device_id)
        if board is None:
            return False
        board.heard = True
        if ends:
            board.due_s = self._now_s() + MOST_SILENT_S
        else:
            board.due_s, board.wait_s = self._now_s() + SILENT_S, SILENT_S
        for viewer in board.viewers:
            if len(viewer.waiting) >= HELD:
                viewer.waiting.popleft()
                viewer.skipped += 1
            viewer.waiting.append((bins, reason))
            viewer.news.set()
        return not ends

    async def watch(self, device_id: str) -> AsyncGenerator[Seen, None]:
        """What a device measures, until the caller closes this.

        Raises:
            UnknownRunError: no device is called so.
            RefusedError: too many look on already.
        """
        if self._fleet.get(device_id) is None:
            known = [one.card.device_id for one in self._fleet]
            raise UnknownRunError("no device is called so", where=device_id[:80], fix=hint(device_id, known))
        if self.viewers >= MOST_VIEWERS:
            raise RefusedError(f"{MOST_VIEWERS} look at boards already", where="watts", fix="close another page")
        board = self._boards.setdefault(device_id, _Board())
        viewer = _Viewer()
        board.viewers.append(viewer)
        try:
            yield Seen(None, self._why_not(device_id, board))
            while not self._closing:
                if not viewer.waiting:
                    if self.is_due(device_id):
                        self._publish()
                    try:
                        async with asyncio.timeout(SILENT_S):
                            await viewer.news.wait()
                    except TimeoutError:
                        yield Seen(None, self._why_not(device_id, board), viewer.skipped)
                        continue
                    if not viewer.waiting:
                        return
                bins, reason = viewer.waiting.popleft()
                if not viewer.waiting:
                    viewer.news.clear()
                yield Seen(bins, reason, viewer.skipped)
        finally:
            board.viewers.remove(viewer)
            if not board.viewers:
                del self._boards[device_id]

    def _why_not(self, device_id: str, board: _Board) -> str:
        member = self._fleet.get(device_id)
        if member is None or member.state != "present":
            return f"{device_id} {'has left' if member is None or member.state == 'left' else 'is away'}"
        if board.heard:
            return f"nothing came from {device_id} for a while; it is asked again"
        if board.wait_s > 2 * SILENT_S:
            version = member.card.software_version or "unknown"
            return f"{device_id} was asked and sends nothing: is its software ({version}) too old for this?"
        return f"{device_id} is asked"
