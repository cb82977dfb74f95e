"""Plans that start by themselves: looked after while the coordinator serves.

A time that comes is decided once: its run is written down and waits for its turn like any other, or it is missed. It
is missed when nobody could start it in time (:func:`late_s`), when the run of an earlier time is not over, or when the
plan, its bundle or its data cannot be used any more. What was missed is told, in the log, in the events of the schedule
and by `coordinator status`; it is not made up for: boards that were meant to train at night should not begin in the
morning.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

from coordinator.run.workers import Store
from coordinator.store import clock, schedules
from coordinator.store.schedules import Schedule
from protos.errors import EdgejouleError, StoreError
from protos.plan.plan import parse
from protos.plan.schedule import Times, in_words

log = logging.getLogger("edgejoule.coordinator")

# So much later a time may still be taken: a coordinator that is started again does not lose the night.
LATE_S = 900.0
# A wall clock may be set meanwhile: it is read so often.
LOOK_S = 30.0
RETRY_S = 1.0

AWAY = "the coordinator was away or busy"


def late_s(times: Times) -> float:
    """How late a run may still be started: a quarter of an hour, and at most half of the time between two."""
    return LATE_S if times.every_s is None else min(LATE_S, times.every_s / 2)


class Schedules:
    """Decides the times of all schedules of a coordinator.

    Args:
        store: where they stand.
        begin: writes the run of one time down; False when somebody else decided it.
    """

    def __init__(self, store: Store, begin: Callable[[Schedule, float], Awaitable[bool]]) -> None:
        self._store, self._begin = store, begin
        self._wanted = asyncio.Event()
        self._said: dict[str, str] = {}

    def want(self) -> None:
        """A schedule has come, or changed."""
        self._wanted.set()

    def say(self, run_id: str) -> str:
        """What there is to say of a schedule: when it starts next, what it started last, what it missed."""
        return self._said.get(run_id, "its next time is being looked for")

    async def keep(self) -> None:
        """Decide times as they come, for ever."""
        while True:
            self._wanted.clear()
            looked_s = clock.unix_s()
            try:
                next_s = await self._look()
            except StoreError as error:
                log.error("%s; schedules are looked at again", error)
                next_s = clock.unix_s() + RETRY_S
            except Exception:
                log.exception("internal error in schedules; they are looked at again")
                next_s = clock.unix_s() + RETRY_S
            # A clock that was put back is another one: what comes next is looked for anew.
            while not self._wanted.is_set() and looked_s <= (now_s := clock.unix_s()) < next_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), min(LOOK_S, next_s - now_s))

    async def _look(self) -> float:
        """Decide what is due; returns when there is something to decide again, Unix seconds."""
        found = await self._store.do(schedules.all_of)
        first_s, said = math.inf, {}
        for schedule in found:
            try:
                times = parse(schedule.row["plan_toml"], where=schedule.row["name"]).times
            except EdgejouleError as error:
                said[schedule.run_id] = f"cannot start: {error}"
                continue
            assert times is not None
            if await self._decide(schedule, times):
                # What it says is of what stands on disk now.
                first_s = 0.0
            next_s = times.next(max(clock.unix_s(), schedule.decided_s), schedule.begun_s)
            said[schedule.run_id] = _words(schedule, next_s)
            first_s = min(first_s, next_s)
        self._said = said
        return first_s

    async def _decide(self, schedule: Schedule, times: Times) -> bool:
        """Decide all that is due of one schedule; whether anything was."""
        now_s = clock.unix_s()
        count, first_s, due_s = times.due(schedule.decided_s, now_s, schedule.begun_s)
        if first_s is None or due_s is None:
            return False
        late = now_s - due_s > late_s(times)
        if count > 1 or late:
            missed_s = due_s if late else times.due(schedule.decided_s, due_s - 1, schedule.begun_s)[2]
            assert missed_s is not None
            await self._miss(schedule, missed_s, count if late else count - 1, AWAY, first_s)
        if late:
            return True
        if schedule.newest_goes_on:
            await self._miss(schedule, due_s, 1, f"{schedule.newest}, which it started before, is not over", due_s)
            return True
        try:
            if await self._begin(schedule, due_s):
                log.info("%s: its time of %s has come", schedule.run_id, in_words(due_s))
        except StoreError:
            # A full disk is no fault of the plan: there is time to try again.
            raise
        except EdgejouleError as error:
            await self._miss(schedule, due_s, 1, str(error), due_s)
        return True

    async def _miss(self, schedule: Schedule, due_s: float, count: int, why: str, first_s: float) -> None:
        if await self._store.do(schedules.miss, schedule.run_id, due_s, count, why):
            since = f" since {in_words(first_s)}" if count > 1 else ""
            log.warning("%s: missed %s (%d%s): %s", schedule.run_id, in_words(due_s), count, since, why)


def _words(schedule: Schedule, next_s: float) -> str:
    parts = [f"next {in_words(next_s)}"]
    if schedule.newest:
        parts.append(f"newest {schedule.newest}")
    if schedule.missed:
        parts.append(f"missed {schedule.missed}, last {schedule.missed_last}")
    return "; ".join(parts)
