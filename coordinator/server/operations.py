"""What operators do: start, stop, look, export. The runs themselves are the run scheduler's."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from coordinator.export import job as exporting
from coordinator.export import widths
from coordinator.export.with_head import bundle_with_head
from coordinator.operator.status import DeviceBudget, DeviceStatus, ExportSummary, HeadEvaluation, RunDetails, RunStatus
from coordinator.run import forgetting, run_transactions
from coordinator.run.evaluation import recall
from coordinator.run.forgetting import Forgotten
from coordinator.run.planning import Prepared, account_of_held_out, prepare
from coordinator.run.reports.statistics_fold import features_of
from coordinator.run.resume import Rooms, share_bundle
from coordinator.run.rounds import round_budgets as budgeting
from coordinator.run.run_transactions import Queued
from coordinator.server.fleet import Member
from coordinator.server.run_scheduler import TICK_S, RunScheduler
from coordinator.server.schedules import Schedules
from coordinator.server.version import software_version
from coordinator.store import devices, reading, runs
from coordinator.store.database import Database
from coordinator.store.ledger import accounts as grants
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from coordinator.store.schedules import Schedule, begin, run_id_at
from protos.errors import EdgejouleError, PlanError, RefusedError, StoreError, UnknownRunError, UsageError
from protos.model.bundle import Bundle, read_tree
from protos.model.head_kinds.weight_grids import check_bits
from protos.model.manifest import brief
from protos.plan.plan import RunPlan, parse
from protos.plan.plan_times import at_once
from protos.update import trees
from protos.update.reading import ABSURD
from protos.update.trees import Shapes, Tree

log = logging.getLogger("edgejoule.coordinator")

# Keys in one statement: databases bound how many there may be.
MOST_AT_ONCE = 500
# Devices' rows of a run, whoever asks for more.
MOST_IN_PART = 2000
# What `run.start_from` ends with when it names a file.
HEAD_FILE = ".npz"

P = ParamSpec("P")
T = TypeVar("T")


class Operations:
    """What the operators' service talks to."""

    def __init__(self, rooms: Rooms, run_scheduler: RunScheduler) -> None:
        self._rooms, self._store, self._run_scheduler = rooms, rooms.store, run_scheduler
        self.upgrades = run_scheduler.upgrades
        self.traces = run_scheduler.traces
        # What is left is worked out before it is written down: one at a time.
        self._forgetting = asyncio.Lock()
        self.schedules = Schedules(rooms.store, self.start_due)

    async def start_run(self, plan_toml: str, directory: str) -> str:
        """Check a plan with all that it names, write the run down, and put it in the queue; returns its id.

        Raises:
            EdgejouleError: see :func:`coordinator.run.planning.prepare`.
        """
        base = Path(directory)
        if not base.is_absolute():
            raise UsageError(f"{directory!r} is not an absolute path", where="plan directory")
        prepared = await self._rooms.models.do(prepare, plan_toml, base)
        if prepared.plan.times is not None:
            # That each time's plan can be made of it is seen now, not at night.
            at_once(plan_toml, prepared.plan)
        scheduled = prepared.plan.times is not None
        run_id = f"{'schedule' if scheduled else 'run'}-{secrets.token_hex(5)}"
        new, head = await self._new_run(run_id, prepared, plan_toml, base)
        state = runs.SCHEDULED if scheduled else "waiting"
        with self._wanting():
            await self._store.do(run_transactions.add_run, new, head, state=state)
        log.info("%s: %s, %d rounds%s", run_id, new.name, new.rounds_planned, ", at its times" if scheduled else "")
        for line in await self._rooms.models.do(account_of_held_out, prepared):
            log.info("%s: %s", run_id, line)
        return run_id

    async def start_due(self, schedule: Schedule, due_s: float) -> bool:
        """Write the run of one time of a schedule down, by the plan as its files are now; False when that time was
        decided already.

        Raises:
            EdgejouleError: as :meth:`start_run`.
        """
        row, base = schedule.row, Path(schedule.row["plan_directory"])
        plan_toml, _ = at_once(row["plan_toml"], parse(row["plan_toml"], where=row["name"]), row["name"])
        prepared = await self._rooms.models.do(prepare, plan_toml, base)
        new, head = await self._new_run(run_id_at(schedule.run_id, due_s), prepared, plan_toml, base)
        with self._wanting():
            return await self._store.do(begin, schedule.run_id, due_s, new, head)

    async def _new_run(self, run_id: str, prepared: Prepared, plan_toml: str, base: Path) -> tuple[NewRun, Tree]:
        """What is written down of a run, and the head that it starts from; its bundle is kept."""
        bundle = await self._rooms.models.do(self._rooms.bundle_store.keep, prepared.bundle)
        await share_bundle(self._rooms, bundle)
        plan, head = prepared.plan, bundle.initial_head()
        if plan.run.start_from is not None:
            if plan.run.start_from.endswith(HEAD_FILE):
                head = await self._rooms.models.do(_read_start, base / plan.run.start_from, trees.shapes(head))
            else:
                head = await self._store.do(_start, plan.run.start_from, trees.shapes(head))
        if plan.closed_form.add_to is not None:
            await self._store.do(_check_added, plan, bundle)
        new = NewRun(
            run_id=run_id,
            name=plan.run.name,
            plan_id=plan.plan_id,
            plan_toml=plan_toml,
            plan_directory=str(base),
            bundle_id=bundle.bundle_id,
            rounds_planned=plan.run.rounds,
            initial_head=trees.version(head),
            harvest=prepared.harvest,
        )
        return new, head

    @contextmanager
    def _wanting(self) -> Iterator[None]:
        """Something is written down that is to be taken up: also when the answer to its commit is lost, since then it
        may be on disk all the same."""
        try:
            yield
        finally:
            self._run_scheduler.want()
            self.schedules.want()

    async def stop_run(self, name: str) -> str:
        """End a run; returns its state. A head that is being made is finished first, if it can be written down.

        Raises:
            UnknownRunError: no such run.
            StoreError: the run has ended here, and that cannot be written down yet.
        """
        run_id = await self._store.read(runs.resolve, name)
        while True:
            driver = self._run_scheduler.drivers.get(run_id)
            if driver is not None:
                await driver.stop()
                # What is left to be written is handed to the run scheduler when the run driver has gone.
                while self._run_scheduler.drivers.get(run_id) is driver:
                    await asyncio.sleep(0)
                break
            if run_id not in self._run_scheduler.preparing and not self._run_scheduler.is_unwritten(run_id):
                state = await self._store.read(_state, run_id)
                if state in runs.OPEN_STATES:
                    reason = "starts no more runs" if state == runs.SCHEDULED else "stopped before it began"
                    await self._run_scheduler.end(run_id, "stopped", reason)
                    self.schedules.want()
                break
            if self._run_scheduler.is_unwritten(run_id):
                break
            await asyncio.sleep(TICK_S)
        if self._run_scheduler.is_unwritten(run_id):
            raise StoreError(
                "the run has ended here, and that cannot be written down yet",
                where=run_id,
                fix="free space: it is written as soon as it can be; until then a restart would take the run up again",
            )
        return await self._store.read(_state, run_id)

    async def pause_run(self, name: str, *, after_round: bool) -> str:
        """Let a run rest, so that others go on; returns its state. Its devices stop within a second, and what they
        reported of the open round is kept, or they finish the round first.

        Raises:
            UnknownRunError: no such run.
            RefusedError: it is over.
        """
        run_id = await self._store.read(runs.resolve, name)
        while True:
            if (driver := self._run_scheduler.drivers.get(run_id)) is not None:
                await driver.pause(after_round=after_round)
                while self._run_scheduler.drivers.get(run_id) is driver:
                    await asyncio.sleep(0)
                break
            if run_id not in self._run_scheduler.preparing:
                await self._store.do(run_transactions.pause_run, run_id)
                self._run_scheduler.let_go(run_id)
                break
            await asyncio.sleep(TICK_S)
        state = await self._store.read(_state, run_id)
        if state not in runs.OPEN_STATES:
            raise RefusedError(f"is {state}", where=run_id, fix="a run that is over cannot be paused")
        return state

    async def resume_run(self, name: str, plan_toml: str, directory: str) -> str:
        """Let a run that rests wait for its turn again, by another plan if one is given; returns its state.

        Raises:
            EdgejouleError: see :func:`coordinator.run.planning.prepare` and
                :func:`coordinator.run.run_transactions.resume_run`.
        """
        run_id = await self._store.read(runs.resolve, name)
        plan = harvest = None
        if plan_toml:
            base = Path(directory)
            if not base.is_absolute():
                raise UsageError(f"{directory!r} is not an absolute path", where="plan directory")
            prepared = await self._rooms.models.do(prepare, plan_toml, base)
            row = await self._store.read(runs.row, run_id)
            if prepared.bundle.bundle_id != row["bundle_id"]:
                fix = "take the same bundle, or start a run with run.start_from"
                raise RefusedError(f"trains the bundle {brief(row['bundle_id'])}", where=run_id, fix=fix)
            plan, harvest = prepared.plan, prepared.harvest
        with self._wanting():
            await self._store.do(run_transactions.resume_run, run_id, plan, plan_toml, directory, harvest)
        log.info("%s: resumed%s", run_id, " by another plan" if plan is not None else "")
        return await self._store.read(_state, run_id)

    async def status(
        self,
        name: str = "",
        since_round: int = 0,
        *,
        page: int = 0,
        newest_only: bool = False,
        begin: reading.Cursor | None = None,
    ) -> tuple[list[RunStatus], reading.Cursor]:
        """One run, or all of them; and where the next page begins.

        Args:
            page: about so many devices' rows of one run, in whole rounds; 0 for all.
            newest_only: of each run the newest closed round alone, without its devices.
            begin: in place of ``since_round``; a page may end within a round then, and has ``page`` rows at most.

        Raises:
            UnknownRunError: no such run.
        """
        found, following = await self._rooms.looks.read(_status, name, since_round, page, newest_only, begin)
        queued = [] if all(run.is_over for run in found) else await self._rooms.looks.do(run_transactions.queue)
        return [run if run.is_over else run.because(self._why(run, queued)) for run in found], following

    async def run_ids(self) -> list[str]:
        """Of all runs, in the order in which :meth:`status` has them."""
        return await self._rooms.looks.read(reading.run_ids)

    async def details(self, run_id: str) -> RunDetails:
        """The plan of a run, and what happened to it."""
        return await self._rooms.looks.read(_details, run_id)

    def _why(self, run: RunStatus, queued: list[Queued]) -> str:
        if run.state == runs.SCHEDULED:
            return self.schedules.say(run.run_id)
        if run.state == "paused":
            return f"paused; go on with: coordinator resume {run.run_id}"
        if (driver := self._run_scheduler.drivers.get(run.run_id)) is not None:
            return driver.run.describe()
        if self._run_scheduler.is_unwritten(run.run_id):
            return "has ended, which cannot be written down yet"
        if run.run_id in self._run_scheduler.trouble:
            return f"cannot be opened now: {self._run_scheduler.trouble[run.run_id]}"
        if run.run_id in self._run_scheduler.preparing:
            return "being prepared: held-out data are embedded"
        # In the order of their turns: the first of them is on, or about to be.
        turns = [queued_run.run_id for queued_run in queued if not queued_run.beside]
        turns.sort(
            key=lambda turn: turn not in self._run_scheduler.drivers and turn not in self._run_scheduler.preparing
        )
        if run.run_id not in turns[1:]:
            return "waits for its turn"
        before = turns.index(run.run_id)
        return f"waits for {turns[0]} to end" + (f"; {before - 1} more before it" if before > 1 else "")

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what people wait for and devices do not, such as making a large answer."""
        return await self._rooms.looks.thread.do(work, *args, **kwargs)

    def report_counts(self) -> dict[str, int]:
        """What became of reports since the start, by reason."""
        return self._run_scheduler.report_counts.all()

    async def devices(self, after: str = "", page: int = 0) -> tuple[list[DeviceStatus], bool]:
        """Devices that ever joined, by their ids, with the joules that they reported; and whether more follow.

        Args:
            after: only those behind this id.
            page: so many at most; 0: all.
        """
        members = sorted(
            (member for member in self._run_scheduler.fleet if member.card.device_id > after), key=_device_id
        )
        more = 0 < page < len(members)
        members = members[:page] if more else members
        only = [_device_id(member) for member in members] if page else None
        spent = await self._rooms.looks.read(devices.spent, only)
        found = [
            DeviceStatus(
                device_id=card.device_id,
                state=member.state,
                board=card.board,
                engine=card.engine,
                meter=card.meter,
                software_version=card.software_version,
                train_examples=card.train_examples,
                test_examples=card.test_examples,
                last_seen_unix_s=member.seen_unix_s,
                energy_j=spent.get(card.device_id, (None, 0))[0],
                unknown_phases=spent.get(card.device_id, (None, 0))[1],
                budget_j=card.budget_j,
                reason=member.trouble,
                account=card.account,
            )
            for member in members
            for card in (member.card,)
        ]
        return found, more

    async def forget_device(self, device_id: str) -> None:
        """Take a device that is gone off the list.

        Raises:
            UnknownRunError: no such device.
            RefusedError: it is present, or works on an order.
        """
        await self._run_scheduler.forget(device_id)

    async def budgets(self, name: str, after: str = "", page: int = 0) -> tuple[str, list[DeviceBudget], bool]:
        """The id of a run, the ledger of its devices by their ids, and whether more follow; see :meth:`devices`.

        Raises:
            UnknownRunError: no such run.
        """
        return await self._rooms.looks.read(_budgets, name, after, min(page, MOST_AT_ONCE))

    async def forget(self, name: str, device_id: str) -> Forgotten:
        """Subtract and delete the statistics of a device, and publish the head without them.

        Raises:
            UnknownRunError: no such run, or no such device in it.
            UsageError: the run is not over, or cannot forget.
            EmptyShardError: what is left makes no head.
        """
        async with self._forgetting:
            rest = await self._store.do(forgetting.rest_of, name, device_id)
            made = await self._rooms.models.do(self._head_without, rest)
            signer = self._run_scheduler.head_signer

            def replaced(db: Database) -> Forgotten:
                if signer is not None:
                    # First: a head that took the place of one that counts as signed would never be delivered.
                    signer.forget(rest.run_id)
                return forgetting.forget(db, rest, *made)

            done = await self._store.do(replaced)
        await self._run_scheduler.look_at_published()
        return done

    def _head_without(self, rest: forgetting.Rest) -> tuple[Tree, str, float | None, float | None, str]:
        bundle = self._rooms.bundle_store.open(rest.bundle_id)
        key = rest.evaluation_key
        evaluator = recall(bundle, key, self._rooms.evaluations) if key is not None else None
        return forgetting.head_without(rest, bundle, evaluator)

    async def evaluate(self, name: str, head_version: str, bits: tuple[int, ...]) -> HeadEvaluation:
        """How good a head of a run is with kernels of few bits.

        Raises:
            UnknownRunError: no such run or head.
            UsageError: a width that no grid has, or the run has no held-out data.
        """
        asked = check_bits(bits, where="--bits")
        job = await self._store.do(exporting.find, name, head_version)
        return await self._rooms.models.do(
            widths.evaluate, job, self._rooms.bundle_store, self._rooms.evaluations, asked
        )

    async def export_head(self, name: str, head_version: str) -> tuple[ExportSummary, bytes]:
        """The head of a run as an .npz.

        Raises:
            UnknownRunError: no such run or head.
        """
        job = await self._store.do(exporting.find, name, head_version)
        return await self._rooms.models.do(exporting.head_alone, job)

    async def export_bundle(self, name: str, head_version: str) -> tuple[ExportSummary, bytes]:
        """The bundle of a run that starts from one of its heads.

        Raises:
            UnknownRunError: no such run, head or bundle.
        """
        job = await self._store.do(exporting.find, name, head_version)
        return await self._rooms.models.do(bundle_with_head, job, self._rooms.bundle_store)

    async def export(self, name: str, head_version: str, max_drop: float) -> tuple[ExportSummary, bytes]:
        """Assemble the integer model of a run.

        Raises:
            UnknownRunError: no such run or head.
            UsageError: the run has no held-out data to calibrate with.
            CheckFailed: the integer model is worse than the float head by more than ``max_drop``.
        """
        if not 0 <= max_drop <= 1:
            raise UsageError(f"{max_drop:g} is no share of accuracy", where="--max-drop", fix="give 0 to 1")
        job = await self._store.do(exporting.find, name, head_version)
        return await self._rooms.models.do(
            exporting.export, job, self._rooms.bundle_store, self._rooms.evaluations, max_drop
        )


def _read_start(path: Path, shapes: Shapes) -> Tree:
    """The head that a run begins with, out of a file: one that was made elsewhere, such as by distillation."""
    try:
        head = read_tree(path, {name: tuple(shape) for name, shape in shapes.items()})
        # No device takes such a head to train, and the run would wait for ever.
        if absurd := [name for name, value in head.items() if float(abs(value).max()) > ABSURD]:
            raise PlanError(f"tensor {absurd[0]} holds numbers beyond {ABSURD:g}")
        return head
    except EdgejouleError as error:
        fix = "give an .npz file of the tensors of the bundle's head: " + ", ".join(
            f"{name} {list(shape)}" for name, shape in shapes.items()
        )
        raise PlanError(f"{path.name}: {error.what}", where="plan: run.start_from", fix=fix) from error


def _start(db: Database, name: str, shapes: Shapes) -> Tree:
    """The head that a run begins with: the head called so, or the newest of the run called so."""
    where = "plan: run.start_from"
    with db.reading() as connection:
        if heads.holds(connection, name):
            version = name
        else:
            try:
                run_id = runs.resolve(connection, name)
            except UnknownRunError as error:
                fix = "give a run's id or name, or a head's version: see coordinator status RUN"
                raise PlanError(f"no run and no head is called {name!r}", where=where, fix=fix) from error
            version = runs.newest_head(connection, run_id) or str(runs.row(connection, run_id)["initial_head"])
        head = heads.get(connection, version)
    if trees.shapes(head) != shapes:
        raise PlanError(f"{version} is of another bundle: its tensors have other shapes", where=where)
    return head


def _check_added(db: Database, plan: RunPlan, bundle: Bundle) -> None:
    """Refuse to add to a run that is not there, or whose statistics are of other numbers."""
    earlier, place = plan.closed_form.add_to, "closed_form.add_to"
    assert earlier is not None
    with db.reading() as connection:
        if not runs.exists(connection, earlier):
            raise PlanError(f"no run has the id {earlier[:80]!r}", where=place, fix="see: coordinator status")
        row = runs.row(connection, earlier)
    before = parse(row["plan_toml"])
    if row["state"] in runs.OPEN_STATES:
        raise PlanError("that run is not over", where=place, fix="wait for its end")
    if row["bundle_id"] != bundle.bundle_id:
        raise PlanError(f"that run has the bundle {brief(row['bundle_id'])}", where=place, fix="take the same bundle")
    if before.train.method == "sgd":
        raise PlanError("that run has no statistics", where=place, fix="add to a run by closed_form")
    if features_of(before, bundle) != features_of(plan, bundle):
        fix = "take its closed_form.project, and its run.seed, too"
        raise PlanError("that run's embeddings were projected in another way", where=place, fix=fix)


def _status(
    connection: Connection, name: str, since_round: int, page: int, newest_only: bool, begin: reading.Cursor | None
) -> tuple[list[RunStatus], reading.Cursor]:
    wanted = [runs.resolve(connection, name)] if name else reading.run_ids(connection)
    if newest_only:
        return [reading.run_newest(connection, run_id) for run_id in wanted], reading.Cursor()
    if page and name and begin is not None:
        run, following = reading.run_part(connection, wanted[0], begin, min(page, MOST_IN_PART))
        return [run], following
    if page and len(wanted) == 1:
        run, next_round = reading.run_page(connection, wanted[0], since_round, page)
        return [run], reading.Cursor(next_round)
    return [reading.run_status(connection, run_id, since_round) for run_id in wanted], reading.Cursor()


def _device_id(member: Member) -> str:
    return member.card.device_id


def _details(connection: Connection, run_id: str) -> RunDetails:
    row = runs.row(connection, run_id)
    happened = reading.events_of(connection, run_id)
    return RunDetails(row["plan_toml"], row["plan_directory"], happened, software_version())


def _budgets(connection: Connection, name: str, after: str, page: int) -> tuple[str, list[DeviceBudget], bool]:
    run_id = runs.resolve(connection, name)
    only = grants.devices_after(connection, run_id, after, page + 1) if page else None
    more = only is not None and len(only) > page
    if only is None:
        return run_id, budgeting.ledger_of(connection, run_id, time.time()), False
    # In the database's own order, which the next page goes on from.
    ledger = {budget.device_id: budget for budget in budgeting.ledger_of(connection, run_id, time.time(), only[:page])}
    return run_id, [ledger[name] for name in only[:page] if name in ledger], more


def _state(connection: Connection, run_id: str) -> str:
    return str(runs.row(connection, run_id)["state"])
