"""Plans that start by themselves: at their times, once each, over restarts; missed ones are told."""

from __future__ import annotations

import asyncio
import contextvars
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from counted_costs import counted
from plain_bundle import make_plain_bundle

from coordinator import cli
from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from coordinator.run import run_transactions
from coordinator.run.resume import Rooms
from coordinator.run.workers import Store
from coordinator.server import schedules as server_schedules
from coordinator.server.operations import Operations
from coordinator.server.run_scheduler import RunScheduler
from coordinator.simulation.virtual_time import EPOCH_UNIX_S, VirtualLoop, VirtualWorker
from coordinator.store import clock, runs, schedules
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models.bundle_store import BundleStore
from coordinator.store.pruning import prune
from protos.errors import RefusedError
from protos.orders import Verdict

Fleet = Callable[..., Any]
HOUR, DAY = 3600.0, 86_400.0


class World:
    """A coordinator's books and its schedules on virtual time, Monday 2026-01-05 06:00 UTC at first; no device."""

    def __init__(self, home: Path, tools: Any) -> None:
        self.home, self.tools = home, tools
        self.bundle = make_plain_bundle(home / "plain")
        self.db = Database(sqlite_url(home / "coordinator.db"))
        self.operations = self._operations()

    def _operations(self) -> Operations:
        stores = [Store(self.db, VirtualWorker()) for _ in range(2)]
        workers = [VirtualWorker() for _ in range(2)]
        rooms = Rooms(*stores, *workers, BundleStore(self.home / "bundles"), self.home / "evaluations")
        return Operations(rooms, RunScheduler(rooms))

    @asynccontextmanager
    async def serving(self) -> Any:
        """A coordinator that is there, anew each time."""
        self.operations = self._operations()
        task = asyncio.create_task(self.operations.schedules.keep())
        try:
            await asyncio.sleep(0.1)
            yield self.operations
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def start(self, line: str) -> str:
        text = self.tools.plan(self.bundle).replace("[run]\n", f"[run]\n{line}\n")
        return await self.operations.start_run(text, str(self.home))

    async def all(self) -> list[RunStatus]:
        return (await self.operations.status())[0]

    async def begun(self) -> list[str]:
        """When each run was written down, as day and time."""
        found = [run for run in await self.all() if run.run_id.startswith("run-")]
        return [schedules._stamp(run.started_unix_s)[5:16] for run in found]

    async def end_all(self) -> None:
        """What devices do."""
        for run in await self.all():
            if run.run_id.startswith("run-") and not run.is_over:
                run_transactions.end_run(self.db, run.run_id, "finished", "")

    async def reason(self, run_id: str) -> str:
        return (await self.operations.status(run_id))[0][0].reason


