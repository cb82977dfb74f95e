"""How a run gets into memory: for the first time, or after a restart, in whatever state it was left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, RowMapping

from coordinator.run import round_transactions, run_transactions
from coordinator.run.downlink import Downlink, Link
from coordinator.run.evaluation import Evaluator, embed, figures_of, judged_by, recall
from coordinator.run.last_changes import LastChanges
from coordinator.run.planning import held_out, train_inputs
from coordinator.run.reports.aggregation import Fold
from coordinator.run.reports.masking import Masking
from coordinator.run.rounds.roster import Roster
from coordinator.run.rounds.round_events import Rules
from coordinator.run.rounds.round_machine import RoundMachine
from coordinator.run.run import ActiveRun
from coordinator.run.workers import Store, Worker
from coordinator.store import devices, reports, runs
from coordinator.store.database import Database
from coordinator.store.models import device_heads as shown
from coordinator.store.models import heads, server_states, shared_files, training_bases
from coordinator.store.models.bundle_store import BundleStore, NotHereError
from protos.atomic import write_whole
from protos.convert.head_transfers import parse_difference
from protos.errors import StoreError, UnknownRunError
from protos.model.bundle import Bundle
from protos.model.manifest import MANIFEST_FILE
from protos.plan.plan import RunPlan, parse
from protos.update import trees
from protos.update.trees import Tree


@dataclass(frozen=True)
class Rooms:
    """Where a coordinator keeps its things, and the threads that touch them.

    Attributes:
        store: the database, in the order in which it was asked.
        looks: the same database, for what people ask to see.
        models: for TFLite and files.
        readers: decode reports.
    """

    store: Store
    looks: Store
    models: Worker
    readers: Worker
    bundle_store: BundleStore
    evaluations: Path


def rules_of(plan: RunPlan) -> Rules:
    """When the rounds of this plan open and close."""
    section = plan.round
    return Rules(
        plan.run.rounds,
        section.devices,
        section.quorum,
        section.deadline_s,
        enough=section.enough,
        late=section.late,
        buffer=section.buffer,
    )


async def open_run(rooms: Rooms, run_id: str, now_s: float) -> ActiveRun:
    """A run as the store has it, with the head before training evaluated and written down.

    Raises:
        NotHereError: a file of the run is not in this state folder.
        StoreError: nothing can be read or written now.
        EdgejouleError: the plan's bundle, data or models are not usable any more.
    """
    row = await rooms.store.read(runs.row, run_id)
    plan = parse(row["plan_toml"], where=row["name"])
    bundle = await _bundle_of(rooms, row["bundle_id"])
    head = await rooms.store.read(_newest_head, row)
    if await rooms.store.read(runs.last_round, run_id) is None:
        key, evaluator, score, loss, judged = await rooms.models.do(_first_look, rooms, row, plan, bundle, head)
        if key is not None:
            kept = rooms.evaluations / f"{key}.npz"
            await rooms.store.do(shared_files.share, shared_files.EVALUATIONS, [kept])
        await rooms.store.do(run_transactions.begin_run, run_id, key, score, loss, judged)
    else:
        await _bring_evaluation(rooms, row["evaluation_key"])
        evaluator = await rooms.models.do(_look_again, rooms, row, plan, bundle)
    aggregate = plan.aggregate
    run = ActiveRun(
        run_id=run_id,
        name=row["name"],
        plan=plan,
        bundle=bundle,
        inputs=train_inputs(plan, bundle.manifest, where=row["name"]),
        machine=RoundMachine(rules_of(plan), now_s=now_s),
        roster=Roster(plan, row["engine"], has_twin=bundle.manifest.edge_tpu is not None, run_id=run_id),
        head=head,
        downlink=await rooms.store.read(_downlink, run_id, head, trees.version(bundle.initial_head())),
        evaluator=evaluator,
        lines={},
        fold=Fold(aggregate, bundle.manifest.head.shapes(), {}),
        recent=LastChanges(rooms.evaluations.parent, bundle.manifest.head.shapes()),
        basis=await rooms.store.read(training_bases.get, run_id),
        server=await rooms.store.read(server_states.get, run_id),
        masking=Masking(run_id) if plan.privacy.masked else None,
    )
    await rooms.store.do(_find_place, run, now_s)
    return run


async def take_newest(rooms: Rooms, run: ActiveRun) -> None:
    """Let a run go on with the newest head as it is on disk, and with what stands there beside it.

    Raises:
        StoreError: it cannot be read now; nothing changed.
    """
    row = await rooms.store.read(runs.row, run.run_id)
    head = await rooms.store.read(_newest_head, row)
    start = trees.version(run.bundle.initial_head())
    downlink = await rooms.store.read(_downlink, run.run_id, head, start)
    basis = await rooms.store.read(training_bases.get, run.run_id)
    server = await rooms.store.read(server_states.get, run.run_id)
    run.move_head(head, downlink)
    run.basis, run.server = basis, server


async def _bundle_of(rooms: Rooms, bundle_id: str) -> Bundle:
    """The bundle of a run, from this state folder or from the database's copy; and a copy there, if it has none."""
    try:
        bundle = await rooms.models.do(_bundle, rooms.bundle_store, bundle_id)
    except NotHereError:
        found = await rooms.store.do(shared_files.shared, place_of(bundle_id))
        if not found:
            raise
        return await rooms.models.do(rooms.bundle_store.take_in, bundle_id, found)
    await share_bundle(rooms, bundle)
    return bundle


