"""What waits is written in one go: as many statements for a hundred reports as for one.

Each function does for many rows what its namesake in :mod:`coordinator.store.reports`,
:mod:`coordinator.store.ledger.accounts` and :mod:`coordinator.store.ledger.costs` does for one, in the same order
and by the same rules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Table,
    Update,
    and_,
    bindparam,
    func,
    select,
    update,
)

from coordinator.budgets.cost_model import CostModel
from coordinator.store import clock
from coordinator.store import reports as single
from coordinator.store.keys import batched
from coordinator.store.ledger import known_fits, sums
from coordinator.store.ledger.accounts import WORKING, Lesson
from coordinator.store.tables import cost_models, energy, grants, orders, reports, strains
from protos.energy.trace import PhaseEnergy
from protos.orders import DeviceReport


@dataclass(frozen=True)
class Taken:
    """An accepted report, ready to be written.

    Attributes:
        weight: its say, not normalised.
        sizes: of its change, and of the difference to what was guessed; None without a step.
        sent: bytes of its order that were sent since they were last written down.
        folded_in: the later round that it counts in; None: its own.
    """

    report: DeviceReport
    data: bytes
    weight: float
    sizes: tuple[float, float] | None
    sent: int
    folded_in: int | None = None


@dataclass(frozen=True)
class Told:
    """Joules of one order that became known."""

    run_id: str
    round: int
    device_id: str
    energy: tuple[PhaseEnergy, ...]
    attempt: int | None = None

    @property
    def order(self) -> tuple[str, int, str]:
        """Whose order."""
        return self.run_id, self.round, self.device_id


def _key(table: Any) -> Any:
    return and_(
        table.c.run_id == bindparam("of_run"),
        table.c.round == bindparam("of_round"),
        table.c.device_id == bindparam("of_device"),
    )


_MARK = (
    update(orders)
    .where(_key(orders))
    .values(
        outcome="accepted",
        bytes_up=orders.c.bytes_up + bindparam("up"),
        bytes_down=orders.c.bytes_down + bindparam("down"),
    )
)
_SIZES = (
    update(grants)
    .where(_key(grants))
    .values(bytes_up=bindparam("up"), change=bindparam("by"), deviation=bindparam("off"))
)
_LEARNT = update(grants).where(_key(grants)).values(learnt=1)
_FIGURES = ("energy_j", "covered_s", "uncovered_s", "method", "sensor", "uncertainty_j", "flags")
_SETTLE = (
    update(energy)
    .where(_key(energy), energy.c.phase == bindparam("of_phase"))
    .values({name: bindparam(f"new_{name}") for name in _FIGURES})
)
_KEEP = (
    update(cost_models)
    .where(cost_models.c.device_id == bindparam("of_device"), cost_models.c.bundle_id == bindparam("of_bundle"))
    .values(state=bindparam("new_state"))
)

_INSERT_REPORTS, _INSERT_STRAINS, _INSERT_ENERGY = reports.insert(), strains.insert(), energy.insert()
_INSERT_FITS = cost_models.insert()

# Made once, as those above: putting a statement together costs more than a small one takes.
_DEVICES: BindParameter[str] = bindparam("devices", expanding=True)
_RUN: BindParameter[str] = bindparam("run")
_ROUND: BindParameter[int] = bindparam("round")
_HELD = select(reports.c.device_id, reports.c.sha256).where(
    reports.c.run_id == _RUN, reports.c.round == _ROUND, reports.c.device_id.in_(_DEVICES)
)


def _same_order(one: Table, other: Table) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in ("run_id", "round", "device_id")))


_ATTEMPTS = (
    select(orders.c.device_id, func.coalesce(reports.c.attempt, orders.c.attempt).label("attempt"))
    .select_from(orders.outerjoin(reports, _same_order(reports, orders)))
    .where(orders.c.run_id == _RUN, orders.c.round == _ROUND, orders.c.device_id.in_(_DEVICES))
)
_PHASES = select(energy.c.device_id, energy.c.phase, energy.c.energy_j).where(
    energy.c.run_id == _RUN, energy.c.round == _ROUND, energy.c.device_id.in_(_DEVICES)
)
_ENERGY = select(energy).where(energy.c.run_id == _RUN, energy.c.round == _ROUND, energy.c.device_id.in_(_DEVICES))
_LESSONS = (
    select(grants.c.device_id, reports.c.embedded, reports.c.steps_done, grants.c.bytes_up, orders.c.bytes_down)
    .select_from(grants.join(reports, _same_order(reports, grants)).join(orders, _same_order(orders, grants)))
    .where(
        grants.c.run_id == _RUN,
        grants.c.round == _ROUND,
        grants.c.device_id.in_(_DEVICES),
        grants.c.learnt == 0,
    )
)


# By dialect, what a statement is there: its text, the values that it has itself, and the names of all its values in
# their order where it counts them.
_texts: WeakKeyDictionary[Dialect, dict[tuple[Any, ...], tuple[str, dict[str, Any], list[str] | None]]]
_texts = WeakKeyDictionary()


def _each(connection: Connection, statement: Insert | Update, rows: Sequence[dict[str, Any]]) -> None:
    """Execute a statement of this module with each of these values, which must be what the driver takes: to put the
    values of a row into a statement otherwise takes longer than the database takes to write it."""
    if not rows:
        return
    there = _texts.setdefault(connection.dialect, {})
    key = (statement, *rows[0])
    if key not in there:
        compiled = statement.compile(dialect=connection.dialect, column_keys=list(rows[0]))
        order = compiled.positiontup if compiled.positional else None
        own = {name: value for name, value in (compiled.params or {}).items() if name not in rows[0]}
        there[key] = str(compiled), own, order
    text, own, order = there[key]
    whole = [own | row for row in rows] if own else list(rows)
    values: Any = whole if order is None else [tuple([row[name] for name in order]) for row in whole]
    connection.exec_driver_sql(text, values)


def _asked(run_id: str, number: int, device_ids: list[str]) -> dict[str, Any]:
    return {"run": run_id, "round": number, "devices": device_ids}


def _of(order: tuple[str, int, str]) -> dict[str, Any]:
    return {"of_run": order[0], "of_round": order[1], "of_device": order[2]}


def held(connection: Connection, run_id: str, number: int, device_ids: Iterable[str]) -> dict[str, bytes]:
    """Who of these has a report of this round accepted, with its SHA-256."""
    found: dict[str, bytes] = {}
    for some in batched(device_ids):
        rows = connection.execute(_HELD, _asked(run_id, number, some))
        found |= {row.device_id: bytes(row.sha256) for row in rows}
    return found


def accept(connection: Connection, taken: Sequence[Taken]) -> None:
    """Keep reports in this order, with their energy, and mark their orders.

    Raises:
        AlreadyThereError: one of them is there already.
    """
    if not taken:
        return
    now_unix_s = clock.unix_s()
    told = [
        Told(
            taken_report.report.run_id,
            taken_report.report.round,
            taken_report.report.device_id,
            taken_report.report.energy,
            taken_report.report.attempt,
        )
        for taken_report in taken
    ]
    attempts = ordered(connection, (told_joules.order for told_joules in told))
    for told_joules in told:
        newest = attempts.get(told_joules.order)
        if told_joules.attempt is not None and newest is not None and told_joules.attempt < newest:
            single.count_earlier(connection, *told_joules.order, told_joules.attempt, newest)
            attempts[told_joules.order] = told_joules.attempt
    rows, marks, sizes = [], [], []
    borne = []
    for taken_report in taken:
        report = taken_report.report
        key = {"run_id": report.run_id, "round": report.round, "device_id": report.device_id}
        rows.append(
            {
                **key,
                "data": taken_report.data,
                "sha256": hashlib.sha256(taken_report.data).digest(),
                "weight": taken_report.weight,
                "steps_done": report.steps_done,
                "examples": report.examples,
                "stop_reason": str(report.stop_reason),
                "loss": report.loss_last,
                "embedded": report.embedded,
                "accepted_unix_s": now_unix_s,
                "attempt": report.attempt,
                "folded_in": taken_report.folded_in,
            }
        )
        of = _of((report.run_id, report.round, report.device_id))
        marks.append({**of, "up": len(taken_report.data), "down": taken_report.sent})
        change, deviation = taken_report.sizes if taken_report.sizes is not None else (None, None)
        sizes.append({**of, "up": len(taken_report.data), "by": change, "off": deviation})
        if report.strain is not None:
            borne.append({**key, **dataclasses.asdict(report.strain)})
    _each(connection, _INSERT_REPORTS, rows)
    _each(connection, _INSERT_STRAINS, borne)
    _each(connection, _MARK, marks)
    _each(connection, _SIZES, sizes)
    settle(connection, told, attempts)


def ordered(connection: Connection, told: Iterable[tuple[str, int, str]]) -> dict[tuple[str, int, str], int]:
    """The orders that there are among these, with the attempt of each that counts: of its accepted report, or without
    one the newest."""
    found: dict[tuple[str, int, str], int] = {}
    for (run_id, number), device_ids in _by_round(told).items():
        for some in batched(device_ids):
            for row in connection.execute(_ATTEMPTS, _asked(run_id, number, some)):
                found[run_id, number, row.device_id] = row.attempt
    return found


def settle(
    connection: Connection, told: Sequence[Told], attempts: Mapping[tuple[str, int, str], int] | None = None
) -> list[tuple[str, int, str]]:
    """Write energy by phase, as :func:`coordinator.store.reports.settle` does.

    Args:
        attempts: of these orders that count, where the caller has looked: see :func:`ordered`.

    Returns:
        Orders whose joules of work are all known now.
    """
    if attempts is None:
        attempts = ordered(connection, (told_joules.order for told_joules in told))
    plain: list[Told] = []
    for told_joules in told:
        # Of an attempt that does not count: seldom, and looked at one by one.
        if told_joules.attempt is not None and told_joules.attempt != attempts.get(told_joules.order):
            single.settle(connection, *told_joules.order, told_joules.energy, told_joules.attempt)
        else:
            plain.append(told_joules)
    sums.outdate(connection, sorted({told_joules.order for told_joules in plain}))
    there = _there(connection, {told_joules.order for told_joules in told})
    before = {order: set(phases) for order, phases in there.items()}
    new: dict[tuple[Any, ...], dict[str, Any]] = {}
    for told_joules in plain:
        for record in told_joules.energy:
            phase = str(record.phase)
            if record.energy_j is None and there[told_joules.order].get(phase) is not None:
                continue
            there[told_joules.order][phase] = record.energy_j
            new[(*told_joules.order, phase)] = _values(record)
    fresh = [
        {"run_id": key[0], "round": key[1], "device_id": key[2], "phase": key[3], **values}
        for key, values in new.items()
        if key[3] not in before.get(key[:3], ())
    ]
    changed = [
        {**_of(key[:3]), "of_phase": key[3], **{f"new_{name}": value for name, value in values.items()}}
        for key, values in new.items()
        if key[3] in before.get(key[:3], ())
    ]
    _each(connection, _INSERT_ENERGY, fresh)
    _each(connection, _SETTLE, changed)
    return [order for order, phases in there.items() if all(phases.get(str(phase)) is not None for phase in WORKING)]


def _values(record: PhaseEnergy) -> dict[str, Any]:
    return {
        "energy_j": record.energy_j,
        "covered_s": record.covered_s,
        "uncovered_s": record.uncovered_s,
        "method": record.method,
        "sensor": record.sensor,
        "uncertainty_j": record.uncertainty_j,
        "flags": json.dumps(record.flags),
    }


def _by_round(told: Iterable[tuple[str, int, str]]) -> dict[tuple[str, int], dict[str, None]]:
    made: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for run_id, number, device_id in told:
        made[run_id, number][device_id] = None
    return made


def _there(
    connection: Connection, told: Iterable[tuple[str, int, str]]
) -> dict[tuple[str, int, str], dict[str, float | None]]:
    """By order and phase, the joules that are written down."""
    found: dict[tuple[str, int, str], dict[str, float | None]] = defaultdict(dict)
    for (run_id, number), device_ids in _by_round(sorted(told)).items():
        for some in batched(device_ids):
            for row in connection.execute(_PHASES, _asked(run_id, number, some)):
                found[run_id, number, row.device_id][row.phase] = row.energy_j
    return found


def lessons(
    connection: Connection, run_id: str, number: int, device_ids: Iterable[str]
) -> dict[str, tuple[Lesson, list[PhaseEnergy]]]:
    """By device, its accepted order that was not learnt from, with the joules of its phases."""
    found: dict[str, tuple[Lesson, list[PhaseEnergy]]] = {}
    for some in batched(device_ids):
        asked = _asked(run_id, number, some)
        for row in connection.execute(_LESSONS, asked):
            lesson = Lesson(run_id, number, row.embedded, row.steps_done, row.bytes_up, row.bytes_down)
            found[row.device_id] = lesson, []
        for values in connection.execute(_ENERGY, asked).mappings():
            if values["device_id"] in found:
                found[values["device_id"]][1].append(single.record_of(values))
    return found


def learnt(connection: Connection, run_id: str, number: int, bundle_id: str, models: Mapping[str, CostModel]) -> None:
    """Write down fits, by device, and that this round taught them; once."""
    if not models:
        return
    texts = {device_id: model.text() for device_id, model in models.items()}
    told = [{"of_device": name, "of_bundle": bundle_id, "new_state": text} for name, text in texts.items()]
    _each(connection, _KEEP, told)
    for device_id, model in models.items():
        known_fits.put(connection, device_id, bundle_id, texts[device_id], model)
    _each(connection, _LEARNT, [_of((run_id, number, device_id)) for device_id in models])


def begin_fits(connection: Connection, bundle_id: str, models: Mapping[str, CostModel]) -> None:
    """Write down the first fits of devices that have none, by device."""
    rows = [
        {"device_id": device_id, "bundle_id": bundle_id, "state": model.text()} for device_id, model in models.items()
    ]
    _each(connection, _INSERT_FITS, rows)
