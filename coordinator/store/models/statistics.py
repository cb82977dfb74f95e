"""The statistics that a run stands on: those of its own reports, and of the run that it adds to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select, update

from coordinator.store import runs
from coordinator.store.tables import orders, reports
from protos.convert.reports import parse_report, serialise_report
from protos.plan.plan import parse
from protos.statistics.coding import CodedMoments


@dataclass(frozen=True)
class Held:
    """The statistics of one device, as they are kept.

    Attributes:
        examples: behind them.
        say: the device's weight by the plan, not normalised; of all its examples together.
    """

    device_id: str
    examples: int
    say: float
    coded: CodedMoments


def chain_of(connection: Connection, run_id: str) -> list[str]:
    """This run, the run that it adds to, and so on."""
    chain: list[str] = []
    waiting: str | None = run_id
    while waiting is not None and waiting not in chain and runs.exists(connection, waiting):
        chain.append(waiting)
        waiting = parse(runs.row(connection, waiting)["plan_toml"]).closed_form.add_to
    return chain


def held_by(connection: Connection, run_id: str, before_round: int | None = None) -> Iterator[Held]:
    """The newest statistics of each device, one in memory at a time.

    Args:
        before_round: of this run's own rounds only those before; None: all.
    """
    seen: set[str] = set()
    for own in chain_of(connection, run_id):
        last = before_round if own == run_id else None
        for device_id, number in _newest(connection, own, last):
            if device_id in seen:
                continue
            row = connection.execute(
                select(reports.c.data, reports.c.weight).where(
                    reports.c.run_id == own, reports.c.round == number, reports.c.device_id == device_id
                )
            ).one()
            report = parse_report(row.data)
            if report.statistics is not None:
                seen.add(device_id)
                yield Held(device_id, report.examples, row.weight, report.statistics)


def examples_of(connection: Connection, run_id: str) -> dict[str, int]:
    """Devices whose statistics :func:`held_by` would give, and how many examples of each; without reading them.

    One whose statistics were deleted is not among them, nor is one that has no example: to sums they are the same.
    """
    found: dict[str, int] = {}
    for own in chain_of(connection, run_id):
        query = (
            select(reports.c.device_id, reports.c.examples)
            .join(
                orders,
                (orders.c.run_id == reports.c.run_id)
                & (orders.c.round == reports.c.round)
                & (orders.c.device_id == reports.c.device_id),
            )
            .where(reports.c.run_id == own, reports.c.steps_done == 0, orders.c.steps == 0)
            .order_by(reports.c.round.desc())
        )
        newest: dict[str, int] = {}
        for row in connection.execute(query):
            newest.setdefault(row.device_id, row.examples)
        for device_id in sorted(newest):
            found.setdefault(device_id, newest[device_id])
    return {device_id: examples for device_id, examples in found.items() if examples}


def _newest(connection: Connection, run_id: str, before_round: int | None) -> list[tuple[str, int]]:
    """Device and newest round whose report has no step: those of statistics are among them."""
    query = select(reports.c.device_id, func.max(reports.c.round).label("newest")).where(
        reports.c.run_id == run_id, reports.c.steps_done == 0
    )
    if before_round is not None:
        query = query.where(reports.c.round < before_round)
    rows = connection.execute(query.group_by(reports.c.device_id).order_by(reports.c.device_id))
    return [(row.device_id, row.newest) for row in rows]


def ever_sent(connection: Connection, run_id: str, device_id: str) -> bool:
    """Whether this device answered an order of statistics of the run, or of one that it adds to; also when they are
    deleted by now."""
    for own in chain_of(connection, run_id):
        query = (
            select(reports.c.sequence)
            .join(
                orders,
                (orders.c.run_id == reports.c.run_id)
                & (orders.c.round == reports.c.round)
                & (orders.c.device_id == reports.c.device_id),
            )
            .where(reports.c.run_id == own, reports.c.device_id == device_id, orders.c.steps == 0)
        )
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False


def delete(connection: Connection, run_id: str, device_id: str) -> list[str]:
    """Delete a device's statistics from this run and those that it adds to; what else its reports say stays.

    Returns:
        The runs that held some.
    """
    touched = []
    for own in chain_of(connection, run_id):
        query = select(reports.c.sequence, reports.c.data).where(
            reports.c.run_id == own, reports.c.device_id == device_id, reports.c.steps_done == 0
        )
        for row in connection.execute(query).all():
            report = parse_report(row.data)
            if report.statistics is None:
                continue
            data = serialise_report(replace(report, statistics=None, examples=0))
            key = reports.c.sequence == row.sequence
            connection.execute(
                update(reports).where(key).values(data=data, sha256=hashlib.sha256(data).digest(), examples=0)
            )
            touched.append(own)
    return list(dict.fromkeys(touched))


def runs_that_add(connection: Connection, to_any_of: set[str]) -> list[str]:
    """Runs whose plan adds to one of these, directly or not."""
    found = []
    for run_id in runs.all_ids(connection):
        if run_id not in to_any_of and to_any_of & set(chain_of(connection, run_id)):
            found.append(run_id)
    return found
