"""Reports and the energy that came with or after them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    delete,
    or_,
    select,
    update,
)

from coordinator.store.ledger import sums
from coordinator.store.tables import devices, earlier_energy, energy, orders, refusals, reports
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import DeviceReport

# Made once: putting a statement together costs more than a small one takes.
_RUN: BindParameter[str] = bindparam("run")
_NUMBER: BindParameter[int] = bindparam("number")
_OWN = and_(reports.c.round == _NUMBER, reports.c.folded_in.is_(None))
_OF_RUN = select(reports.c.round, reports.c.device_id).where(reports.c.run_id == _RUN).order_by(reports.c.sequence)
_IN_TIME = select(reports.c.device_id).where(reports.c.run_id == _RUN, _OWN).order_by(reports.c.sequence)
_ANY = select(reports.c.sequence).where(reports.c.run_id == _RUN, reports.c.round == _NUMBER).limit(1)
_LATE = _OF_RUN.where(reports.c.folded_in == _NUMBER)
_COUNTING = _OF_RUN.where(or_(_OWN, reports.c.folded_in == _NUMBER))


def reweigh(connection: Connection, report: DeviceReport, weight: float) -> None:
    """Set the weight of an accepted report; it changes when a further attempt at a round brings a larger budget."""
    key = and_(
        reports.c.run_id == report.run_id,
        reports.c.round == report.round,
        reports.c.device_id == report.device_id,
        reports.c.weight != weight,
    )
    connection.execute(update(reports).where(key).values(weight=weight))


def mark(
    connection: Connection,
    run_id: str,
    number: int,
    device_id: str,
    outcome: str,
    size: int,
    attempt: int | None = None,
) -> None:
    """Set what became of an order and count the bytes received; an accepted order stays accepted.

    Args:
        attempt: that the report answers; one that was renewed since is no answer to the order as it is now. None: it
            answers the newest.
    """
    connection.execute(
        update(orders).where(_order(run_id, number, device_id)).values(bytes_up=orders.c.bytes_up + size)
    )
    which = and_(_order(run_id, number, device_id), orders.c.outcome != "accepted")
    if attempt is not None:
        which = and_(which, orders.c.attempt <= attempt)
    connection.execute(update(orders).where(which).values(outcome=outcome))


def holds(connection: Connection, run_id: str, number: int, device_id: str) -> bool:
    """Whether this device's report of this round was accepted."""
    query = select(reports.c.sequence).where(
        reports.c.run_id == run_id, reports.c.round == number, reports.c.device_id == device_id
    )
    return connection.execute(query).first() is not None


def same_as_held(connection: Connection, run_id: str, number: int, device_id: str, data: bytes) -> bool | None:
    """Whether these are the very bytes that were accepted of this device in this round; None when none were."""
    query = select(reports.c.sha256).where(
        reports.c.run_id == run_id, reports.c.round == number, reports.c.device_id == device_id
    )
    held = connection.execute(query).scalar()
    return None if held is None else bytes(held) == hashlib.sha256(data).digest()


def holds_any(connection: Connection, run_id: str, number: int) -> bool:
    """Whether any report of this round was accepted."""
    return connection.execute(_ANY, {"run": run_id, "number": number}).first() is not None


