"""One run of one seed: the coordinator, its devices, the network and the disk between them, and what may go wrong."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from coordinator_process import CoordinatorProcess, Disk
from device_program import DeviceProgram
from invariants import Books, Broken, Ledgers
from network import Network
from scenario import FAULTY_S, QUIET_S, Scenario, scenario
from virtual_time import VirtualLoop, virtual

from coordinator.run.rounds.round_events import State
from coordinator.server import run_scheduler as keeping
from coordinator.server.services.device_service import DeviceService
from coordinator.store.database import Database, sqlite_url
from protos.convert.reports import receipt_from
from protos.errors import EdgejouleError, StoreError
from protos.model.bundle import open_bundle
from protos.orders import Verdict
from protos.plan.plan import parse
from protos.v1 import edgejoule_pb2 as pb

_LOOK_S = 0.5
# Once everything works, how long until what the faults left behind is over: a board that was cut off backs off for
# half a minute, and a round that nobody reports lasts for its deadline.
_CALM_S = 120.0
_TICK_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of a seed."""

    seed: int
    state: str
    reason: str
    virtual_s: float
    faults: Counter[str]
    checked: Counter[str]
    digest: str


class World:
    """Everything there is.

    Args:
        folder: empty; for the state of everyone.
        bundle: on disk.
        log: takes lines, with the virtual time.
        made: in place of the scenario of the seed.
    """

    def __init__(self, seed: int, folder: Path, bundle: Path, log: Any = None, made: Scenario | None = None) -> None:
        self.scenario: Scenario = made or scenario(seed)
        self._dice = random.Random(f"faults {seed}")
        self.loop = VirtualLoop()
        self._folder, self._bundle_path, self._log = folder, bundle, log
        self._wrong_s = 0.0
        self.disk = Disk(random.Random(f"disk {seed}"))
        self.disk.share, self.disk.reads_share = self.scenario.disk_share, self.scenario.reads_share
        self.network = Network(self.loop, random.Random(f"network {seed}"), self._service)
        self.network.share = self.scenario.network_share or 1e-9
        self.network.arrived, self.network.answered = self._arrived, self._answered
        self._kill_at_report: float | None = None
        self.process: CoordinatorProcess | None = None
        self.faults: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        # Runs as they were wanted, by name; and those that are on disk, by id.
        self._wanted: dict[str, Scenario] = {}
        self._runs: dict[str, Books] = {}
        self._sql: sqlite3.Connection | None = None
        self._ended: set[str] = set()
        self._broken: list[BaseException] = []
        self._quiet = False
        self._pauses: list[asyncio.Task[None]] = []
        # Who was present and waited for an answer at the last look.
        self._waited: set[str] = set()
        self._digest: list[str] = []

    def say(self, line: str) -> None:
        """For those who look for the reason."""
        if self._log is not None:
            self._log(f"{self.loop.time():8.2f} {line}")

    def _service(self) -> tuple[DeviceService, Any] | None:
        if self.process is None or self.process.dead or not self.process.up:
            return None
        return self.process.service, self.process

    # ------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Play the seed to its end.

        Raises:
            Broken: an invariant does not hold.
        """
        before, ticks = logging.root.manager.disable, (keeping.TICK_S, keeping.HOLD_S)
        handler = _Lines(self)
        loggers = [logging.getLogger(name) for name in ("edgejoule.coordinator", "edgejoule.device", "edgejoule")]
        if self._log is None:
            logging.disable(logging.CRITICAL)
        else:
            for logger in loggers[2:]:
                logger.addHandler(handler)
                logger.setLevel(logging.DEBUG)
        keeping.TICK_S = _TICK_S
        try:
            with (
                patch("edge_runtime.daemon.link.speaks_tls", lambda address: False),
                virtual(self.loop, random.Random(f"chance {self.scenario.seed}"), lambda: self._wrong_s),
            ):
                return self._play()
        finally:
            keeping.TICK_S, keeping.HOLD_S = ticks
            logging.disable(before)
            loggers[2].removeHandler(handler)
            self._close()

    def _play(self) -> Outcome:
        state, bundles = self._folder / "state", self._folder / "bundles"
        state.mkdir()
        bundle = open_bundle(self._bundle_path)
        self._state, self._bundles = state, bundles
        self._start()
        self._sql = sqlite3.connect(state / "coordinator.db", isolation_level=None)
        self._ledgers = Ledgers(self._sql, self.checked)
        self.disk.committed = self._committed
        self.devices = [
            DeviceProgram(
                self.loop, self.network, self._dice, self._folder / f"board-{at}", bundle,
                number=at, examples=board.examples, step_s=board.step_s,
            )
            for at, board in enumerate(self.scenario.boards, start=1)
        ]  # fmt: skip
        self.disk.faulty = self.network.faulty = False
        self._until(self.loop.create_task(self._begin(self.scenario)).done)
        self.disk.faulty = self.network.faulty = True
        for device in self.devices:
            self.loop.call_later(self._dice.uniform(0.0, 3.0), device.start)
        for at_s, other in self.scenario.others:
            self._wanted[other.name] = other
            self.loop.call_later(at_s, self._operate, self._begin, other)
        for at_s, what, number in self.scenario.events:
            self.loop.call_later(at_s, self._happen, what, number)
        self.loop.call_later(FAULTY_S, self._calm)
        limit_s = self.loop.time() + FAULTY_S + QUIET_S
        self._until(lambda: self._is_over() or self.loop.time() > limit_s)
        self._broke(self._is_over(), "every run ends", f"after {self.loop.time():.0f} s: {self._standing()}")
        return self._judged(bundle)

    def _start(self) -> None:
        self.process = CoordinatorProcess(self.loop, self._state, self._bundles, self.disk)

    async def _begin(self, wanted: Scenario) -> None:
        """An operator starts a run; where the answer is lost it may be there already."""
        self._wanted[wanted.name] = wanted
        text = wanted.plan(self._bundle_path)
        while wanted.name not in self._names():
            process = self.process
            if process is None or process.dead or not process.up:
                await _nap()
                continue
            error = await self._asked(process, process.operations.start_run(text, str(self._folder)))
            if isinstance(error, EdgejouleError) and not isinstance(error, StoreError):
                # Such as a run that never had a head to begin with.
                self.say(f"    operator: {error}")
                del self._wanted[wanted.name]
                return

    async def _asked(self, process: CoordinatorProcess, ask: Any) -> BaseException | None:
        """What an operator is answered, as long as the coordinator lives: None when all is well."""
        task = self.loop.start(process, ask)
        while not task.done() and not process.dead:
            await _nap()
        if not task.done():
            task.cancel()
            return None
        return None if task.cancelled() else task.exception()

    def _operate(self, work: Any, *args: Any) -> None:
        self._pauses.append(self.loop.create_task(work(*args)))

    def _names(self) -> set[str]:
        """Of the runs that are on disk; whoever is new among them gets its books."""
        assert self._sql is not None
        rows = self._sql.execute("SELECT run_id, name FROM runs ORDER BY sequence").fetchall()
        for run_id, name in rows:
            if run_id not in self._runs:
                own = self._wanted[name]
                self._runs[run_id] = Books(
                    self._sql, run_id, own.quorum, self.loop.time, own.late, own.buffer, self.checked
                )
        return {name for _, name in rows}

    def _own(self, books: Books) -> Scenario:
        """What was wanted of a run."""
        ((name,),) = books.rows("SELECT name FROM runs WHERE run_id = :run")
        return self._wanted[name]

    def _until(self, over: Any) -> None:
        async def wait() -> None:
            while not over():
                await _nap()
                self._look()

        task = self.loop.create_task(wait())
        self.loop.run_until_complete(task)

    def _is_over(self) -> bool:
        return len(self._runs) >= max(1, len(self._wanted)) and all(map(self._is_done, self._runs.values()))

    @staticmethod
    def _is_done(books: Books) -> bool:
        return books.state()[0] not in ("waiting", "running", "paused")

    # ------------------------------------------------------------ faults

    def _happen(self, what: str, number: int) -> None:
        self.say(f"*** {what}")
        self.faults[what] += 1
        dice = random.Random(number)
        device = dice.choice(self.devices)
        match what:
            case "kill":
                self._kill()
            case "kill at report":
                self._kill_at_report = dice.uniform(0.0, 0.1)
            case "kill at commit":
                self.disk.die_in = dice.randint(1, 12)
            case "disk full":
                self.disk.full = True
                self.loop.call_later(dice.uniform(1.0, 20.0), self._room)
            case "slow disk":
                self.disk.slow = True
                self.loop.call_later(dice.uniform(5.0, 40.0), self._fast)
            case "clock":
                self._wrong_s += dice.choice((-1, 1)) * dice.choice((3.0, 86_400.0, 3.2e8))
            case "cut":
                self.network.cut[device.device_id] = None
                self.loop.call_later(dice.uniform(1.0, 40.0), lambda: self.network.cut.pop(device.device_id, None))
            case "pause":
                run = list(self._runs.values())[number % len(self._runs)]
                self._operate(self._pause, run, dice.uniform(1.0, 30.0), dice.random() < 0.5)
            case "end a run":
                run = list(self._runs.values())[number % len(self._runs)]
                self._operate(self._end_run, run, dice.random() < 0.6)
            case "power":
                self._lose_power(device, dice.uniform(0.5, 20.0))
            case "power at work":
                device.at_work = dice.randint(1, 8), lambda: self._lose_power(device, dice.uniform(0.5, 20.0))
            case "stop":
                if device.up:
                    device.stop()
                    self.loop.call_later(dice.uniform(5.0, 20.0), self._power, device)

    async def _pause(self, run: Books, rest_s: float, after_round: bool) -> None:
        """An operator lets a run rest, and go on; whatever happens to the coordinator meanwhile."""
        # An attempt that a pause ends may have its quorum.
        run.stopped = True
        await self._operated(run, lambda at: at.pause_run(run.run_id, after_round=after_round), "paused")
        await asyncio.sleep(rest_s)
        await self._operated(run, lambda at: at.resume_run(run.run_id, "", ""), "running", "waiting")

    async def _end_run(self, run: Books, goes_on: bool) -> None:
        """An operator ends a run, and perhaps begins another with the head that it has."""
        run.stopped = True
        self._ended.add(run.run_id)
        again = replace(self._own(run), number=10 + len(self._wanted), start_from=run.run_id, others=(), events=())
        if goes_on:
            # Nothing is over before it has begun.
            self._wanted[again.name] = again
        await self._operated(run, lambda at: at.stop_run(run.run_id), "stopped")
        if goes_on:
            await self._begin(again)

    async def _operated(self, run: Books, ask: Any, *wanted: str) -> None:
        """Ask until it is so, as an operator does, or the run is over."""
        while not self._is_done(run):
            process = self.process
            if process is not None and process.up and not process.dead:
                error = await self._asked(process, ask(process.operations))
                if error is not None:
                    self.say(f"    operator: {error}")
                if run.state()[0] in wanted:
                    return
            await _nap()

    def _lose_power(self, device: DeviceProgram, away_s: float) -> None:
        if device.up and not self._quiet:
            self.faults["boards without power"] += 1
            device.kill()
            self.loop.call_later(away_s, self._power, device)

    def _arrived(self, device_id: str, method: str) -> None:
        if method == "Report" and self._kill_at_report is not None:
            self.loop.call_later(self._kill_at_report, self._kill)
            self._kill_at_report = None

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def _room(self) -> None:
        self.disk.full = False

    def _fast(self) -> None:
        self.disk.slow = False

    def _power(self, device: DeviceProgram) -> None:
        if device.up:
            self.loop.call_later(1.0, self._power, device)
        else:
            device.start()

    def _calm(self) -> None:
        self.say("*** from now on everything works")
        self.disk.faulty = self.disk.full = self.disk.slow = self.network.faulty = False
        self.network.cut.clear()
        self._quiet = True

    # ------------------------------------------------------------ looking

    def _look(self) -> None:
        """After each turn of the clock: what has died starts again, and nobody is dropped whom we keep waiting."""
        if self._broken:
            raise self._broken[0]
        process = self.process
        if process is not None and process.dead:
            self.faults["deaths of the coordinator"] += 1
            self.process = None
            self.loop.call_later(self._dice.uniform(0.5, 8.0), self._start)
        if process is not None and not process.dead:
            for error in process.failures():
                raise Broken(f"no background task ends by itself: {error!r}") from error
            waiting = {
                one: process.run_scheduler.fleet.get(one) for one, calls in self.network.open_calls.items() if calls > 0
            }
            here = {name for name, member in waiting.items() if member is not None and member.state == "present"}
            away = {name for name, member in waiting.items() if member is not None and member.state == "away"}
            dropped = sorted(self._waited & away)
            self._broke(not dropped, "a device whose call is open is present", str(dropped))
            self._waited = here
            self._nobody_is_shut_out(process)
        else:
            self._waited = set()
        for device in getattr(self, "devices", []):
            for failure in device.failures:
                raise Broken(f"no daemon ends by an error: {failure!r}") from failure

    def _nobody_is_shut_out(self, process: CoordinatorProcess) -> None:
        """Who is asked has not been answered for good already; and an attempt that is open on disk is open here."""
        for driver in process.run_scheduler.drivers.values():
            machine, books = driver.run.machine, self._runs.get(driver.run.run_id)
            if books is not None and machine.state is State.GATHERING:
                at = "WHERE run_id = :run AND state = 'open' AND round = ? AND attempt = ?"
                there = books.rows(f"SELECT 1 FROM rounds {at}", machine.round, machine.attempt)
                self._broke(not there, "a round that is open on disk is open to its devices", f"round {machine.round}")
        for run in [driver.run for driver in process.run_scheduler.drivers.values() if driver.run.ready.is_set()]:
            for device in getattr(self, "devices", []):
                answered = device.answered if device.up else None
                if answered is None or not run.machine.owes(device.device_id) or device.device_id in run.refused:
                    continue
                same = answered[:2] == (run.run_id, run.machine.round) and answered[2] in (None, run.machine.attempt)
                self._broke(not same, "nobody who is asked is shut out", f"{device.device_id}: {answered}")

    def _committed(self) -> None:
        try:
            self._names()
            for books in self._runs.values():
                books.after_commit()
            if len(self._runs) > 1:
                self._ledgers.runs_share()
        except BaseException as error:
            self._broken.append(error)

    def _answered(self, device_id: str, method: str, sent: list[bytes], answer: Any) -> None:
        if method != "Report":
            return
        header = pb.ReportRequest.FromString(sent[0]).header
        receipt = receipt_from(answer)
        self._digest.append(f"{header.round} {device_id} {receipt.verdict}")
        self.say(f"    {device_id}: report of round {header.round}: {receipt.verdict} {receipt.reason}")
        if receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE):
            self._runs[header.run_id].acknowledged[header.round, device_id] = None
            self._committed()
        elif receipt.verdict is Verdict.REJECTED:
            self._broken.append(Broken(f"no honest report is rejected: {device_id}: {receipt.reason}"))

    def _broke(self, holds: bool, invariant: str, detail: str) -> None:
        self.checked[invariant] += 1
        if not holds:
            raise Broken(f"{invariant}: {detail}")

    def _standing(self) -> str:
        said = [
            f"{run.state()}, rounds {run.rows('SELECT round, state, attempt FROM rounds WHERE run_id = :run')}"
            for run in self._runs.values()
        ]
        return "; ".join(said) + f"; {len(self._runs)} of {len(self._wanted)} runs begun"

    def _judged(self, bundle: Any) -> Outcome:
        if self._broken:
            raise self._broken[0]
        for device in self.devices:
            if device.up:
                device.kill()
        db = Database(sqlite_url(self._state / "coordinator.db"))
        try:
            for books in self._runs.values():
                plan = parse(self._own(books).plan(self._bundle_path), where="simulated")
                books.heads_are_those_of_the_rows(db, bundle, plan)
        finally:
            db.close()
        budget, budget_j = self.scenario.budget, self.scenario.budget_j
        self._ledgers.joules_are_covered(self.devices, budget, budget_j, len(self._runs))
        for books in self._runs.values():
            self._ends_well(books)
        first = next(iter(self._runs.values()))
        state, reason = first.state()
        faults = self.faults + self.network.counts + self.disk.counts
        heads = [run.rows("SELECT round, head_version FROM rounds WHERE run_id = :run") for run in self._runs.values()]
        digest = repr((state, reason, self._digest, heads[0] if len(heads) == 1 else heads))
        return Outcome(self.scenario.seed, state, reason, self.loop.time(), faults, self.checked, digest)

    def _ends_well(self, books: Books) -> None:
        state, reason = books.state()
        self.say(f"{books.run_id} is {state}: {reason}")
        self._calm_rounds_are_whole(books)
        # Of several runs each has a battery's share of its own, which boards do not tell apart.
        alone = len(self._runs) == 1 or self.scenario.budget == "total"
        if "can never open" in reason and alone:
            self._broke(
                self._ledgers.are_spent(self.devices, self.scenario.budget_j),
                "a run starves only when all is spent",
                reason,
            )
        good = ("finished", "failed", "stopped") if books.run_id in self._ended else ("finished", "failed")
        self._broke(state in good and "internal" not in reason, "a run ends for a reason of its own", reason)

    def _calm_rounds_are_whole(self, books: Books) -> None:
        """Once everything works, every device that is asked reports, and no round is tried again."""
        if self._own(books).late:
            # Rounds close without those who are at work.
            return
        for (number, attempt), opened_s in books.opened_s.items():
            if opened_s < FAULTY_S + _CALM_S:
                continue
            orders = "FROM orders WHERE run_id = :run AND round = ?"
            rows = books.rows(f"SELECT device_id, outcome {orders} AND attempt = ?", number, attempt)
            missing = [device_id for device_id, outcome in rows if outcome != "accepted"]
            self._broke(
                not missing, "when all is well every order is answered", f"round {number}, attempt {attempt}: {missing}"
            )
            if len(self._runs) > 1:
                # The others may work for another run.
                continue
            present = books.rows(f"SELECT count(*) {orders}", number)[0][0]
            self._broke(
                present == len(self.devices) or self.scenario.budget != "none",
                "when all is well every device is asked",
                f"round {number}: {present} of {len(self.devices)}",
            )

    def _close(self) -> None:
        for device in getattr(self, "devices", []):
            if device.program is not None and device.up:
                device.kill()
        if self.process is not None:
            self.process.kill()
        for _ in range(5):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(5):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self.loop.close()
        if self._sql is not None:
            self._sql.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Lines(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.say(f"{record.levelname[:4]} {record.name.rpartition('.')[2]}: {record.getMessage()}")


async def _nap() -> None:
    await asyncio.sleep(_LOOK_S)
