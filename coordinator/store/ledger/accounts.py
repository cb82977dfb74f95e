"""The ledger of joules: what orders granted, what devices reported to have spent, and what lies between.

Every figure is made of rows that are written once, under the key of their order and phase. So a report that is sent
twice counts once, energy that is told late counts when it comes, and a restart changes no figure. What lies two rounds
back is summed already (:mod:`coordinator.store.ledger.sums`), and summed again when a figure of it changes.

An order is *settled* when the joules of all its phases of work are known. Until then, whatever its grant leaves beyond
what is known counts as *uncertain*: it may have been spent. Where its report was taken and only the sending is missing,
:data:`SENDING_MARGIN` times its expected joules count. An order that was never answered, or whose sensor failed, stays
uncertain as a whole, and so does what an order granted to a start of its device that ended: nobody will ever say what
that has spent.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)

from coordinator.budgets.order_line import OrderLine
from coordinator.store.keys import batched
from coordinator.store.ledger import sums
from coordinator.store.ledger.sums import BEHIND, Mark
from coordinator.store.tables import devices, earlier_energy, energy, grants, orders, reports, rounds, runs
from protos.energy.trace import Phase
from protos.orders import CostHint

SENDING_MARGIN = 2.0
# What every order's report tells sooner or later.
WORKING = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
# Joules of orders and bundles as they come in are charged, too; devices of an earlier release call that idle time.
CHARGED = (Phase.RECEIVE, *WORKING)

# What is the same in all rows of energy of one order.
_PER_ORDER: tuple[ColumnElement[Any], ...] = (
    grants.c.run_id,
    grants.c.round,
    grants.c.device_id,
    grants.c.unix_s,
    grants.c.granted_j,
    grants.c.lost_j,
    grants.c.expected_j,
    grants.c.sending_j,
    orders.c.outcome,
)


# Made once: putting a statement together costs more than a small one takes.
_RUN: BindParameter[str] = bindparam("run")
_OF_ROUND = and_(grants.c.run_id == _RUN, grants.c.round == bindparam("number"))
_GRANTED, _GRANTS = select(grants.c.device_id).where(_OF_ROUND), select(grants).where(_OF_ROUND)


def add(connection: Connection, run_id: str, number: int, lines: Iterable[OrderLine], now_unix_s: float) -> None:
    """Write down what orders promise; those of an earlier attempt at the round stay as they were."""
    there = set(connection.execute(_GRANTED, {"run": run_id, "number": number}).scalars())
    rows = [
        {
            "run_id": run_id,
            "round": number,
            "device_id": line.device_id,
            "unix_s": now_unix_s,
            "granted_j": line.budget_j,
            "expected_j": line.expected_j,
            "sending_j": None if line.costs is None else line.costs.sending_j,
            "standing_j": line.standing_j,
            "probability": line.probability,
            "factor": line.factor,
            "bits": line.bits,
            "costs": json.dumps(None if line.costs is None else vars(line.costs)),
            "bytes_up": 0,
            "learnt": 0,
        }
        for line in lines
        if line.device_id not in there
    ]
    if rows:
        connection.execute(grants.insert(), rows)


def close_promise(connection: Connection, run_id: str, number: int, device_id: str, *, ended: bool) -> None:
    """Before an order is granted anew: of what it granted so far stays granted what is known to be spent, and what
    sending it may have taken that is not told yet. What else may be spent is lost.

    Args:
        ended: it went to a start of the device that ended, which may have spent all of it. Else the start that asks
            again told what it did before it asked: only what its reports left open may be spent.
    """
    granted_j, known_j, sending_j = _granted_and_known(connection, run_id, number, device_id)
    if granted_j is None:
        return
    open_j = max(0.0, granted_j - known_j)
    left_j = open_j if ended else min(open_j, _left_open(connection, run_id, number, device_id, sending_j))
    if ended or left_j == open_j:
        _grant(connection, run_id, number, device_id, known_j, left_j)
    else:
        _grant(connection, run_id, number, device_id, known_j + left_j)


def is_told_of(connection: Connection, run_id: str, number: int, device_id: str) -> bool:
    """Whether anything is known of what an order cost, in any attempt."""
    for table in (energy, earlier_energy):
        query = select(table.c.phase).where(
            table.c.run_id == run_id, table.c.round == number, table.c.device_id == device_id
        )
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False


def promise(connection: Connection, run_id: str, number: int, device_id: str, budget_j: float) -> None:
    """Grant so much beyond what the attempts before took."""
    granted_j, known_j, sending_j = _granted_and_known(connection, run_id, number, device_id)
    if granted_j is None:
        return
    left_j = _left_open(connection, run_id, number, device_id, sending_j)
    _grant(connection, run_id, number, device_id, known_j + (left_j if left_j < math.inf else 0.0) + budget_j)


def _grant(
    connection: Connection, run_id: str, number: int, device_id: str, granted_j: float, lost_j: float = 0.0
) -> None:
    sums.outdate(connection, [(run_id, number, device_id)])
    connection.execute(
        update(grants)
        .where(_order(run_id, number, device_id))
        .values(lost_j=grants.c.lost_j + lost_j, granted_j=granted_j)
    )


def _granted_and_known(
    connection: Connection, run_id: str, number: int, device_id: str
) -> tuple[float | None, float, float | None]:
    """What is granted, what is known to be spent in all attempts, and what sending is expected to take."""
    query = select(grants.c.granted_j, grants.c.sending_j).where(_order(run_id, number, device_id))
    row = connection.execute(query).first()
    if row is None:
        return None, 0.0, None
    known_j = sum(_sum_of(connection, table, run_id, number, device_id) for table in (energy, earlier_energy))
    return row.granted_j, known_j, row.sending_j


def _sum_of(connection: Connection, table: Table, run_id: str, number: int, device_id: str) -> float:
    working = table.c.phase.in_([str(phase) for phase in CHARGED])
    query = select(func.sum(table.c.energy_j)).where(
        table.c.run_id == run_id, table.c.round == number, table.c.device_id == device_id, working
    )
    return max(0.0, connection.execute(query).scalar() or 0.0)


def _left_open(connection: Connection, run_id: str, number: int, device_id: str, sending_j: float | None) -> float:
    """Joules of earlier attempts that their reports left open: of those that tell something and not all, infinitely
    many, or where the sending alone is missing :data:`SENDING_MARGIN` times what it is expected to take."""
    query = select(earlier_energy.c.attempt, earlier_energy.c.phase).where(
        earlier_energy.c.run_id == run_id,
        earlier_energy.c.round == number,
        earlier_energy.c.device_id == device_id,
        earlier_energy.c.energy_j.is_not(None),
    )
    told: dict[int, set[str]] = defaultdict(set)
    for row in connection.execute(query):
        told[row.attempt].add(row.phase)
    everyone = {str(phase) for phase in WORKING}
    left_j = 0.0
    for phases in told.values():
        missing = everyone - phases
        if missing == {str(Phase.SEND)} and sending_j is not None:
            left_j += SENDING_MARGIN * sending_j
        elif missing:
            return math.inf
    return left_j


def complete(connection: Connection, run_id: str, number: int, lines: Mapping[str, OrderLine]) -> dict[str, OrderLine]:
    """The lines of a round with all that was written down of them; orders of an older version have no more."""
    found = {row["device_id"]: row for row in connection.execute(_GRANTS, {"run": run_id, "number": number}).mappings()}
    made: dict[str, OrderLine] = {}
    for device_id, line in lines.items():
        row = found.get(device_id)
        if row is None:
            made[device_id] = replace(line, standing_j=line.budget_j)
            continue
        costs = json.loads(row["costs"])
        made[device_id] = replace(
            line,
            standing_j=row["standing_j"],
            probability=row["probability"],
            factor=row["factor"],
            bits=row["bits"],
            expected_j=row["expected_j"],
            costs=None if costs is None else CostHint(**costs),
        )
    return made


def reported(
    connection: Connection, run_id: str, number: int, device_id: str, size: int, sizes: tuple[float, float] | None
) -> None:
    """Note how large an accepted report and its change are."""
    change, deviation = sizes if sizes is not None else (None, None)
    connection.execute(
        update(grants)
        .where(_order(run_id, number, device_id))
        .values(bytes_up=size, change=change, deviation=deviation)
    )


@dataclass(frozen=True)
class Account:
    """Joules of one device, idling left out.

    Attributes:
        orders: that were made.
        granted_j: by those that had a limit.
        spent_j: reported and known.
        uncertain_j: granted, not known to be spent, and not known not to be.
        pending_j: expected of orders that are not settled, beyond what is known of them.
        others_j: of spent and uncertain, in all other runs; 0 where nobody asked for it.
        today_j: of spent and uncertain, what was granted since ``since``.
        unlimited: orders without a limit whose joules are not all known.
    """

    orders: int = 0
    granted_j: float = 0.0
    spent_j: float = 0.0
    uncertain_j: float = 0.0
    today_j: float = 0.0
    unlimited: int = 0
    pending_j: float = 0.0
    others_j: float = 0.0


def accounts(
    connection: Connection,
    run_id: str,
    since_unix_s: float,
    renewed: tuple[int, Collection[str]] = (0, ()),
    *,
    with_today: bool = True,
    keep: bool = False,
    only: Sequence[str] | None = None,
    ever: bool = False,
) -> dict[str, Account]:
    """By device, what one run cost it; ``today_j`` counts every run, since a day's budget is the device's own.

    Args:
        renewed: a round that is planned again, and the devices whose orders of it are then renewed: of these orders
            only what is known to be spent counts, or a promise would stand against itself.
        with_today: without it the other runs are not looked at, and ``today_j`` is of this run alone.
        keep: write down how far it was summed, in a transaction that writes; not together with ``only``.
        only: of these devices, a few hundred at most; None: of all.
        ever: fill in ``others_j``, for which every run is looked at.

    The sum over devices runs over a handful of columns and no report's bytes, and over the newest rounds alone.
    """
    number, renewing = renewed
    own = {(run_id, number, device_id) for device_id in renewing}
    here = _of_run(connection, run_id, since_unix_s, own, keep=keep, only=only)
    if not (with_today or ever):
        return here
    made = dict(here)
    others = select(runs.c.run_id).where(runs.c.run_id != run_id)
    if not ever:
        others = others.where(or_(runs.c.finished_unix_s.is_(None), runs.c.finished_unix_s >= since_unix_s))
    for other in connection.execute(others.order_by(runs.c.sequence)).scalars().all():
        for device_id, account in _of_run(connection, other, since_unix_s, own, keep=keep, only=only).items():
            spent_j = account.spent_j + account.uncertain_j if ever else 0.0
            if account.today_j or spent_j:
                before = made.get(device_id, Account())
                made[device_id] = replace(
                    before,
                    today_j=before.today_j + account.today_j * with_today,
                    others_j=before.others_j + spent_j,
                )
    return {device_id: made[device_id] for device_id in sorted(made)}


def devices_after(connection: Connection, run_id: str, after: str, most: int) -> list[str]:
    """Devices of a run with ids behind this one, in their order, so many at most."""
    query = (
        select(grants.c.device_id)
        .where(grants.c.run_id == run_id, grants.c.device_id > after)
        .distinct()
        .order_by(grants.c.device_id)
        .limit(most)
    )
    return list(connection.execute(query).scalars())


def _of_run(
    connection: Connection,
    run_id: str,
    since_unix_s: float,
    own: Collection[tuple[str, int, str]],
    *,
    keep: bool,
    only: Sequence[str] | None,
) -> dict[str, Account]:
    """The accounts of one run: the sums that are written down, and the orders behind and beyond them."""
    before = sums.mark(connection, run_id)
    anew = before.since_unix_s != since_unix_s
    stored, stale = ({}, []) if anew else sums.of_run(connection, run_id, only)
    first = 0 if anew else before.through
    known = {device_id: Account(**figures) for device_id, figures in stored.items()}
    which = grants.c.run_id == run_id if only is None else and_(grants.c.run_id == run_id, grants.c.device_id.in_(only))
    number, few = grants.c.round, only is not None
    for some in batched(stale):
        known |= _accounts(connection, and_(which, grants.c.device_id.in_(some), number <= first), since_unix_s, own)
    newest = connection.execute(select(func.max(rounds.c.round)).where(rounds.c.run_id == run_id)).scalar() or 0
    to = Mark(max(first, newest - BEHIND), since_unix_s)
    fixed = dict(known)
    if to.through > first:
        fixed = _accounts(
            connection, and_(which, number > first, number <= to.through), since_unix_s, own, known, few=few
        )
    if keep and (to.through > first or stale or anew):
        again = set(stale)
        changed = {
            device_id: account
            for device_id, account in fixed.items()
            if anew or device_id in again or account is not known.get(device_id)
        }
        sums.keep(connection, run_id, to, changed, anew=anew)
    return _accounts(connection, and_(which, number > to.through), since_unix_s, own, fixed, few=few)


def _found(which: ColumnElement[bool], *, few: bool) -> FromClause:
    """The grants to sum; of a few devices by their keys, which an index has together."""
    if not few:
        return grants
    # What is distinct is made first, and not taken apart again.
    picked = select(grants.c.run_id, grants.c.round, grants.c.device_id).where(which).distinct().subquery()
    return picked.join(
        grants,
        and_(
            grants.c.run_id == picked.c.run_id,
            grants.c.round == picked.c.round,
            grants.c.device_id == picked.c.device_id,
        ),
    )


def _accounts(
    connection: Connection,
    which: ColumnElement[bool],
    since_unix_s: float,
    own: Collection[tuple[str, int, str]],
    begun: Mapping[str, Account] | None = None,
    *,
    few: bool = False,
) -> dict[str, Account]:
    """Sums over orders, going on from accounts that have begun.

    Args:
        few: of few devices of a run: their grants are looked up first, since a database that does not count rows
            would rather read all of the run.
    """
    same = and_(
        energy.c.run_id == grants.c.run_id, energy.c.round == grants.c.round, energy.c.device_id == grants.c.device_id
    )
    earlier = (
        select(func.sum(earlier_energy.c.energy_j))
        .where(
            earlier_energy.c.run_id == grants.c.run_id,
            earlier_energy.c.round == grants.c.round,
            earlier_energy.c.device_id == grants.c.device_id,
            earlier_energy.c.phase.in_([str(phase) for phase in CHARGED]),
        )
        .correlate(grants)
        .scalar_subquery()
    )
    known = (
        select(
            *_PER_ORDER,
            earlier.label("earlier_j"),
            func.sum(energy.c.energy_j).label("spent_j"),
            func.count(energy.c.energy_j).filter(energy.c.phase != str(Phase.RECEIVE)).label("phases"),
            # Who tells nothing of what came in has no such row.
            func.count(energy.c.phase)
            .filter(energy.c.phase == str(Phase.RECEIVE), energy.c.energy_j.is_(None))
            .label("unseen"),
            func.count(energy.c.energy_j).filter(energy.c.phase == str(Phase.SEND)).label("sent"),
        )
        .select_from(
            # Every grant has its order. As an outer join it begins with the grants.
            _found(which, few=few)
            .outerjoin(orders, _joined(orders))
            .outerjoin(energy, same & energy.c.phase.in_([str(phase) for phase in CHARGED]))
        )
        .where(*([] if few else [which]))
    )
    known = known.group_by(*_PER_ORDER).order_by(grants.c.run_id, grants.c.round)
    made: dict[str, Account] = defaultdict(Account, begun or {})
    for row in connection.execute(known):
        before = made[row.device_id]
        now_j = max(0.0, row.spent_j or 0.0)
        spent_j = now_j + max(0.0, row.earlier_j or 0.0)
        settled = row.phases == len(WORKING) and not row.unseen
        promised = not settled and (row.run_id, row.round, row.device_id) not in own
        uncertain_j = 0.0 if not promised or row.granted_j is None else max(0.0, row.granted_j - spent_j)
        # The sending alone is missing. Where another phase is unknown as well, all of the grant may have been spent.
        only_sending = row.phases - row.sent == len(WORKING) - 1 and not row.unseen
        if row.outcome == "accepted" and row.sending_j is not None and only_sending:
            uncertain_j = min(uncertain_j, SENDING_MARGIN * row.sending_j)
        uncertain_j += row.lost_j
        made[row.device_id] = Account(
            before.orders + 1,
            before.granted_j + (row.granted_j or 0.0) + row.lost_j,
            before.spent_j + spent_j,
            before.uncertain_j + uncertain_j,
            before.today_j + (spent_j + uncertain_j if row.unix_s >= since_unix_s else 0.0),
            before.unlimited + (row.granted_j is None and not settled),
            before.pending_j + (max(0.0, (row.expected_j or 0.0) - now_j) if promised else 0.0),
        )
    return dict(made)


@dataclass(frozen=True)
class Lesson:
    """A settled order that the device's costs were not fitted to yet."""

    run_id: str
    round: int
    embedded: int
    steps: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Past:
    """What is known of a device's reports in a run: rounds, and the sizes of the last change.

    Attributes:
        rounds: in which a report was accepted: all of them, or the newest alone.
    """

    rounds: tuple[int, ...] = ()
    change: float | None = None
    deviation: float | None = None


