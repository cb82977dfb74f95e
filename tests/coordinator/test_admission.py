"""What reports on their way in may weigh together."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.server.services.admission import Admission


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_reports_are_let_in_by_bytes_and_in_their_order() -> None:
    async def play() -> list[str]:
        admission, inside, done = Admission(100), [], {}

        async def report(name: str, size: int) -> None:
            async with admission.room(size):
                inside.append(name)
                await done.setdefault(name, asyncio.Event()).wait()

        tasks = [asyncio.create_task(report(*pair)) for pair in (("a", 60), ("b", 30), ("c", 50), ("d", 5), ("e", 400))]
        await _turn()
        assert inside == ["a", "b"], "d would fit, and would starve c"
        assert admission.used_bytes == 90
        done["a"].set()
        await _turn()
        assert inside == ["a", "b", "c", "d"]
        for name in "bcd":
            done[name].set()
        await _turn()
        assert inside[-1] == "e", "alone, one may weigh more"
        done["e"].set()
        await asyncio.gather(*tasks)
        assert admission.used_bytes == 0
        return inside

    assert asyncio.run(play()) == list("abcde")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_device_that_hangs_up_while_it_waits_keeps_no_room(at_once: bool) -> None:
    async def play() -> None:
        admission, gate = Admission(10), asyncio.Event()

        async def report(size: int) -> None:
            async with admission.room(size):
                await gate.wait()

        first = asyncio.create_task(report(8))
        await _turn()
        second, third = asyncio.create_task(report(9)), asyncio.create_task(report(2))
        await _turn()
        if at_once:
            # Let in, and hung up before it could notice.
            first.cancel()
            await asyncio.sleep(0)
        second.cancel()
        await _turn()
        gate.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert admission.used_bytes == 0
        async with admission.room(10):
            assert admission.used_bytes == 10

    asyncio.run(play())
