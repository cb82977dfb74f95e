"""Runs and who takes part in them, written down: each function is one transaction, or reads only. All run in the thread
of the store (:class:`coordinator.run.workers.Store`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.run.run import ActiveRun
from coordinator.store import clock, devices, reports, runs
from coordinator.store.database import Database
from coordinator.store.models import harvests, heads
from protos.errors import EdgejouleError, RefusedError
from protos.orders import DeviceCard
from protos.plan.plan import RunPlan, parse
from protos.update import trees
from protos.update.trees import Tree


def end_run(db: Database, run_id: str, state: str, reason: str) -> None:
    """Write down that a run is over; a round that is open stays behind as abandoned."""
    with db.writing() as connection:
        if runs.row(connection, run_id)["state"] not in runs.OPEN_STATES:
            return
        last = runs.last_round(connection, run_id)
        if last is not None and last["state"] == "open":
            runs.abandon_round(connection, run_id, last["round"], reason or state)
        runs.change(connection, run_id, state=state, reason=reason, finished_unix_s=clock.unix_s())


def pause_run(db: Database, run_id: str) -> None:
    """Write down that a run rests; a round that is open is tried again when it goes on, and keeps its reports."""
    with db.writing() as connection:
        if runs.row(connection, run_id)["state"] not in (*runs.GOING_STATES, runs.SCHEDULED):
            return
        last = runs.last_round(connection, run_id)
        number = None
        if last is not None and last["state"] == "open":
            number = last["round"]
            runs.abandon_round(connection, run_id, number, "paused by an operator")
        runs.note(connection, run_id, number, "paused", "by an operator")
        runs.change(connection, run_id, state="paused", reason="paused by an operator")


def resume_run(
    db: Database, run_id: str, plan: RunPlan | None, plan_toml: str, directory: str, harvest: bytes | None = None
) -> None:
    """Let a run that rests wait for its turn again.

    Args:
        plan: another one than it has, or None; with its text and folder, and the table of its harvest.

    Raises:
        RefusedError: it does not rest, or cannot go on by this plan.
    """
    with db.writing() as connection:
        row = runs.row(connection, run_id)
        if row["state"] != "paused":
            raise RefusedError(f"is {row['state']}, not paused", where=run_id, fix="see: coordinator status")
        begun = runs.last_round(connection, run_id)
        if (parse(row["plan_toml"]).times is not None) and (plan is None or plan.times is not None):
            # Its times during the pause were none.
            runs.note(connection, run_id, None, "resumed", "" if plan is None else f"by another plan: {plan.plan_id}")
            values = {} if plan is None else _by(plan, plan_toml, directory)
            runs.change(connection, run_id, state=runs.SCHEDULED, reason="", **values)
            return
        if plan is not None and (plan.times is not None or parse(row["plan_toml"]).times is not None):
            what = "a plan that starts by itself and one that does not are no two plans of one run"
            raise RefusedError(what, where=run_id, fix="stop it, and start the other")
        state = "waiting" if begun is None or not begun["round"] else "running"
        if plan is None:
            runs.change(connection, run_id, state=state, reason="")
            return
        before, number = parse(row["plan_toml"]), 0 if begun is None else begun["round"]
        if plan.train.method != before.train.method or plan.closed_form != before.closed_form:
            raise RefusedError("another method is another run", where=run_id, fix="start one with run.start_from")
        if begun is not None and begun["state"] != "closed" and reports.holds_any(connection, run_id, number):
            raise RefusedError(
                f"round {number} holds reports that were made by the plan it has",
                where=run_id,
                fix=f"resume it as it is, then pause it between rounds: coordinator pause {run_id} --after-round",
            )
        closed = number if begun is not None and begun["state"] == "closed" else number - 1
        if not plan.round.late and reports.late_in(connection, run_id, closed + 1):
            raise RefusedError(
                f"round {closed + 1} holds late reports, and this plan takes none",
                where=run_id,
                fix=f"set round.late, or resume it as it is, and pause it anew: coordinator pause {run_id} "
                "--after-round",
            )
        if plan.run.rounds <= max(0, closed):
            raise RefusedError(f"has {closed} rounds already", where=run_id, fix=f"plan more than {closed} rounds")
        harvests.keep(connection, run_id, harvest)
        runs.note(connection, run_id, None, "resumed", f"by another plan: {plan.plan_id}, before {row['plan_id']}")
        runs.change(connection, run_id, state=state, reason="", **_by(plan, plan_toml, directory))


def _by(plan: RunPlan, plan_toml: str, directory: str) -> dict[str, object]:
    return {
        "name": plan.run.name,
        "plan_id": plan.plan_id,
        "plan_toml": plan_toml,
        "plan_directory": directory,
        "rounds_planned": plan.run.rounds,
    }


def add_run(db: Database, run: runs.NewRun, head: Tree, *, state: str = "waiting") -> None:
    """Write down a new run with the head that it starts from, or a plan that starts by itself."""
    assert run.initial_head == trees.version(head)
    with db.writing() as connection:
        heads.put(connection, head)
        runs.add(connection, run, state=state)


def begin_run(
    db: Database, run_id: str, evaluation_key: str | None, accuracy: float | None, loss: float | None, judged: str = ""
) -> None:
    """Write down round 0: the head before any training."""
    with db.writing() as connection:
        row = runs.row(connection, run_id)
        runs.change(connection, run_id, evaluation_key=evaluation_key, reason="")
        runs.add_round_zero(connection, run_id, head_version=row["initial_head"], accuracy=accuracy, loss=loss)
        if judged:
            runs.note(connection, run_id, 0, runs.JUDGED, judged)


@dataclass(frozen=True)
class Queued:
    """A run that is not over.

    Attributes:
        beside: it waits for no other run.
        priority, sequence: a higher priority goes first, then who was started first.
        share: of the devices.
    """

    run_id: str
    beside: bool
    priority: int
    share: float
    sequence: int


def queue(db: Database) -> list[Queued]:
    """The runs that are not over, in the order of their turns: those that have begun go on before others begin."""
    with db.reading() as connection:
        rows = runs.unfinished(connection)
    made = []
    for row in rows:
        try:
            section = parse(row["plan_toml"], where=row["name"]).run
        except EdgejouleError:
            # Whoever opens it says what is wrong.
            made.append(((True, 0, 0), Queued(row["run_id"], False, 0, 1.0, row["sequence"])))
            continue
        one = Queued(row["run_id"], section.beside, section.priority, section.share, row["sequence"])
        made.append(((row["state"] == "waiting", -one.priority, one.sequence), one))
    return [queued_run for _, queued_run in sorted(made, key=lambda pair: pair[0])]


def unfinished_runs(db: Database) -> list[str]:
    """Ids of the runs that are not over, in the order of their turns."""
    return [queued_run.run_id for queued_run in queue(db)]


def join(db: Database, cards: Sequence[DeviceCard]) -> list[None]:
    """Write down that devices joined."""
    with db.writing() as connection:
        for card in cards:
            devices.join(connection, card)
    return [None] * len(cards)


def leave(db: Database, device_id: str, reason: str = "", run: ActiveRun | None = None) -> None:
    """Write down that a device said goodbye, and why.

    Args:
        run: whose order it has not answered: what was spent on that nobody will say.
    """
    with db.writing() as connection:
        devices.leave(connection, device_id, reason)
        if run is not None:
            budget_j = run.lines[device_id].budget_j
            runs.belongs_to(connection, run.run_id, run.machine.round, device_id, "", budget_j)
    if run is not None:
        run.sessions[device_id] = ""
