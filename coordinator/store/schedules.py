"""What is written down of plans that start by themselves: their rows among the runs, and what became of each time.

A schedule is a row of ``runs`` in the state "scheduled". Each of its times that is decided, begun or missed, is an
event of that row, whose detail begins with the time; a run that is begun is written down in the same transaction. So a
time is decided once, whatever ends the process, and its newest decided time is all that a restart needs. Every
:data:`TOGETHER` events there is one that says what came of all before it: no look reads the whole life of a schedule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, RowMapping, select

from coordinator.store import clock, runs
from coordinator.store.database import Database
from coordinator.store.models import heads
from coordinator.store.tables import events
from coordinator.store.tables import runs as table
from protos.durations import DAY_S
from protos.plan.schedule import in_words
from protos.update.trees import Tree

BEGUN, MISSED, RESUMED = "begun", "missed", "resumed"
TOGETHER = 64
# What was decided so far ahead of now was decided by a clock that was wrong and is put right: those times are to come.
_AHEAD_S = DAY_S
_FORM = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Schedule:
    """One plan that starts by itself, as it is on disk.

    Attributes:
        begun_s: when it was given, in whole Unix seconds.
        decided_s: no time up to this one is to be decided any more.
        newest: the run that it started last, "" before any; and whether that is not over.
        missed: times that were missed so far, and of the newest of them when and why.
    """

    run_id: str
    row: RowMapping
    begun_s: float
    decided_s: float
    newest: str
    newest_goes_on: bool
    missed: int
    missed_last: str


def all_of(db: Database) -> list[Schedule]:
    """Every schedule that is neither over nor paused, in the order in which they were given."""
    with db.reading() as connection:
        query = select(table).where(table.c.state == runs.SCHEDULED).order_by(table.c.sequence)
        return [_schedule(connection, row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True)
class _Told:
    """What the events of a schedule say together.

    Attributes:
        read: how many were read for it.
    """

    decided_s: float
    newest: str
    missed: int
    missed_last: str
    read: int


def _schedule(connection: Connection, row: RowMapping) -> Schedule:
    told = _told(connection, row)
    goes_on = bool(told.newest) and runs.exists(connection, told.newest)
    goes_on = goes_on and runs.row(connection, told.newest)["state"] in runs.OPEN_STATES
    begun_s = float(int(row["started_unix_s"]))
    return Schedule(
        row["run_id"], row, begun_s, told.decided_s, told.newest, goes_on, told.missed, told.missed_last
    )  # fmt: skip


def _told(connection: Connection, row: RowMapping) -> _Told:
    """The events from the newest back to one that says what came of those before it."""
    decided_s, newest, missed, missed_last, read = float(int(row["started_unix_s"])) - 1, "", 0, "", 0
    latest_s = clock.unix_s() + _AHEAD_S
    for event in _backwards(connection, row["run_id"]):
        read += 1
        if event["kind"] == runs.SO_FAR:
            before = json.loads(event["detail"])
            if before["decided_s"] > latest_s:
                # Summed up by a clock that was wrong: what it left out, those before it tell.
                continue
            decided_s = max(decided_s, before["decided_s"])
            newest, missed = newest or before["newest"], missed + before["missed"]
            missed_last = missed_last or before["missed_last"]
            break
        if event["kind"] == RESUMED:
            # Nobody misses what was not to be.
            at_s = float(int(event["unix_s"]))
        elif event["kind"] in (BEGUN, MISSED):
            stamp, _, rest = event["detail"].partition(" ")
            at_s = _read(stamp)
            if event["kind"] == BEGUN:
                newest = newest or rest
            else:
                count, _, why = rest.partition(" ")
                missed += int(count)
                missed_last = missed_last or f"{in_words(at_s)}: {why}"
        else:
            continue
        if at_s <= latest_s:
            decided_s = max(decided_s, at_s)
    return _Told(decided_s, newest, missed, missed_last, read)


def _backwards(connection: Connection, run_id: str) -> Iterator[RowMapping]:
    """Events of a schedule, the newest first, some at a time."""
    query = select(events).where(events.c.run_id == run_id).order_by(events.c.sequence.desc()).limit(TOGETHER)
    page = connection.execute(query).mappings().all()
    while page:
        yield from page
        page = connection.execute(query.where(events.c.sequence < page[-1]["sequence"])).mappings().all()


def _decide(connection: Connection, schedule_id: str, kind: str, detail: str) -> None:
    """Write down what became of a time, and, where much was, what came of all before it."""
    told = _told(connection, runs.row(connection, schedule_id))
    if told.read >= TOGETHER:
        before = {name: value for name, value in vars(told).items() if name != "read"}
        runs.note(connection, schedule_id, None, runs.SO_FAR, json.dumps(before))
    runs.note(connection, schedule_id, None, kind, detail)


def run_id_at(schedule_id: str, due_s: float) -> str:
    """The id of the run of one time: always the same, so that a second one could not even be written."""
    return f"run-{hashlib.sha256(f'{schedule_id} {_stamp(due_s)}'.encode()).hexdigest()[:10]}"


def begin(db: Database, schedule_id: str, due_s: float, run: runs.NewRun, head: Tree) -> bool:
    """Write the run of a time down, and that the time is decided; False when it was, or the run is there."""
    with db.writing() as connection:
        if not _is_open(connection, schedule_id, due_s):
            return False
        is_new = not runs.exists(connection, run.run_id)
        if is_new:
            heads.put(connection, head)
            runs.add(connection, run)
        # Also of a run that is there already: undecided, its time would be asked for again at once, and again.
        _decide(connection, schedule_id, BEGUN, f"{_stamp(due_s)} {run.run_id}")
        return is_new


def miss(db: Database, schedule_id: str, due_s: float, count: int, why: str) -> bool:
    """Write down that times up to this one were missed; False when they are not to be decided any more.

    Args:
        count: how many, this one included.
    """
    with db.writing() as connection:
        if not _is_open(connection, schedule_id, due_s):
            return False
        _decide(connection, schedule_id, MISSED, f"{_stamp(due_s)} {count} {' '.join(why.split())}")
        return True


def _is_open(connection: Connection, schedule_id: str, due_s: float) -> bool:
    row = runs.row(connection, schedule_id)
    return row["state"] == runs.SCHEDULED and _schedule(connection, row).decided_s < due_s


def _stamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime(_FORM)


def _read(stamp: str) -> float:
    return datetime.strptime(stamp, _FORM).replace(tzinfo=UTC).timestamp()