def place_of(bundle_id: str) -> str:
    """Where the database keeps a bundle's files."""
    return f"{shared_files.BUNDLES}{bundle_id.removeprefix('sha256:')}"


async def share_bundle(rooms: Rooms, bundle: Bundle) -> None:
    """Let a standby find a bundle."""
    files = [bundle.path / name for name in [*bundle.manifest.files, MANIFEST_FILE]]
    await rooms.store.do(shared_files.share, place_of(bundle.bundle_id), files)


async def _bring_evaluation(rooms: Rooms, key: str | None) -> None:
    if key is None or (place := rooms.evaluations / f"{key}.npz").exists():
        return
    found = await rooms.store.do(shared_files.shared, shared_files.EVALUATIONS, place.name)
    for data in found.values():
        await rooms.models.do(_write_evaluation, place, data)


def _write_evaluation(place: Path, data: bytes) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(place) as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(place), fix="free space") from error


def _bundle(bundle_store: BundleStore, bundle_id: str) -> Bundle:
    try:
        return bundle_store.open(bundle_id)
    except UnknownRunError as error:
        # Another state folder beside the same database may hold it: no fault of the run.
        fix = "copy it from the state folder that the run was started in"
        raise NotHereError(f"no bundle {bundle_id} is held here", where=str(bundle_store.folder), fix=fix) from error


def _newest_head(connection: Connection, row: RowMapping) -> Tree:
    version = runs.newest_head(connection, row["run_id"]) or row["initial_head"]
    return heads.get(connection, version)


def _downlink(connection: Connection, run_id: str, head: Tree, start: str) -> Downlink:
    found = shown.get(connection, run_id)
    if found is None:
        return Downlink(head, start)
    tree, stored = found
    links = tuple(Link(link.before, link.after, parse_difference(link.data), len(link.data)) for link in stored)
    return Downlink(tree, start, links)


def _first_look(
    rooms: Rooms, row: RowMapping, plan: RunPlan, bundle: Bundle, head: Tree
) -> tuple[str | None, Evaluator | None, float | None, float | None, str]:
    data = held_out(plan, bundle.manifest, Path(row["plan_directory"]))
    if data is None:
        return None, None, None, None, ""
    key, evaluator = embed(bundle, data, rooms.evaluations)
    found = evaluator.evaluate(head)
    return key, evaluator, *figures_of(found), judged_by(bundle.manifest, found)


def _look_again(rooms: Rooms, row: RowMapping, plan: RunPlan, bundle: Bundle) -> Evaluator | None:
    if row["evaluation_key"] is None:
        return None
    found = recall(bundle, row["evaluation_key"], rooms.evaluations)
    if found is not None:
        return found
    data = held_out(plan, bundle.manifest, Path(row["plan_directory"]))
    if data is None:
        raise NotHereError(
            "the embedded held-out data are not here",
            where=str(rooms.evaluations),
            fix="copy them from the state folder that the run was started in",
        )
    return embed(bundle, data, rooms.evaluations)[1]


def _find_place(db: Database, run: ActiveRun, now_s: float) -> None:
    """Put the machine where the rows say that the run is."""
    with db.reading() as connection:
        last = runs.last_round(connection, run.run_id)
        assert last is not None
        number, attempt = last["round"], last["attempt"]
        # An attempt that a pause ended was no failure.
        rules = run.machine.rules
        rules = replace(rules, attempts=rules.attempts + runs.pauses(connection, run.run_id, number))
        lines = runs.lines_of(connection, run.run_id, number)
        asked = runs.asked(connection, run.run_id, number, attempt)
        refused = runs.refused(connection, run.run_id, number, attempt)
        reported = reports.devices_in(connection, run.run_id, number)
        left = {known.card.device_id for known in devices.known(connection) if known.left}
        current = number + 1 if last["state"] == "closed" else number
        at_work, late = {}, reports.late_in(connection, run.run_id, current)
        if rules.late:
            found = runs.unanswered(connection, run.run_id, max(1, current - rules.late), current)
            at_work = {key: of for key, of in found.items() if key not in left}
    # Those of an earlier attempt that neither reported nor were asked again are no part of this one.
    ordered = dict.fromkeys((*reported, *asked))
    if last["state"] == "closed":
        expected = [device_id for device_id in ordered if device_id not in left]
        run.machine = RoundMachine(rules, round=number + 1, expected=expected, now_s=now_s)
        run.machine.carry(at_work, late)
        return
    if last["state"] == "abandoned":
        run.machine = RoundMachine.retry(
            rules,
            round=number,
            attempt=attempt + 1,
            ordered=lines,
            reported=reported,
            expected=[device_id for device_id in asked if device_id not in left],
            now_s=now_s,
        )
        run.machine.carry(at_work, late)
        round_transactions.refold(db, run, number)
        return
    run.machine = RoundMachine.resume(
        rules,
        round=number,
        attempt=attempt,
        ordered=ordered,
        reported=reported,
        earlier=lines,
        left=left,
        refused=refused,
        now_s=now_s,
    )
    run.machine.carry(at_work, late)
    run.refused.update(refused)
    round_transactions.refold(db, run, number)
    run.ready.set()
