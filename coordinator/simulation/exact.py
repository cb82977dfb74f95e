"""The exact engine: the real run scheduler, store and rounds of a coordinator, and boards that work on its loop.

Orders and reports travel as bytes, and are counted; what is not real are the network, which loses nothing, and time.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.lab.shards import Divided
from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.run import run_transactions
from coordinator.run.evaluation import key_of
from coordinator.run.planning import held_out, prepare
from coordinator.run.resume import Rooms
from coordinator.run.workers import Store
from coordinator.server.run_scheduler import RunScheduler
from coordinator.simulation.costs import writing_s
from coordinator.simulation.devices import EngineError, Shared, VirtualBoard
from coordinator.simulation.fleet import FleetSettings, boards_of
from coordinator.simulation.virtual_time import EPOCH_UNIX_S, VirtualLoop, VirtualWorker
from coordinator.store import clock, reading, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.models.bundle_store import BundleStore
from coordinator.store.runs import NewRun
from edge_runtime.round.held_heads import CannotRebuildError
from protos.convert.orders import order_from, order_to
from protos.errors import EdgejouleError, RefusedError, UsageError
from protos.orders import RejoinOrder, SettledEnergy, TrainOrder, WaitOrder
from protos.update import trees
from protos.update.codecs import generator
from protos.update.trees import Tree
from protos.v1 import edgejoule_pb2 as pb

# How long a call for work stays open, as a device's does (edge_runtime/daemon/link.py).
_ORDER_S = 540.0
_LOOK_S = 0.1
# After the end of a run, how long at most the last boards are waited for: they tell what sending cost.
_LAST_S = 3600.0
# When every board has left, how long at most the run may take to end of what came before.
_ALONE_S = 600.0


@dataclass(frozen=True)
class Ran:
    """What the engine gives back: of the run, its last head, true joules of each board, virtual seconds, notes."""

    status: RunStatus
    head: Tree
    true_j: npt.NDArray[np.float64]
    virtual_s: float
    notes: tuple[str, ...]


def run_exactly(
    plan: str,
    folder: Path,
    settings: FleetSettings,
    made: Divided,
    shared: Shared,
    held: npt.NDArray[Any],
    on_round: Callable[[RoundStatus], None] | None,
    kind: Callable[..., VirtualBoard] = VirtualBoard,
) -> Ran:
    """Run a plan over a fleet.

    Args:
        plan: TOML text; paths in it are relative to ``folder``.
        held: embeddings of the held-out examples.
        on_round: told of each round when it has closed.
        kind: makes a board, of the arguments of :class:`coordinator.simulation.devices.VirtualBoard`.

    Raises:
        EdgejouleError: the plan, or what it names.
    """
    with _room() as home, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with clock.shown(loop.time, lambda: EPOCH_UNIX_S + loop.time()), _quiet():
            boards = boards_of(settings, shared, made.parts, home / "devices", loop.time, kind)
            world = _World(plan, folder, settings, boards, made, held, home, loop, on_round)
            try:
                # The runner's own context was made before the clocks were shown.
                return runner.run(world.play(), context=contextvars.copy_context())
            finally:
                world.db.close()


@contextmanager
def _room() -> Iterator[Path]:
    """A folder for what coordinator and boards write, in memory where the system has such: it is all thrown away."""
    memory = Path("/dev/shm")
    parent = str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="edgejoule-simulation-", dir=parent) as made:
        yield Path(made)


@contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of rounds say nothing but what went wrong."""
    loggers = [logging.getLogger(name) for name in ("edgejoule.coordinator", "edgejoule.device")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class _World:
    """One run, its coordinator and its boards."""

    def __init__(
        self,
        plan: str,
        folder: Path,
        settings: FleetSettings,
        boards: list[VirtualBoard],
        made: Divided,
        held: npt.NDArray[Any],
        home: Path,
        loop: VirtualLoop,
        on_round: Callable[[RoundStatus], None] | None,
    ) -> None:
        self._plan, self._folder, self._settings, self._boards = plan, folder, settings, boards
        self._made, self._held, self._loop, self._on_round = made, held, loop, on_round
        self.db = Database(sqlite_url(home / "coordinator.db"))
        store = Store(self.db, VirtualWorker(writing_s(len(boards))))
        looks, models, readers = Store(self.db, VirtualWorker()), VirtualWorker(), VirtualWorker()
        self._rooms = Rooms(store, looks, models, readers, BundleStore(home / "bundles"), home / "evaluations")
        self._scheduler = RunScheduler(self._rooms)
        self._at_work: set[str] = set()
        self._notes: dict[str, None] = {}
        self._failed: list[BaseException] = []

    async def play(self) -> Ran:
        """From the first device that joins to the last joule that is told."""
        await self._scheduler.open()
        living: list[asyncio.Task[None]] = []
        try:
            for board in self._boards:
                await self._scheduler.join(board.card())
            run_id = await self._begin()
            living = [asyncio.create_task(self._live(board)) for board in self._boards]
            ended_s = await self._until_over(run_id, living)
            limit_s = self._loop.time() + _LAST_S
            while self._at_work and self._loop.time() < limit_s and not self._failed:
                await asyncio.sleep(_LOOK_S)
            # Those that sent last tell with their next call what that cost.
            await asyncio.sleep(_LOOK_S)
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)
            await self._scheduler.close()
        if self._failed:
            raise self._failed[0]
        with self.db.reading() as connection:
            status = reading.run_status(connection, run_id)
            version = runs.newest_head(connection, run_id) or str(runs.row(connection, run_id)["initial_head"])
            head = heads.get(connection, version)
        true_j = np.array([board.meter.true_j for board in self._boards])
        return Ran(status, head, true_j, ended_s, tuple(self._notes))

    async def _begin(self) -> str:
        """Write the run down, as :meth:`coordinator.server.operations.Operations.start_run` does, by the name that plan
        and seed give it."""
        prepared = prepare(self._plan, self._folder)
        _refuse(bool(prepared.plan.privacy.masked), "[privacy] masked", "agreeing on masks is not simulated")
        _refuse(prepared.plan.run.start_from is not None, "run.start_from", "it begins with the head of the bundle")
        _refuse(prepared.plan.closed_form.add_to is not None, "closed_form.add_to", "no run went before")
        bundle = self._rooms.bundle_store.keep(prepared.bundle)
        plan, head = prepared.plan, bundle.initial_head()
        if plan.round.devices > len(self._boards):
            fix = f"give --devices {plan.round.devices}, or fewer in the plan"
            raise UsageError(f"{len(self._boards)} boards are fewer than round.devices = {plan.round.devices}", fix=fix)
        # The held-out part is embedded with the rest: where the plan means that one, it need not be done again.
        data = held_out(plan, bundle.manifest, self._folder)
        if data is not None and data.x.shape == self._made.test.x.shape and np.array_equal(data.x, self._made.test.x):
            self._rooms.evaluations.mkdir(parents=True, exist_ok=True)
            key = key_of(bundle, data)
            np.savez(self._rooms.evaluations / f"{key}.npz", embeddings=self._held, labels=data.y)
        name = hashlib.sha256(f"{self._settings.seed}/{plan.plan_id}/{bundle.bundle_id}".encode()).hexdigest()[:10]
        new = NewRun(
            run_id=f"run-{name}",
            name=plan.run.name,
            plan_id=plan.plan_id,
            plan_toml=self._plan,
            plan_directory=str(self._folder.resolve()),
            bundle_id=bundle.bundle_id,
            rounds_planned=plan.run.rounds,
            initial_head=trees.version(head),
            harvest=prepared.harvest,
        )
        run_transactions.add_run(self.db, new, head)
        self._scheduler.want()
        return new.run_id

    async def _until_over(self, run_id: str, living: list[asyncio.Task[None]]) -> float:
        told, alone_s = 0, None
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._failed:
                raise self._failed[0]
            if alone_s is None and all(task.done() for task in living):
                alone_s = self._loop.time()
            if alone_s is not None and self._loop.time() > alone_s + _ALONE_S:
                # A coordinator waits for devices for ever, and here none will come.
                why = next(iter(self._notes), "nothing more is known")
                raise RefusedError(f"every board has declined its orders, and the run waits for others: {why}")
            driver = self._scheduler.drivers.get(run_id)
            if driver is not None:
                number = driver.run.machine.round - 1
                if self._on_round is not None and number > told:
                    told = self._tell(run_id, told)
                continue
            with self.db.reading() as connection:
                state = str(runs.row(connection, run_id)["state"])
            if state not in runs.OPEN_STATES:
                if self._on_round is not None:
                    self._tell(run_id, told)
                return self._loop.time()

    def _tell(self, run_id: str, told: int) -> int:
        """Of the rounds that closed since."""
        assert self._on_round is not None
        with self.db.reading() as connection:
            status = reading.run_status(connection, run_id, told + 1)
        for this_round in status.rounds:
            if this_round.state == "closed" and this_round.round > told:
                told = this_round.round
                self._on_round(this_round)
        return told

    # ------------------------------------------------------------ one board

    async def _live(self, board: VirtualBoard) -> None:
        try:
            await self._serve(board)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failed.append(error)
        finally:
            self._at_work.discard(board.device_id)

    async def _serve(self, board: VirtualBoard) -> None:
        """Ask, work, report, for ever: what :mod:`edge_runtime.daemon.serving` does."""
        told: tuple[SettledEnergy, ...] = ()
        done: tuple[int, int | None] | None = None
        while True:
            self._at_work.discard(board.device_id)
            order = await self._scheduler.next_order(
                board.device_id, board.session, told, board.holding(), waits_s=_ORDER_S
            )
            if isinstance(order, RejoinOrder):
                await self._scheduler.join(board.card())
                continue
            told = ()
            if isinstance(order, WaitOrder):
                await asyncio.sleep(max(_LOOK_S, order.retry_after_s))
                continue
            assert isinstance(order, TrainOrder), order
            if done == (order.round, order.attempt):
                # Its report was refused or late: asked again, it would answer the same.
                await asyncio.sleep(1.0)
                continue
            self._at_work.add(board.device_id)
            try:
                settled = await self._one_round(board, order)
            except CannotRebuildError:
                continue
            except EngineError:
                raise
            except EdgejouleError as error:
                await self._decline(board, order, error)
                return
            if settled is not None:
                done, told = (order.round, order.attempt), (settled,)

    async def _one_round(self, board: VirtualBoard, order: TrainOrder) -> SettledEnergy | None:
        """The order's round, from its bytes to the answer; None when the board lost its power in it."""
        message = order_to(order)
        size = int(message.ByteSize())
        self._scheduler.sent(order, board.device_id, size)
        read = order_from(pb.NextOrderResponse.FromString(message.SerializeToString()))
        assert isinstance(read, TrainOrder)
        travelled_s = board.received(order, size)
        begun_s = self._loop.time() + travelled_s
        read = replace(read, deadline_s=max(0.0, read.deadline_s - travelled_s))
        board.begins(read, begun_s)
        await asyncio.sleep(travelled_s)
        report, take_back = board.tried(read, begun_s)
        took_s = board.clock.ahead_s
        lost_s = self._loses_power(board, read, took_s)
        wanted_s = await self._while_wanted(board, read, took_s if lost_s is None else lost_s)
        if lost_s is not None or wanted_s < took_s:
            # It did not come to that: the same again, up to then.
            take_back()
            # The loop is past the beginning by now.
            board.clock.ahead_s = begun_s - self._loop.time()
            report = board.work(read, begun_s + (wanted_s if lost_s is None else lost_s))
            if lost_s is not None:
                await self._away(board)
                return None
            left_s = board.clock.ahead_s
            board.clock.ahead_s = 0.0
            await asyncio.sleep(max(0.0, left_s))
        else:
            board.clock.ahead_s = 0.0
        data = board.sealed(report)
        sending_s = board.sends(len(data))
        around_s = board.clock.ahead_s
        board.clock.ahead_s = 0.0
        await asyncio.sleep(around_s + sending_s)
        receipt = await self._scheduler.report(order.run_id, order.round, board.device_id, data)
        return board.answered(report, receipt, sending_s)

    async def _while_wanted(self, board: VirtualBoard, order: TrainOrder, took_s: float) -> float:
        """Wait as long as the work takes, or until the coordinator says that it is not wanted any more; returns how
        long that was."""
        begun_s = self._loop.time()
        end_s = begun_s + took_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end_s):
                while await self._scheduler.await_end(
                    board.device_id, board.session, order.run_id, order.round, _ORDER_S
                ):
                    pass
                return self._loop.time() - begun_s
        return took_s

    def _loses_power(self, board: VirtualBoard, order: TrainOrder, took_s: float) -> float | None:
        """When in its work a board loses its power, in seconds; None: it does not."""
        if not self._settings.dropout:
            return None
        random = generator(self._settings.seed, "fate", board.device_id, order.round, board.starts)
        return float(random.uniform(0.0, took_s)) if random.random() < self._settings.dropout else None

    async def _away(self, board: VirtualBoard) -> None:
        random = generator(self._settings.seed, "away", board.device_id, board.starts)
        self._at_work.discard(board.device_id)
        board.clock.ahead_s = 0.0
        await asyncio.sleep(float(random.exponential(self._settings.away_s)))
        board.restarts()
        await self._scheduler.join(board.card())

    async def _decline(self, board: VirtualBoard, order: TrainOrder, error: EdgejouleError) -> None:
        """An order that cannot be done: no round waits for this board any more."""
        self._notes[f"{board.device_id} cannot do round {order.round}: {error}"] = None
        await self._scheduler.leave(board.device_id, board.session, (), f"cannot do the order: {error}")


def _refuse(asked: bool, where: str, why: str) -> None:
    if asked:
        raise UsageError(why, where=where, fix="leave it out of the plan")
