"""Runs, rounds and orders, as rows. Functions take a connection; who calls them says what is one transaction."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    RowMapping,
    Update,
    and_,
    bindparam,
    func,
    select,
    update,
)

from coordinator.budgets.order_line import OrderLine
from coordinator.store import clock, reports
from coordinator.store.models import harvests
from coordinator.store.tables import events, heads, orders, rounds, runs
from protos.errors import UnknownRunError

# What starts runs at its times, and is none itself.
SCHEDULED = "scheduled"
# Not over; and of these, those that wait for their turn or have it.
OPEN_STATES = ("waiting", "running", "paused", SCHEDULED)
GOING_STATES = ("waiting", "running")

# Made once: putting a statement together costs more than a small one takes.
_LAST_ROUND = select(rounds).where(rounds.c.run_id == bindparam("run")).order_by(rounds.c.round.desc()).limit(1)
_ROW = select(runs).where(runs.c.run_id == bindparam("run"))
_RUN: BindParameter[str] = bindparam("run")
_NUMBER: BindParameter[int] = bindparam("number")
_ORDERS = and_(orders.c.run_id == _RUN, orders.c.round == _NUMBER)
_THERE = select(orders.c.device_id, orders.c.budget_j, orders.c.attempt, orders.c.outcome).where(_ORDERS)
_SESSIONS = select(orders.c.device_id, orders.c.session).where(_ORDERS)
_ASKED = (
    select(orders.c.device_id).where(_ORDERS, orders.c.attempt == bindparam("attempt")).order_by(orders.c.device_id)
)
_LINES = select(orders).where(_ORDERS).order_by(orders.c.device_id)
_MISSING = (
    update(orders)
    .where(orders.c.run_id == bindparam("of_run"), orders.c.round == bindparam("number"), orders.c.outcome == "ordered")
    .values(outcome="missing")
)


@dataclass(frozen=True)
class NewRun:
    """What is written down when a run is started; the table of its harvest, if it has one, in a place of its own."""

    run_id: str
    name: str
    plan_id: str
    plan_toml: str
    plan_directory: str
    bundle_id: str
    rounds_planned: int
    initial_head: str
    harvest: bytes | None = None


def add(connection: Connection, run: NewRun, *, state: str = "waiting") -> None:
    """Write down a run that waits for its turn, or a plan that starts by itself."""
    sequence = (connection.execute(select(func.max(runs.c.sequence))).scalar() or 0) + 1
    connection.execute(
        runs.insert().values(
            **{name: value for name, value in vars(run).items() if name != "harvest"},
            sequence=sequence,
            state=state,
            reason="" if state == SCHEDULED else "being prepared",
            started_unix_s=clock.unix_s(),
        )
    )
    if run.harvest is not None:
        harvests.keep(connection, run.run_id, run.harvest)


def row(connection: Connection, run_id: str) -> RowMapping:
    """Everything of one run."""
    return connection.execute(_ROW, {"run": run_id}).mappings().one()


_BUNDLE = select(runs.c.bundle_id).where(runs.c.run_id == bindparam("run"))


def bundle_of(connection: Connection, run_id: str) -> str:
    """Which bundle a run trains."""
    return str(connection.execute(_BUNDLE, {"run": run_id}).scalar_one())


def unfinished(connection: Connection) -> list[RowMapping]:
    """Runs that are not over and not paused, in the order in which they were started."""
    query = select(runs).where(runs.c.state.in_(GOING_STATES)).order_by(runs.c.sequence)
    return list(connection.execute(query).mappings())


def change(connection: Connection, run_id: str, **values: object) -> None:
    """Set columns of a run."""
    connection.execute(_changed_run(tuple(values)), {"of_run": run_id} | _as_new(values))


@functools.cache
def _changed_run(columns: tuple[str, ...]) -> Update:
    return update(runs).where(runs.c.run_id == bindparam("of_run")).values(_from_new(columns))


@functools.cache
def _changed_round(columns: tuple[str, ...]) -> Update:
    which = and_(rounds.c.run_id == bindparam("of_run"), rounds.c.round == bindparam("of_round"))
    return update(rounds).where(which).values(_from_new(columns))


def _from_new(columns: Iterable[str]) -> dict[str, BindParameter[Any]]:
    return {name: bindparam(f"new_{name}") for name in columns}


def _as_new(values: Mapping[str, object]) -> dict[str, object]:
    return {f"new_{name}": value for name, value in values.items()}


def resolve(connection: Connection, name: str) -> str:
    """The id of the run that ``name`` means: its id, the run of that name, or the only id that begins so. Of several
    runs of one name the running one is meant, else the newest.

    Raises:
        UnknownRunError: none, or several ids begin so.
    """
    by_id = select(runs.c.run_id).order_by(runs.c.sequence)
    named = select(runs.c.run_id, runs.c.state).where(runs.c.name == name).order_by(runs.c.sequence.desc())
    exact = connection.execute(by_id.where(runs.c.run_id == name)).scalar()
    if exact is not None:
        return str(exact)
    rows = list(connection.execute(named))
    if rows:
        return str(next((row.run_id for row in rows if row.state == "running"), rows[0].run_id))
    for condition in (
        runs.c.run_id.startswith(name, autoescape=True),
        runs.c.run_id.startswith(f"run-{name}", autoescape=True),
    ):
        found = list(connection.execute(by_id.where(condition)).scalars())
        if len(found) == 1:
            return str(found[0])
        if found:
            some = ", ".join(found[-5:])
            raise UnknownRunError(f"{name!r} means {len(found)} runs", fix=f"give one of the ids: {some}")
    raise UnknownRunError(f"no run is called {name!r}", fix="see: coordinator status")


def open_round(
    connection: Connection,
    run_id: str,
    number: int,
    attempt: int,
    lines: Iterable[OrderLine],
    reason: str,
    sessions: Mapping[str, str] | None = None,
    trained_from: str = "",
) -> None:
    """Write down an open round with its orders. In a later attempt, orders that are there already stay as they are
    and are renewed; only their budgets may fall.

    Args:
        sessions: to which start of each device its order belongs.
        trained_from: the head that devices train from.
    """
    sessions = sessions or {}
    values: dict[str, object] = {"state": "open", "attempt": attempt, "opened_unix_s": clock.unix_s()}
    if trained_from:
        values["trained_from"] = trained_from
    key = {"of_run": run_id, "of_round": number}
    if not connection.execute(_changed_round(tuple(values)), key | _as_new(values)).rowcount:
        connection.execute(rounds.insert(), {"run_id": run_id, "round": number, **values})
    there = {row.device_id: row for row in connection.execute(_THERE, {"run": run_id, "number": number})}
    lines = list(lines)
    fresh = [line for line in lines if line.device_id not in there]
    if fresh:
        blank = {
            "run_id": run_id, "round": number, "attempt": attempt, "outcome": "ordered", "bytes_up": 0, "bytes_down": 0,
        }  # fmt: skip
        connection.execute(orders.insert(), [_order_row(blank, line, sessions) for line in fresh])
    for line in lines:
        before = there.get(line.device_id)
        if before is not None and before.outcome != "accepted":
            limits = [one for one in (before.budget_j, line.budget_j) if one is not None]
            reports.renew(connection, run_id, number, line.device_id, before.attempt)
            connection.execute(
                update(orders)
                .where(_these(run_id, number), orders.c.device_id == line.device_id)
                .values(
                    outcome="ordered",
                    attempt=attempt,
                    budget_j=min(limits, default=None),
                    session=sessions.get(line.device_id),
                )
            )
    change(connection, run_id, state="running", reason=reason)


def _order_row(blank: Mapping[str, object], line: OrderLine, sessions: Mapping[str, str]) -> dict[str, object]:
    own = {"device_id": line.device_id, "steps": line.steps, "budget_j": line.budget_j}
    return {**blank, **own, "session": sessions.get(line.device_id)}


def sessions_of(connection: Connection, run_id: str, number: int) -> dict[str, str | None]:
    """To which start of each device its order belongs: empty when it left, None when that is not known."""
    found = connection.execute(_SESSIONS, {"run": run_id, "number": number})
    return {row.device_id: row.session for row in found}


def belongs_to(
    connection: Connection, run_id: str, number: int, device_id: str, session: str, budget_j: float | None
) -> None:
    """From now on an order belongs to this start of its device, with this budget."""
    which = _these(run_id, number) & (orders.c.device_id == device_id)
    connection.execute(update(orders).where(which).values(session=session, budget_j=budget_j))


def owing(connection: Connection) -> dict[str, set[str]]:
    """By run that is on, who has an order of its open round and has not answered it."""
    of_order = and_(
        orders.c.run_id == rounds.c.run_id, orders.c.round == rounds.c.round, orders.c.attempt == rounds.c.attempt
    )
    query = (
        select(orders.c.run_id, orders.c.device_id)
        .select_from(orders.join(rounds, of_order).join(runs, runs.c.run_id == rounds.c.run_id))
        .where(runs.c.state.in_(GOING_STATES), rounds.c.state == "open", orders.c.outcome == "ordered")
    )
    found: dict[str, set[str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.run_id, set()).add(row.device_id)
    return found


def asked(connection: Connection, run_id: str, number: int, attempt: int) -> list[str]:
    """Whom this attempt at a round asked."""
    return list(connection.execute(_ASKED, {"run": run_id, "number": number, "attempt": attempt}).scalars())


def refused(connection: Connection, run_id: str, number: int, attempt: int) -> list[str]:
    """Whose reports of this attempt were refused: they are not asked again in it."""
    these = _these(run_id, number) & (orders.c.attempt == attempt) & (orders.c.outcome == "rejected")
    return list(connection.execute(select(orders.c.device_id).where(these)).scalars())


def unanswered(connection: Connection, run_id: str, first: int, end: int) -> dict[str, int]:
    """Devices that were asked in rounds ``first`` to ``end - 1``, of which they have not heard since: by device, the
    newest of these rounds."""
    query = select(orders.c.device_id, func.max(orders.c.round).label("newest")).where(
        orders.c.run_id == run_id, orders.c.round >= first, orders.c.round < end, orders.c.outcome == "missing"
    )
    grouped = query.group_by(orders.c.device_id).order_by(orders.c.device_id)
    return {row.device_id: row.newest for row in connection.execute(grouped)}


def trained_from(connection: Connection, run_id: str, number: int) -> tuple[str, int]:
    """The head that devices of a round train from, empty where that is not known, and the round's newest attempt."""
    query = select(rounds.c.trained_from, rounds.c.attempt).where(rounds.c.run_id == run_id, rounds.c.round == number)
    row = connection.execute(query).one()
    return row.trained_from or "", row.attempt


