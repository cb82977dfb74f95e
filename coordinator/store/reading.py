"""What is stored, as the values that an operator is shown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, func, select

from coordinator.aggregate.privacy import epsilon_of
from coordinator.operator.status import (
    DeviceRound,
    FederatedEvaluation,
    PrivacySpent,
    Refusal,
    RoundStatus,
    RunEvent,
    RunStatus,
)
from coordinator.store.ledger import costs
from coordinator.store.ledger.costs import KeptPlan
from coordinator.store.ledger.privacy import participations
from coordinator.store.models import evaluations
from coordinator.store.runs import JUDGED, SO_FAR
from coordinator.store.tables import earlier_energy, energy, events, orders, refusals, reports, rounds, runs, strains
from protos.energy.trace import Method, Phase, PhaseEnergy, joined
from protos.orders import StopReason, Strain
from protos.plan.plan import parse

# Of any run: the largest number of a column.
LAST_ROUND = 2**31 - 1


def run_ids(connection: Connection) -> list[str]:
    """Every run, in the order in which they were started."""
    return list(connection.execute(select(runs.c.run_id).order_by(runs.c.sequence)).scalars())


def run_status(connection: Connection, run_id: str, since_round: int = 0) -> RunStatus:
    """One run with its rounds from ``since_round`` on."""
    return _run_status(connection, run_id, since_round, None)


def run_page(connection: Connection, run_id: str, since_round: int, most: int) -> tuple[RunStatus, int]:
    """One run with whole rounds from ``since_round`` on that have about ``most`` devices together, one round at least;
    and the round that the next page begins with, or 0."""
    several = (
        select(rounds.c.round)
        .where(rounds.c.run_id == run_id, rounds.c.round >= since_round)
        .order_by(rounds.c.round)
        .limit(most + 1)
    )
    numbers = list(connection.execute(several).scalars())
    if not numbers:
        return _run_status(connection, run_id, since_round, None), 0
    counting = (
        select(orders.c.round, func.count().label("count"))
        .where(orders.c.run_id == run_id, orders.c.round >= numbers[0], orders.c.round <= numbers[-1])
        .group_by(orders.c.round)
    )
    counts = {row.round: int(row._mapping["count"]) for row in connection.execute(counting)}
    last, rows = numbers[0], max(1, counts.get(numbers[0], 0))
    for number in numbers[1:]:
        rows += max(1, counts.get(number, 0))
        if rows > most:
            return _run_status(connection, run_id, since_round, last), number
        last = number
    return _run_status(connection, run_id, since_round, last), 0


def run_newest(connection: Connection, run_id: str) -> RunStatus:
    """One run with its newest closed round alone, without the devices: what it costs does not grow with the run."""
    run = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one()
    query = (
        select(rounds)
        .where(rounds.c.run_id == run_id, rounds.c.state == "closed")
        .order_by(rounds.c.round.desc())
        .limit(1)
    )
    found = list(connection.execute(query).mappings())
    last = found[0]["round"] if found else 0
    judged = _judged(connection, run_id, last, last)
    return _status_of(connection, run, tuple(_round(row, (), None, None, judged.get(row["round"])) for row in found))


def _run_status(connection: Connection, run_id: str, since_round: int, last_round: int | None) -> RunStatus:
    run = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one()
    last = LAST_ROUND if last_round is None else last_round
    query = (
        select(rounds)
        .where(rounds.c.run_id == run_id, rounds.c.round >= since_round, rounds.c.round <= last)
        .order_by(rounds.c.round)
    )
    devices = _device_rounds(connection, run_id, since_round, last)
    plans = costs.plans(connection, run_id, since_round, last)
    said = evaluations.of_run(connection, run_id, since_round, last)
    found = connection.execute(query).mappings()
    judged = _judged(connection, run_id, since_round, last)
    return _status_of(
        connection,
        run,
        tuple(
            _round(
                row,
                tuple(devices[row["round"]]),
                plans.get(row["round"]),
                said.get(row["round"]),
                judged.get(row["round"]),
            )
            for row in found
        ),
    )


def _judged(connection: Connection, run_id: str, since_round: int, last_round: int) -> dict[int, dict[str, Any]]:
    """What the figures of rounds are whose head is no classifier."""
    query = select(events.c.round, events.c.detail).where(
        events.c.run_id == run_id, events.c.kind == JUDGED, events.c.round >= since_round, events.c.round <= last_round
    )
    return {row.round: json.loads(row.detail) for row in connection.execute(query.order_by(events.c.sequence))}


def events_of(connection: Connection, run_id: str) -> tuple[RunEvent, ...]:
    """What happened to a run, in words; figures that are kept among its events are told with their rounds."""
    query = (
        select(events.c.round, events.c.unix_s, events.c.kind, events.c.detail)
        .where(events.c.run_id == run_id, events.c.kind.not_in([JUDGED, SO_FAR, evaluations.KIND]))
        .order_by(events.c.sequence)
    )
    return tuple(RunEvent(row.round, row.unix_s, row.kind, row.detail) for row in connection.execute(query))


def _status_of(connection: Connection, run: RowMapping, shown: tuple[RoundStatus, ...]) -> RunStatus:
    return RunStatus(
        run_id=run["run_id"],
        name=run["name"],
        state=run["state"],
        reason=run["reason"],
        plan_id=run["plan_id"],
        bundle_id=run["bundle_id"],
        rounds_planned=run["rounds_planned"],
        rounds=shown,
        started_unix_s=run["started_unix_s"],
        finished_unix_s=run["finished_unix_s"],
        privacy=_spent(connection, run),
    )


def _spent(connection: Connection, run: RowMapping) -> PrivacySpent | None:
    if "[privacy]" not in run["plan_toml"]:
        return None
    section = parse(run["plan_toml"]).privacy
    if section.noise is None or section.epsilon is None:
        return None
    rounds = max(participations(connection, run["run_id"]).values(), default=0)
    return PrivacySpent(epsilon_of(section.noise, rounds, section.delta), section.delta, section.epsilon, rounds)


def _round(
    row: RowMapping,
    devices: tuple[DeviceRound, ...],
    plan: KeptPlan | None,
    said: FederatedEvaluation | None,
    judged: dict[str, Any] | None,
) -> RoundStatus:
    score, measure = row["accuracy"], "accuracy" if judged is None else judged["measure"]
    return RoundStatus(
        round=row["round"],
        state=row["state"],
        accuracy=score if measure == "accuracy" else None,
        loss=row["loss"],
        devices=devices,
        opened_unix_s=row["opened_unix_s"],
        closed_unix_s=row["closed_unix_s"],
        head_version=row["head_version"] or "",
        bias=None if plan is None else plan.bias,
        federated=said,
        r2=score if measure == "R2" else None,
        rmse={} if judged is None else judged["rmse"],
        auc=score if measure == "AUC" else None,
    )


def _device_rounds(
    connection: Connection, run_id: str, since_round: int, last_round: int
) -> dict[int, list[DeviceRound]]:
    joules = _energies(connection, run_id, since_round, last_round)
    refused = _refusals(connection, run_id, since_round, last_round)
    # The bytes of the reports stay where they are.
    columns = (
        orders.c.round,
        orders.c.device_id,
        orders.c.outcome,
        orders.c.steps,
        orders.c.budget_j,
        orders.c.bytes_up,
        orders.c.bytes_down,
        reports.c.weight,
        reports.c.steps_done,
        reports.c.stop_reason,
        reports.c.examples,
        reports.c.loss,
        reports.c.embedded,
        reports.c.folded_in,
        strains.c.heat_s,
        strains.c.busy_s,
        strains.c.hottest_c,
        strains.c.throttled,
        strains.c.under_voltage,
    )
    same = (
        (reports.c.run_id == orders.c.run_id)
        & (reports.c.round == orders.c.round)
        & (reports.c.device_id == orders.c.device_id)
    )
    borne = (
        (strains.c.run_id == orders.c.run_id)
        & (strains.c.round == orders.c.round)
        & (strains.c.device_id == orders.c.device_id)
    )
    query = (
        select(*columns)
        .select_from(orders.outerjoin(reports, same).outerjoin(strains, borne))
        .where(orders.c.run_id == run_id, orders.c.round >= since_round, orders.c.round <= last_round)
        .order_by(orders.c.round, orders.c.device_id)
    )
    rows = list(connection.execute(query).mappings())
    total = _totals(connection, run_id, rows)
    result: dict[int, list[DeviceRound]] = defaultdict(list)
    for row in rows:
        number, device_id = row["round"], row["device_id"]
        counted_in = row["folded_in"] or number
        share = _say(row) / total[counted_in] if total[counted_in] else 0.0
        told = tuple(joules[number, device_id]), tuple(refused[number, device_id])
        result[number].append(_device_round(row, share, *told))
    return result


def _totals(connection: Connection, run_id: str, rows: Sequence[RowMapping]) -> dict[int, float]:
    """By round, the say of all reports that count in it; those of other rounds than these are looked up."""
    total: dict[int, float] = defaultdict(float)
    for row in rows:
        if row["folded_in"] is None:
            total[row["round"]] += _say(row)
    here = {row["round"] for row in rows}
    elsewhere = {row["folded_in"] for row in rows if row["folded_in"] is not None} - here
    if not here:
        return total
    own = reports.c.round.in_(elsewhere) & reports.c.folded_in.is_(None)
    counted = func.coalesce(reports.c.folded_in, reports.c.round)
    query = (
        select(counted.label("counted_in"), func.sum(reports.c.weight).label("weight"))
        .where(
            reports.c.run_id == run_id,
            reports.c.steps_done > 0,
            own | reports.c.folded_in.in_(elsewhere) | reports.c.folded_in.between(min(here), max(here)),
        )
        .group_by(counted)
    )
    for found in connection.execute(query):
        total[found.counted_in] += found.weight
    return total


def _say(row: RowMapping) -> float:
    # A report without a step has no effect on the mean, whatever its weight would have been.
    # An order without steps asked for statistics, which count.
    return float(row["weight"] or 0.0) if row["steps_done"] or not row["steps"] else 0.0


def _device_round(
    row: RowMapping, share: float, energy: tuple[PhaseEnergy, ...], refused: tuple[Refusal, ...]
) -> DeviceRound:
    return DeviceRound(
        device_id=row["device_id"],
        outcome=row["outcome"],
        steps_planned=row["steps"],
        steps_done=row["steps_done"] or 0,
        stop_reason=StopReason(row["stop_reason"]) if row["stop_reason"] else None,
        budget_j=row["budget_j"],
        weight=share,
        bytes_up=row["bytes_up"],
        bytes_down=row["bytes_down"],
        energy=energy,
        examples=row["examples"] or 0,
        loss=row["loss"],
        embedded=row["embedded"] or 0,
        strain=_strain(row),
        counted_in=row["folded_in"],
        refusals=refused,
    )


def _strain(row: RowMapping) -> Strain | None:
    if row["heat_s"] is None:
        return None
    return Strain(
        row["heat_s"],
        row["busy_s"],
        row["hottest_c"],
        throttled=bool(row["throttled"]),
        under_voltage=bool(row["under_voltage"]),
    )


def _refusals(connection: Connection, run_id: str, since_round: int, last_round: int) -> dict[Any, list[Refusal]]:
    query = (
        select(refusals)
        .where(refusals.c.run_id == run_id, refusals.c.round >= since_round, refusals.c.round <= last_round)
        .order_by(refusals.c.round, refusals.c.device_id, refusals.c.code)
    )
    result: dict[Any, list[Refusal]] = defaultdict(list)
    for row in connection.execute(query):
        result[row.round, row.device_id].append(Refusal(row.code, row._mapping["count"], row.detail))
    return result


def _energies(connection: Connection, run_id: str, since_round: int, last_round: int) -> dict[Any, list[PhaseEnergy]]:
    rank = {str(phase): place for place, phase in enumerate(Phase)}
    rows = [
        row
        for table in (earlier_energy, energy)
        for row in connection.execute(
            select(table).where(table.c.run_id == run_id, table.c.round >= since_round, table.c.round <= last_round)
        )
    ]
    result: dict[Any, list[PhaseEnergy]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: rank[row.phase]):
        record = PhaseEnergy(
            phase=Phase(row.phase),
            energy_j=row.energy_j,
            covered_s=row.covered_s,
            uncovered_s=row.uncovered_s,
            method=cast(Method, row.method),
            sensor=row.sensor,
            uncertainty_j=row.uncertainty_j,
            flags=tuple(json.loads(row.flags)),
        )
        told = result[row.round, row.device_id]
        if told and told[-1].phase is record.phase:
            # Of an earlier attempt: a round costs what all its attempts did.
            told[-1] = joined(told[-1], record)
        else:
            told.append(record)
    return result
