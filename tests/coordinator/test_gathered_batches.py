"""Under load the next batch waits a moment for more, and nobody else waits for anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coordinator.run import batching
from coordinator.run.batching import CROWD, FULL, Batching
from coordinator.server.services import device_service
from coordinator.server.services.device_service import DeviceService
from protos.orders import CodecOrder, TrainOrder
from protos.update.tensors import as_float32


class Played:
    """A batching whose moments of waiting end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gathers: bool = True) -> None:
        self.batches: list[int] = []
        self.asked_s: list[float] = []
        self.over = asyncio.Event()
        monkeypatch.setattr(batching, "asyncio", SimpleNamespace(**(vars(asyncio) | {"sleep": self._sleep})))
        self.batching: Batching[int, int] = Batching(self._work, gathers=gathers)
        self.tasks: list[asyncio.Task[int]] = []

    async def _sleep(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await self.over.wait()

    async def _work(self, items: list[int]) -> list[int]:
        self.batches.append(len(items))
        return items

    async def come(self, count: int) -> None:
        """So many items, at once."""
        self.tasks += [asyncio.create_task(self.batching.do(at)) for at in range(count)]
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """All of them are answered."""
        self.over.set()
        await asyncio.gather(*self.tasks)


def _run(monkeypatch: pytest.MonkeyPatch, body: Callable[[Played], Awaitable[None]], **how: Any) -> Played:
    async def play() -> Played:
        played = Played(monkeypatch, **how)
        await body(played)
        await played.end()
        return played

    return asyncio.run(play())


def test_after_a_crowd_those_who_come_within_a_moment_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(played: Played) -> None:
        await played.come(CROWD)
        assert played.batches == [CROWD]
        await played.come(1)
        await played.come(5)
        assert played.batches == [CROWD], "the moment is not over"

    played = _run(monkeypatch, body)
    assert played.batches == [CROWD, 6]
    assert played.asked_s == [batching.GATHER_S]


def test_few_are_served_at_once_and_so_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(played: Played) -> None:
        for count in (CROWD - 1, 1, FULL, FULL):
            await played.come(count)

    played = _run(monkeypatch, body)
    assert played.batches == [CROWD - 1, 1, FULL, FULL]
    assert not played.asked_s


def test_without_being_told_to_gather_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(played: Played) -> None:
        await played.come(CROWD)
        await played.come(1)

    played = _run(monkeypatch, body, gathers=False)
    assert played.batches == [CROWD, 1]


def _order(coordinates: int) -> TrainOrder:
    head = as_float32({"kernel": np.zeros(coordinates, np.float32)})
    codec = CodecOrder("entropy_coded", {})
    return TrainOrder("run-1", 1, "p", "b", "h", head, 5, {}, codec, None, 60.0, 1)


class _Call:
    """The coordinator's side of one call."""

    def __init__(self) -> None:
        self.ends: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.ends.append(callback)


def test_orders_leave_one_after_the_other_and_a_line_that_hangs_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_service, "MOST_LEAVING_BYTES", 4000)

    async def play() -> None:
        service = DeviceService(None)  # type: ignore[arg-type]
        calls = [_Call() for _ in range(3)]
        monkeypatch.setattr(device_service, "ROOM_S", 3600.0)
        await service._make_room(_order(900), calls[0])
        second = asyncio.create_task(service._make_room(_order(900), calls[1]))
        await asyncio.sleep(0.01)
        assert not second.done()
        calls[0].ends[0](calls[0])
        await second
        # The second hangs. The third waits for so long, and goes on without room.
        monkeypatch.setattr(device_service, "ROOM_S", 0.01)
        await service._make_room(_order(900), calls[2])
        assert calls[2].ends == []
        calls[1].ends[0](calls[1])
        assert service._leaving.used_bytes == 0

    asyncio.run(play())