def abandon_round(connection: Connection, run_id: str, number: int, reason: str) -> None:
    """An attempt at a round failed."""
    _end_round(connection, run_id, number, state="abandoned", closed_unix_s=clock.unix_s())
    note(connection, run_id, number, "abandoned", reason)


def close_round(
    connection: Connection,
    run_id: str,
    number: int,
    *,
    head_version: str,
    accuracy: float | None,
    loss: float | None,
) -> None:
    """A round is done: its head, and how good it is."""
    _end_round(
        connection,
        run_id,
        number,
        state="closed",
        closed_unix_s=clock.unix_s(),
        head_version=head_version,
        accuracy=accuracy,
        loss=loss,
    )


def _end_round(connection: Connection, run_id: str, number: int, **values: object) -> None:
    key = {"of_run": run_id, "of_round": number}
    connection.execute(_changed_round(tuple(values)), key | _as_new(values))
    connection.execute(_MISSING, {"of_run": run_id, "number": number})


def add_round_zero(
    connection: Connection, run_id: str, *, head_version: str, accuracy: float | None, loss: float | None
) -> None:
    """The head before any training."""
    now = clock.unix_s()
    connection.execute(
        rounds.insert().values(
            run_id=run_id,
            round=0,
            state="closed",
            attempt=1,
            opened_unix_s=now,
            closed_unix_s=now,
            head_version=head_version,
            accuracy=accuracy,
            loss=loss,
        )
    )