def past(
    connection: Connection, run_id: str, device_ids: Iterable[str], *, every_round: bool = False
) -> dict[str, Past]:
    """Of these devices, by device, in one run. What it costs grows with the devices and not with the rounds, but for
    ``every_round``, which reads a number of each report."""
    made: dict[str, Past] = {}
    for some in batched(device_ids):
        made |= _newest_of(connection, run_id, some)
        if every_round:
            rounds: dict[str, list[int]] = defaultdict(list)
            query = (
                select(reports.c.device_id, reports.c.round)
                .where(reports.c.run_id == run_id, reports.c.device_id.in_(some))
                .order_by(reports.c.round)
            )
            for row in connection.execute(query):
                rounds[row.device_id].append(row.round)
            for device_id, found in rounds.items():
                made[device_id] = replace(made[device_id], rounds=tuple(found))
    return made


def _newest_query() -> Select[Any]:
    reported = (
        select(reports.c.round)
        .where(reports.c.run_id == _RUN, reports.c.device_id == devices.c.device_id)
        .order_by(reports.c.round.desc())
        .limit(1)
        .scalar_subquery()
    )
    changed = (
        select(grants.c.round)
        .where(grants.c.run_id == _RUN, grants.c.device_id == devices.c.device_id, grants.c.change.is_not(None))
        .order_by(grants.c.round.desc())
        .limit(1)
        .scalar_subquery()
    )
    newest = (
        select(devices.c.device_id, reported.label("reported"), changed.label("changed"))
        .where(devices.c.device_id.in_(bindparam("devices", expanding=True)))
        .subquery()
    )
    own = and_(grants.c.run_id == _RUN, grants.c.round == newest.c.changed, grants.c.device_id == newest.c.device_id)
    return (
        select(newest.c.device_id, newest.c.reported, grants.c.change, grants.c.deviation)
        .select_from(newest.outerjoin(grants, own))
        .where(newest.c.reported.is_not(None))
    )


_NEWEST = _newest_query()


def _newest_of(connection: Connection, run_id: str, device_ids: list[str]) -> dict[str, Past]:
    """By device, the newest round that it reported, and the newest change; a look into an index for each."""
    found = connection.execute(_NEWEST, {"run": run_id, "devices": device_ids})
    return {row.device_id: Past((row.reported,), row.change, row.deviation) for row in found}


def _joined(table: Any) -> ColumnElement[bool]:
    return and_(
        table.c.run_id == grants.c.run_id, table.c.round == grants.c.round, table.c.device_id == grants.c.device_id
    )


def _round(run_id: str, number: int) -> ColumnElement[bool]:
    return and_(grants.c.run_id == run_id, grants.c.round == number)


def _order(run_id: str, number: int, device_id: str) -> ColumnElement[bool]:
    return and_(_round(run_id, number), grants.c.device_id == device_id)
