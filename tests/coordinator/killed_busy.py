"""What a coordinator does on a busy day, with a death at a system call in each of its lives: a run with a buffer and
late reports, another beside it, a pause, another plan, a backup.

Devices act one after the other, and each change of theirs is another number. So what the books say at the end must
explain each head: the reports of a round, with their weights, once each.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from killed_anywhere import Life, Point
from scripted_device import ScriptedDevice
from sqlalchemy import select
from warm_coordinator import WarmCoordinators

from coordinator.operator.client import Operator
from coordinator.store import backup
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.tables import reports, rounds
from protos.errors import EdgejouleError, RefusedError
from protos.model.bundle import open_bundle
from protos.orders import DeviceReport, RejoinOrder, TrainOrder, Verdict

NAMES = "abc"
_TURNS, _ROUNDS = 2000, 4
_BUFFERED = """\
[run]
bundle = "{bundle}"
name = "buffered"
rounds = {rounds}
seed = 7
[round]
devices = 3
quorum = 0.3
deadline_s = 120
buffer = 2
late = 2
[train]
epochs = 1
[update]
codec = "float32"
[aggregate]
weight = []
normalise = "none"
staleness = 0.5
"""
_BESIDE = """\
[run]
bundle = "{bundle}"
name = "beside"
beside = true
rounds = 3
seed = 8
[round]
devices = 2
quorum = 0.5
deadline_s = 120
[train]
epochs = 1
[update]
codec = "float32"
[aggregate]
weight = []
normalise = "none"
"""
Key = tuple[str, int, str]


def change_of(key: Key) -> float:
    """A number of its own for each report, that float32 has exactly."""
    return random.Random(repr(key)).randint(-(1 << 12), 1 << 12) / (1 << 12)


@dataclass
class Day:
    """What came of it.

    Attributes:
        died: points that were reached.
        told: by run, round and device, what its report was answered at last.
        wrong: what the books do not explain, in words.
    """

    died: int = 0
    told: dict[Key, Verdict] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class _Device:
    """Works on one order at a time; slow with some of them."""

    def __init__(self, life: Life, name: str, day: Day) -> None:
        self._life, self._name, self._day = life, name, day
        self._device = ScriptedDevice(life.address, name)
        self._held: tuple[int, DeviceReport] | None = None

    def turn(self, at: int, slow_run: str) -> None:
        """Send what is due, or ask for more."""
        if self._held is not None:
            until, report = self._held
            if at >= until:
                self._held = None
                self._send(report)
            return
        order = self._life.insist(partial(self._device.ask, waits_s=0.01))
        if isinstance(order, RejoinOrder):
            self._life.insist(self._device.join)
        elif isinstance(order, TrainOrder):
            report = self._device.answer(order, change_of((order.run_id, order.round, self._name)))
            is_slow = self._name == "c" and order.run_id == slow_run
            self._held = at + (12 if is_slow and order.round % 2 else 1), report

    def _send(self, report: DeviceReport) -> None:
        receipt = self._life.insist(partial(self._device.send, report))
        key = report.run_id, report.round, self._name
        if receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE):
            again = self._life.insist(partial(self._device.send, report))
            if again.verdict is not Verdict.DUPLICATE:
                self._day.wrong.append(f"{key}: {receipt.verdict}, and then {again}")
        self._day.told[key] = receipt.verdict

    def close(self) -> None:
        self._device.close()


def play_day(
    warm: WarmCoordinators,
    folder: Path,
    bundle: Path,
    database: str | None,
    points: Sequence[Point] = (),
    traced: Path | None = None,
    kind: type[Life] = Life,
) -> Day:
    """Play it to its end, and look at the books."""
    folder.mkdir()
    day, life = Day(), kind(warm, folder, database, points, traced)
    devices = [_Device(life, name, day) for name in NAMES]
    try:
        slow = life.insist(lambda: _begun(life, "buffered", _BUFFERED.format(bundle=bundle, rounds=_ROUNDS), folder))
        life.insist(lambda: _begun(life, "beside", _BESIDE.format(bundle=bundle), folder))
        longer = _BUFFERED.format(bundle=bundle, rounds=_ROUNDS + 1)
        paused = copied = False

        def resume(operator: Operator) -> str:
            return operator.resume_run(slow, longer, folder)

        for at in range(_TURNS):
            for device in devices:
                device.turn(at, slow)
            closed = life.insist(lambda: _closed(life, slow))
            if closed >= 1 and not copied and database is None:
                copied = True
                backup.take(folder / "state", folder / "backup")
                backup.check(folder / "backup")
            if closed >= 2 and not paused:
                paused = True
                life.insist(lambda: _in_state(life, slow, ("paused",), lambda one: one.pause_run(slow)))
                life.insist(lambda: _in_state(life, slow, ("running", "queued"), resume))
            if life.insist(lambda: _are_over(life)):
                break
        else:
            day.wrong.append("the runs do not end: " + str(life.insist(lambda: _states(life))))
        day.wrong += life.insist(lambda: _failed(life))
    finally:
        for device in devices:
            device.close()
        life.end()
    day.died = life.died
    day.wrong += _unexplained(database or sqlite_url(folder / "state/coordinator.db"), bundle, day.told)
    if (folder / "backup").exists():
        backup.restore(folder / "backup", folder / "restored")
        day.wrong += _unexplained(sqlite_url(folder / "restored/coordinator.db"), bundle, {})
    return day


def _begun(life: Life, name: str, text: str, folder: Path) -> str:
    with Operator(life.address) as operator:
        there = [run.run_id for run in operator.runs() if run.name == name]
        return there[0] if there else operator.start_run(text, folder)


def _closed(life: Life, run_id: str) -> int:
    with Operator(life.address) as operator:
        return sum(one.state == "closed" and one.round > 0 for one in operator.status(run_id)[0].rounds)


def _in_state(life: Life, run_id: str, states: tuple[str, ...], ask: Callable[[Operator], str]) -> bool | None:
    """Ask for it until it is so, or too late."""
    with Operator(life.address) as operator:
        now = operator.status(run_id)[0]
        if now.is_over or now.state in states:
            return True
        # Not the moment, perhaps: looked at again.
        with suppress(RefusedError):
            ask(operator)
        return None


def _are_over(life: Life) -> bool:
    with Operator(life.address) as operator:
        return all(run.is_over for run in operator.runs())


def _states(life: Life) -> list[tuple[str, str, str]]:
    with Operator(life.address) as operator:
        return [(run.name, run.state, run.reason) for run in operator.runs()]


def _failed(life: Life) -> list[str]:
    return [f"{name} {state}: {reason}" for name, state, reason in _states(life) if state == "failed"]


def _opened(database: str) -> Database:
    """PostgreSQL lets go of what a process that was killed had locked only when it notices that the process is gone."""
    end_s = time.monotonic() + 60
    while True:
        try:
            return Database(database)
        except RefusedError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)


def _unexplained(database: str, bundle: Path, told: dict[Key, Verdict]) -> list[str]:
    """Heads that are not what the reports in the books make of them, and answers that the books do not bear out."""
    wrong = []
    db = _opened(database)
    try:
        with db.reading() as connection:
            held = {
                (row.run_id, row.round, row.device_id): (row.weight, row.folded_in)
                for row in connection.execute(select(reports))
            }
            for key, verdict in told.items():
                if (verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)) != (key in held):
                    wrong.append(f"{key} was told {verdict}, and is {'' if key in held else 'not '}held")
            initial = open_bundle(bundle).initial_head()["out_bias"][0]
            at: dict[str, float] = {}
            for row in connection.execute(select(rounds).order_by(rounds.c.run_id, rounds.c.round)):
                if row.state != "closed" or not row.head_version:
                    continue
                moved = float(heads.get(connection, row.head_version)["out_bias"][0] - initial)
                inside = [
                    (weight, change_of(key))
                    for key, (weight, folded_in) in held.items()
                    if key[0] == row.run_id and (key[1] if folded_in is None else folded_in) == row.round
                ]
                total = sum(weight for weight, _ in inside)
                expected = at.get(row.run_id, 0.0)
                if total:
                    expected += sum(weight * change for weight, change in inside) / total
                if abs(moved - expected) > 1e-4:
                    wrong.append(f"{row.run_id} round {row.round} moved to {moved}, by {inside} {expected}")
                at[row.run_id] = moved
    except EdgejouleError as error:
        wrong.append(f"the books cannot be read: {error}")
    finally:
        db.close()
    return wrong