def is_unfinished(connection: Connection, run_id: str, number: int) -> bool:
    """Whether neither the run nor this round of it is over."""
    query = (
        select(rounds.c.state)
        .join(runs, runs.c.run_id == rounds.c.run_id)
        .where(rounds.c.run_id == run_id, rounds.c.round == number, runs.c.state.in_(GOING_STATES))
    )
    return connection.execute(query).scalar() in ("open", "abandoned")


def is_between_attempts(connection: Connection, run_id: str, number: int) -> bool:
    """Whether the newest attempt at this round has ended, and there will be another."""
    query = select(rounds.c.state).where(rounds.c.run_id == run_id, rounds.c.round == number)
    return connection.execute(query).scalar() == "abandoned"


def last_round(connection: Connection, run_id: str) -> RowMapping | None:
    """The newest round, whatever its state."""
    return connection.execute(_LAST_ROUND, {"run": run_id}).mappings().first()


def exists(connection: Connection, run_id: str) -> bool:
    """Whether there is a run of just this id."""
    return connection.execute(select(runs.c.run_id).where(runs.c.run_id == run_id)).first() is not None


def all_ids(connection: Connection) -> list[str]:
    """Every run, in the order in which they were started."""
    return list(connection.execute(select(runs.c.run_id).order_by(runs.c.sequence)).scalars())


def plan_and_shapes(connection: Connection, run_id: str) -> tuple[str, dict[str, tuple[int, ...]]] | None:
    """The plan's text and the shapes of the head, or None for an unknown run."""
    query = (
        select(runs.c.plan_toml, heads.c.shapes)
        .join(heads, runs.c.initial_head == heads.c.version)
        .where(runs.c.run_id == run_id)
    )
    row = connection.execute(query).first()
    return None if row is None else (row.plan_toml, {k: tuple(v) for k, v in json.loads(row.shapes).items()})