def newest(connection: Connection, run_id: str, before_round: int) -> dict[str, int]:
    """By device, the newest round before this one in which it made a step and its report was accepted."""
    newest = (
        select(reports.c.round)
        .where(
            reports.c.run_id == run_id,
            reports.c.device_id == devices.c.device_id,
            reports.c.round < before_round,
            reports.c.steps_done > 0,
        )
        .order_by(reports.c.round.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = connection.execute(select(devices.c.device_id, newest.label("newest")).order_by(devices.c.device_id))
    return {row.device_id: row.newest for row in found if row.newest is not None}


def weights_between(connection: Connection, run_id: str, first: int, end: int) -> dict[str, float]:
    """The newest weight of each device that made a step in rounds ``first`` to ``end - 1``."""
    query = (
        select(reports.c.device_id, reports.c.weight)
        .where(reports.c.run_id == run_id, reports.c.round >= first, reports.c.round < end, reports.c.steps_done > 0)
        .order_by(reports.c.round)
    )
    return {row.device_id: float(row.weight) for row in connection.execute(query)}


def data_of(connection: Connection, run_id: str, number: int, device_id: str) -> bytes:
    """An accepted report as it came."""
    query = select(reports.c.data).where(
        reports.c.run_id == run_id, reports.c.round == number, reports.c.device_id == device_id
    )
    return bytes(connection.execute(query).scalar_one())


def devices_in(connection: Connection, run_id: str, number: int) -> list[str]:
    """Who reported a round in time, in the order of acceptance."""
    return list(connection.execute(_IN_TIME, {"run": run_id, "number": number}).scalars())


def late_in(connection: Connection, run_id: str, number: int) -> list[tuple[int, str]]:
    """Reports of earlier rounds that count in this one: round and device, in the order of acceptance."""
    found = connection.execute(_LATE, {"run": run_id, "number": number})
    return [(row.round, row.device_id) for row in found]


def counting_in(connection: Connection, run_id: str, number: int) -> list[tuple[int, str]]:
    """Every report that counts in a round, its own and late ones: round and device, in the order of acceptance."""
    found = connection.execute(_COUNTING, {"run": run_id, "number": number})
    return [(row.round, row.device_id) for row in found]


def in_order(connection: Connection, run_id: str, number: int) -> Iterator[tuple[int, bytes]]:
    """The reports that count in a round as they came, with the round that each is of, in the order of acceptance, one
    in memory at a time."""
    for of_round, device_id in counting_in(connection, run_id, number):
        yield of_round, data_of(connection, run_id, of_round, device_id)


def refuse(connection: Connection, run_id: str, number: int, device_id: str, code: str, detail: str) -> None:
    """Count a refused report by its reason."""
    key = and_(
        refusals.c.run_id == run_id,
        refusals.c.round == number,
        refusals.c.device_id == device_id,
        refusals.c.code == code,
    )
    changed = connection.execute(update(refusals).where(key).values(count=refusals.c.count + 1, detail=detail))
    if not changed.rowcount:
        connection.execute(
            refusals.insert().values(
                run_id=run_id, round=number, device_id=device_id, code=code, count=1, detail=detail
            )
        )


def settle(
    connection: Connection,
    run_id: str,
    number: int,
    device_id: str,
    records: Iterable[PhaseEnergy],
    attempt: int | None = None,
) -> None:
    """Write energy by phase. Said again of the same attempt, it replaces what was there; an unknown never replaces a
    known. That of another attempt than the one that counts stands beside it: of the accepted report's, and without one
    of the newest.

    Args:
        attempt: of the order that it was spent on; None: of the one that counts.
    """
    table, more = energy, dict[str, object]()
    if attempt is not None and not _counts(connection, run_id, number, device_id, attempt):
        table, more = earlier_energy, {"attempt": attempt}
    sums.outdate(connection, [(run_id, number, device_id)])
    for record in records:
        key = and_(
            table.c.run_id == run_id,
            table.c.round == number,
            table.c.device_id == device_id,
            table.c.phase == str(record.phase),
            *(table.c[name] == value for name, value in more.items()),
        )
        there = connection.execute(select(table.c.energy_j).where(key)).first()
        if there is not None and there.energy_j is not None and record.energy_j is None:
            continue
        values: dict[str, object] = {
            "energy_j": record.energy_j,
            "covered_s": record.covered_s,
            "uncovered_s": record.uncovered_s,
            "method": record.method,
            "sensor": record.sensor,
            "uncertainty_j": record.uncertainty_j,
            "flags": json.dumps(record.flags),
        }
        if there is not None:
            connection.execute(update(table).where(key).values(**values))
        else:
            connection.execute(
                table.insert().values(
                    run_id=run_id, round=number, device_id=device_id, phase=str(record.phase), **values, **more
                )
            )


def _counts(connection: Connection, run_id: str, number: int, device_id: str, attempt: int) -> bool:
    """Whether it is this attempt at an order whose joules are those of the order."""
    order = connection.execute(select(orders.c.attempt).where(_order(run_id, number, device_id))).scalar()
    query = select(reports.c.attempt).where(
        reports.c.run_id == run_id, reports.c.round == number, reports.c.device_id == device_id
    )
    held = connection.execute(query).scalar()
    return held == attempt if held is not None else order is None or attempt >= order


def renew(connection: Connection, run_id: str, number: int, device_id: str, attempt: int) -> None:
    """The order of this attempt is about to be renewed: what it cost so far stands for itself from now on."""
    key = and_(energy.c.run_id == run_id, energy.c.round == number, energy.c.device_id == device_id)
    rows = [{**row, "attempt": attempt} for row in connection.execute(select(energy).where(key)).mappings()]
    if rows:
        connection.execute(earlier_energy.insert(), rows)
        connection.execute(delete(energy).where(key))


def count_earlier(connection: Connection, run_id: str, number: int, device_id: str, attempt: int, newest: int) -> None:
    """A report of this attempt is about to be accepted, though the order was renewed: its joules, which may have been
    told when it came too late, are those of the order again, and those of the newest attempt stand for themselves."""
    sums.outdate(connection, [(run_id, number, device_id)])
    renew(connection, run_id, number, device_id, newest)
    key = and_(
        earlier_energy.c.run_id == run_id,
        earlier_energy.c.round == number,
        earlier_energy.c.device_id == device_id,
        earlier_energy.c.attempt == attempt,
    )
    found = connection.execute(select(earlier_energy).where(key)).mappings()
    rows = [{name: value for name, value in row.items() if name in energy.c} for row in found]
    if rows:
        connection.execute(energy.insert(), rows)
        connection.execute(delete(earlier_energy).where(key))


def energy_of(connection: Connection, run_id: str, number: int, device_id: str) -> list[PhaseEnergy]:
    """What is known of the joules of one order, by phase."""
    query = select(energy).where(energy.c.run_id == run_id, energy.c.round == number, energy.c.device_id == device_id)
    return [record_of(row) for row in connection.execute(query).mappings()]


def record_of(row: RowMapping) -> PhaseEnergy:
    """A row of energy as a record."""
    return PhaseEnergy(
        Phase(row["phase"]), row["energy_j"], row["covered_s"], row["uncovered_s"], row["method"], row["sensor"],
        row["uncertainty_j"], tuple(json.loads(row["flags"])),
    )  # fmt: skip


def _order(run_id: str, number: int, device_id: str) -> ColumnElement[bool]:
    return and_(orders.c.run_id == run_id, orders.c.round == number, orders.c.device_id == device_id)