@pytest.fixture
def played(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[World], Awaitable[None]]], None]]:
    """`played(story)`: the story of a coordinator, told on virtual time."""
    # Nobody sets the virtual clock.
    monkeypatch.setattr(server_schedules, "LOOK_S", 2 * HOUR)
    world = World(tmp_path, tools)

    def play(story: Callable[[World], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            loop = runner.get_loop()
            with clock.shown(loop.time, lambda: EPOCH_UNIX_S + loop.time()):
                runner.run(story(world), context=contextvars.copy_context())  # type: ignore[arg-type]

    yield play
    world.db.close()


def test_a_run_begins_at_each_time_and_never_twice_however_often_the_coordinator_is_started(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('schedule = "daily 02:00"')
            assert (await world.all())[0].state == "scheduled"
            await asyncio.sleep(DAY)
            assert await world.begun() == ["01-06T02:00"]
            await world.end_all()
        for _ in range(3):
            async with world.serving():
                await asyncio.sleep(1)
        assert await world.begun() == ["01-06T02:00"]
        async with world.serving():
            await asyncio.sleep(DAY)
            assert await world.begun() == ["01-06T02:00", "01-07T02:00"]
            newest = (await world.all())[-1].run_id
            assert await world.reason(schedule) == f"next 2026-01-08 02:00 UTC; newest {newest}"
            given = (await world.operations.details(newest)).plan_toml
            assert "schedule" not in given, "the plan of a run starts one run"
            text = (await world.operations.details(schedule)).plan_toml
            assert given == text.replace('schedule = "daily 02:00"\n', "")

    played(story)


def test_a_restart_across_a_time_begins_its_run_late_and_a_longer_absence_misses_it(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('schedule = "daily 02:00"')
            await asyncio.sleep(19 * HOUR + 3590)
        await asyncio.sleep(600)
        async with world.serving():
            assert await world.begun() == ["01-06T02:09"]
            await world.end_all()
        await asyncio.sleep(3 * DAY + HOUR)
        async with world.serving():
            assert await world.begun() == ["01-06T02:09"]
            newest = (await world.all())[-1].run_id
            assert await world.reason(schedule) == (
                f"next 2026-01-10 02:00 UTC; newest {newest}; missed 3, last 2026-01-09 02:00 UTC: the coordinator was "
                "away or busy"
            )
        async with world.serving():
            await asyncio.sleep(DAY)
            assert await world.begun() == ["01-06T02:09", "01-10T02:00"]
            assert "missed 3," in await world.reason(schedule), "told once"

    played(story)


def test_a_time_at_which_the_run_before_is_not_over_is_missed(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('every = "6h"')
            await asyncio.sleep(13 * HOUR)
            assert await world.begun() == ["01-05T06:00"]
            newest = (await world.all())[-1].run_id
            told = f"missed 2, last 2026-01-05 18:00 UTC: {newest}, which it started before, is not over"
            assert (await world.reason(schedule)).endswith(told)
            await world.end_all()
            await asyncio.sleep(6 * HOUR)
            assert await world.begun() == ["01-05T06:00", "01-06T00:00"]

    played(story)


def test_a_plan_whose_bundle_has_gone_misses_its_time_with_the_reason_and_begins_when_it_is_back(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('schedule = "daily 02:00"')
            away = world.bundle.rename(world.home / "away")
            await asyncio.sleep(DAY)
            assert await world.begun() == []
            assert "missed 1, last 2026-01-06 02:00 UTC: " in await world.reason(schedule)
            assert "plain" in await world.reason(schedule)
            away.rename(world.bundle)
            await asyncio.sleep(DAY)
            assert await world.begun() == ["01-07T02:00"]

    played(story)


def test_times_of_a_pause_are_none_and_a_schedule_that_is_stopped_starts_no_more(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('every = "6h"')
            await asyncio.sleep(HOUR)
            await world.end_all()
            assert await world.operations.pause_run(schedule, after_round=False) == "paused"
            await asyncio.sleep(20 * HOUR)
            assert await world.operations.resume_run(schedule, "", "") == "scheduled"
            await asyncio.sleep(4 * HOUR)
            assert await world.begun() == ["01-05T06:00", "01-06T06:00"], "on its own grid"
            assert "missed" not in await world.reason(schedule)
            await world.end_all()
            assert await world.operations.stop_run(schedule) == "stopped"
            assert (await world.operations.status(schedule))[0][0].reason == "starts no more runs"
            await asyncio.sleep(20 * HOUR)
            assert len(await world.begun()) == 2
            assert not (await world.all())[0].is_on

    played(story)


def test_a_paused_schedule_goes_on_by_another_plan_with_times_and_by_none_without(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('every = "6h"')
            await asyncio.sleep(1)
            await world.end_all()
            await world.operations.pause_run(schedule, after_round=False)
            plain = world.tools.plan(world.bundle, rounds=4)
            with pytest.raises(RefusedError, match="starts by itself and one that does not"):
                await world.operations.resume_run(schedule, plain, str(world.home))
            other = plain.replace("[run]\n", '[run]\nevery = "2h"\n')
            assert await world.operations.resume_run(schedule, other, str(world.home)) == "scheduled"
            await asyncio.sleep(3 * HOUR)
            assert await world.begun() == ["01-05T06:00", "01-05T08:00"]
            assert (await world.all())[-1].rounds_planned == 4

    played(story)


def test_a_clock_that_was_a_year_ahead_for_a_while_costs_no_more_times_than_that(played: Any) -> None:
    async def story(world: World) -> None:
        ahead_s = 0.0
        loop = asyncio.get_running_loop()
        with clock.shown(loop.time, lambda: EPOCH_UNIX_S + loop.time() + ahead_s):
            async with world.serving():
                schedule = await world.start('schedule = "daily 02:00"')
                await asyncio.sleep(DAY)
                await world.end_all()
                ahead_s = 365 * DAY
                await asyncio.sleep(3 * HOUR)
                assert "next 2027-01-07 02:00 UTC" in await world.reason(schedule)
                assert "missed 365" in await world.reason(schedule)
                ahead_s = 0.0
                await asyncio.sleep(DAY)
                assert await world.begun() == ["01-06T02:00", "01-07T02:00"]
                assert "next 2026-01-08 02:00 UTC" in await world.reason(schedule)

    played(story)


def test_one_time_is_written_down_once_whoever_else_tries(played: Any, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            await world.start('every = "6h"')
            await asyncio.sleep(1)
        (one,) = schedules.all_of(world.db)
        due_s = EPOCH_UNIX_S
        assert not await world.operations.start_due(one, due_s), "decided"
        assert not schedules.miss(world.db, one.run_id, due_s, 1, "late")
        assert len(await world.begun()) == 1
        # A run whose beginning was written, and whose event was lost with a restored copy of its schedule's events.
        with world.db.writing() as connection:
            connection.execute(schedules.events.delete().where(schedules.events.c.run_id == one.run_id))
        assert not await world.operations.start_due(one, due_s), "its id is taken"
        assert schedules.all_of(world.db)[0].decided_s == due_s, "else it is looked at again without end"
        assert len(await world.begun()) == 1

    played(story)


def test_what_a_look_at_a_schedule_costs_does_not_grow_with_its_life(
    played: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('every = "1h"')
            await asyncio.sleep(1)
        (first,) = await world.begun()
        (newest,) = [run.run_id for run in await world.all() if run.run_id != schedule]
        at_s, missed, costs = EPOCH_UNIX_S, 0, []
        for times in (70, 630):
            for _ in range(times):
                at_s, missed = at_s + HOUR, missed + 2
                assert schedules.miss(world.db, schedule, at_s, 2, f"reason {missed}")
            # The clock that wrote it all, and one that is right: with the first, all of it has come.
            with clock.shown(lambda: 0.0, lambda: at_s):  # noqa: B023
                with counted(monkeypatch) as cost:
                    (one,) = schedules.all_of(world.db)
                assert (one.decided_s, one.newest, one.missed) == (at_s, newest, missed)
                assert one.missed_last.endswith(f"reason {missed}")
                assert not schedules.miss(world.db, schedule, at_s, 1, "again"), "decided"
            costs.append(cost)
        assert first == "01-05T06:00"
        few, many = costs
        assert many["steps"] < 2 * few["steps"]
        assert many["statements"] <= few["statements"] + 1
        shown = (await world.operations.details(schedule)).events
        assert [one.kind for one in shown] == ["begun"] + 700 * ["missed"], "people are shown what happened, as it was"
        # By the clock that is right only the times of a day from now are decided: the others are to come.
        (one,) = schedules.all_of(world.db)
        assert (one.decided_s, one.missed) == (EPOCH_UNIX_S + DAY, missed)

    played(story)


def test_a_schedule_outlives_what_is_pruned(played: Any) -> None:
    async def story(world: World) -> None:
        async with world.serving():
            schedule = await world.start('every = "1h"')
            await asyncio.sleep(1)
            await world.end_all()
            await asyncio.sleep(HOUR - 2)
            done = prune(world.db, world.home, older_than_s=0, now_unix_s=clock.unix_s() + 9e6)
            assert len(done.runs) == 1
            await asyncio.sleep(2)
            assert (await world.all())[0].run_id == schedule
            assert await world.begun() == ["01-05T07:00"], "the one that was pruned is not begun anew"

    played(story)


def test_a_served_coordinator_runs_a_scheduled_plan_and_does_not_repeat_it_after_it_was_killed(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, ready = tmp_path / "state", tmp_path / "ready"
    plan = tmp_path / "plan.toml"
    plan.write_text(tools.plan(plain_bundle))

    def serve() -> tuple[subprocess.Popen[bytes], str]:
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(state), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.DEVNULL, stdout=-3)
        tools.until(lambda: ready.exists() or process.poll() is not None, "the server")
        return process, ready.read_text().strip()

    process, address = serve()
    try:
        assert cli.main(["start", str(plan), "--every", "12h", "--wait", "--coordinator", address]) == 2
        assert "a plan that starts runs by itself is never over; leave --wait out" in capsys.readouterr().err
        assert cli.main(["start", str(plan), "--every", "12h", "--json", "--coordinator", address]) == 0
        schedule = json.loads(capsys.readouterr().out)["run_id"]
        device = fleet(address, "a")
        device.join()
        with Operator(address) as operator:
            order = device.order()
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
            done = tools.finished(operator, order.run_id)
            assert (done.state, done.name) == ("finished", "test")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, address = serve()
        with Operator(address) as operator:
            tools.until(lambda: "newest" in operator.status(schedule)[0].reason, "a look at the schedule")
            assert [run.run_id for run in operator.runs()] == [schedule, order.run_id]
        assert cli.main(["wait", schedule, "--coordinator", address]) == 2
        assert "wait for one of its runs" in capsys.readouterr().err
        assert cli.main(["status", "--coordinator", address]) == 0
        assert "scheduled" in capsys.readouterr().out
        assert cli.main(["status", schedule, "--coordinator", address]) == 0
        assert "round  state" not in (said := capsys.readouterr().out)
        assert f"{schedule} test: scheduled, started" in said.replace("\n", " ")
        assert cli.main(["stop", schedule, "--coordinator", address]) == 0
    finally:
        process.kill()
        process.wait()
    assert runs.SCHEDULED in runs.OPEN_STATES