def newest_head(connection: Connection, run_id: str) -> str | None:
    """The version of the newest head of a run, or None before round 0 was looked at."""
    query = (
        select(rounds.c.head_version)
        .where(rounds.c.run_id == run_id, rounds.c.state == "closed", rounds.c.head_version.is_not(None))
        .order_by(rounds.c.round.desc())
        .limit(1)
    )
    return connection.execute(query).scalar()


def accuracies(connection: Connection, run_id: str) -> list[tuple[int, float | None]]:
    """Closed rounds in their order, with their accuracy on held-out data; None where nobody looked."""
    query = select(rounds.c.round, rounds.c.accuracy).where(rounds.c.run_id == run_id, rounds.c.state == "closed")
    return [(row.round, row.accuracy) for row in connection.execute(query.order_by(rounds.c.round))]


def pauses(connection: Connection, run_id: str, number: int) -> int:
    """How often the run was paused while a round was open."""
    query = select(func.count()).where(events.c.run_id == run_id, events.c.round == number, events.c.kind == "paused")
    return int(connection.execute(query).scalar_one())


def best_head(connection: Connection, run_id: str) -> str | None:
    """The version of the head with the best accuracy on held-out data, of equal ones the one with the smaller loss,
    then the newest; the newest of all where nobody looked. None before round 0 was looked at."""
    query = select(rounds.c.round, rounds.c.accuracy, rounds.c.loss, rounds.c.head_version)
    held = query.where(rounds.c.run_id == run_id, rounds.c.state == "closed", rounds.c.head_version.is_not(None))
    rows = list(connection.execute(held))
    looked = [row for row in rows if row.accuracy is not None]
    if not looked or any(row.accuracy is None for row in rows):
        return newest_head(connection, run_id)

    def rank(row: Any) -> tuple[float, float, int]:
        return row.accuracy, -math.inf if row.loss is None else -row.loss, row.round

    return str(max(looked, key=rank).head_version)


def last_heads(connection: Connection, run_id: str, before_round: int) -> list[str]:
    """Versions of the two newest heads before a round, the newest first; fewer when there are fewer."""
    query = (
        select(rounds.c.head_version)
        .where(rounds.c.run_id == run_id, rounds.c.state == "closed", rounds.c.round < before_round)
        .order_by(rounds.c.round.desc())
        .limit(2)
    )
    return [str(version) for version in connection.execute(query).scalars()]


def opened_unix_s(connection: Connection, run_id: str, since_round: int) -> list[float]:
    """When the rounds >= 1 from ``since_round`` on opened, in their order."""
    query = (
        select(rounds.c.opened_unix_s)
        .where(rounds.c.run_id == run_id, rounds.c.round >= max(1, since_round))
        .order_by(rounds.c.round)
    )
    return list(connection.execute(query).scalars())


def lines_of(connection: Connection, run_id: str, number: int) -> dict[str, OrderLine]:
    """The orders of a round, by device."""
    rows = connection.execute(_LINES, {"run": run_id, "number": number}).mappings()
    return {row["device_id"]: OrderLine(row["device_id"], row["steps"], row["budget_j"]) for row in rows}


def order_of(connection: Connection, run_id: str, number: int, device_id: str) -> RowMapping | None:
    """One order, or None."""
    query = select(orders).where(_these(run_id, number), orders.c.device_id == device_id)
    return connection.execute(query).mappings().first()


def add_bytes_down(connection: Connection, run_id: str, number: int, sent: Mapping[str, int]) -> None:
    """Count the bytes of orders that were sent, by device."""
    rows = [{"of_device": device_id, "size": size} for device_id, size in sent.items() if size]
    if rows:
        connection.execute(
            update(orders)
            .where(_these(run_id, number), orders.c.device_id == bindparam("of_device"))
            .values(bytes_down=orders.c.bytes_down + bindparam("size")),
            rows,
        )


SO_FAR = "so far"
"""The kind of note that says what those before it come to, for who reads the newest alone; people are not shown it."""

JUDGED = "judged"
"""The kind of note that says what the figures of a round are, where its head is no classifier."""


def note(connection: Connection, run_id: str, number: int | None, kind: str, detail: str) -> None:
    """Write down what happened, in words."""
    connection.execute(
        events.insert().values(run_id=run_id, round=number, unix_s=clock.unix_s(), kind=kind, detail=detail)
    )


def _these(run_id: str, number: int) -> ColumnElement[bool]:
    return and_(orders.c.run_id == run_id, orders.c.round == number)


def head_versions(connection: Connection, run_id: str) -> set[str]:
    """Every head that the run ever had."""
    query = select(rounds.c.head_version).where(rounds.c.run_id == run_id, rounds.c.head_version.is_not(None))
    return {str(version) for version in connection.execute(query).scalars()}
