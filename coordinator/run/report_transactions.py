"""Reports and what they say of joules, written down: each function is one transaction, or reads only. All run in the
thread of the store (:class:`coordinator.run.workers.Store`), but for :func:`read`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from coordinator.run.reports import plausibility
from coordinator.run.reports.aggregation import Fold, Late
from coordinator.run.reports.validation import RejectedError
from coordinator.run.rounds import round_budgets as budgeting
from coordinator.run.run import ActiveRun, LateOrder
from coordinator.run.run import report_limit as of_plan
from coordinator.store import batches, devices, reports, runs
from coordinator.store.database import AlreadyThereError, Database
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.models import evaluations
from protos.convert.energy import named
from protos.convert.reports import parse_report
from protos.energy.trace import PhaseEnergy
from protos.errors import StoreError, UnknownRunError, UpdateError
from protos.orders import DeviceReport, MeterCard, Receipt, SettledEnergy, Verdict
from protos.plan.plan import parse
from protos.secure_sum.grid import MaskedWords
from protos.statistics.moments import Moments
from protos.update import tensors
from protos.update.trees import Shapes, Tree

log = logging.getLogger("edgejoule.coordinator")


@dataclass(frozen=True)
class Read:
    """A report that was read and held against its order.

    Attributes:
        data: as it came.
        report, update: with what it brings; None when it is refused.
        refusal: why, or None.
        board: of the device, in its own words.
    """

    number: int
    device_id: str
    data: bytes
    board: str
    report: DeviceReport | None = None
    update: Tree | Moments | MaskedWords | None = None
    refusal: RejectedError | None = None


@dataclass(frozen=True)
class Arrived:
    """A report as it came.

    Attributes:
        number: round of its header; device_id likewise.
        check: of its order; what the report brings, or RejectedError.
        declared: training examples that the device declared at join.
        board: in the device's own words.
        shapes: of the change that it brings, where reading many at once is quicker; None: it is read by itself.
    """

    run_id: str
    number: int
    device_id: str
    data: bytes
    check: Callable[[DeviceReport], Tree | Moments | MaskedWords]
    declared: int
    board: str
    shapes: Shapes | None = None


def read(reports_in: Sequence[Arrived]) -> list[Read | BaseException]:
    """Decode reports and hold each against its order. It touches nothing, and may run in any thread. What goes wrong
    with one of them in a way that nobody foresaw is the answer to that one alone."""
    parsed: list[DeviceReport | Exception] = []
    for arrived in reports_in:
        try:
            parsed.append(_parsed(arrived.data, arrived.run_id, arrived.number, arrived.device_id))
        except Exception as error:
            parsed.append(error)
    pairs = [
        (at, report, arrived.shapes)
        for at, (arrived, report) in enumerate(zip(reports_in, parsed, strict=True))
        if isinstance(report, DeviceReport) and arrived.shapes is not None
    ]
    try:
        updates = tensors.ahead([(report.update, shapes) for _, report, shapes in pairs])
    except Exception as error:
        # Each by itself, below: then it is the one that is at fault that fails.
        log.warning("%d reports could not be decoded side by side (%r)", len(pairs), error)
        updates = [report.update for _, report, _ in pairs]
    for (at, report, _), update in zip(pairs, updates, strict=True):
        parsed[at] = replace(report, update=update)
    return [_checked(arrived, report) for arrived, report in zip(reports_in, parsed, strict=True)]


def _checked(arrived: Arrived, report: DeviceReport | Exception) -> Read | BaseException:
    number, device_id, data, board = arrived.number, arrived.device_id, arrived.data, arrived.board
    try:
        if isinstance(report, Exception):
            raise report
        update = arrived.check(report)
        if (fault := plausibility.report_fault(report, arrived.declared, board)) is not None:
            raise RejectedError(*fault)
    except RejectedError as error:
        return Read(number, device_id, data, board, refusal=error)
    except Exception as error:
        return error
    return Read(number, device_id, data, board, report, update)


def accept(db: Database, run: ActiveRun, number: int, waiting: Sequence[Read]) -> list[Receipt | BaseException]:
    """Write down reports of the open round in this order, in one transaction, and fold them in. ACCEPTED means: it is
    on disk. One result for each, or why it is not known to be written; the device may send that one again.

    After an exception, and after DUPLICATE, a report may be on disk and not folded: call :func:`agree`.
    """
    ids = [incoming.device_id for incoming in waiting if incoming.report is not None]
    sent = {device_id: run.sent.pop(device_id, 0) for device_id in ids}
    try:
        with db.writing() as connection:
            there = batches.held(connection, run.run_id, number, ids)
            fresh = [
                incoming for incoming in waiting if incoming.report is not None and incoming.device_id not in there
            ]
            meters = devices.meters_of(connection, [incoming.device_id for incoming in fresh if _meter_id(incoming)])
            taken = [
                _taken(run, incoming, sent[incoming.device_id], meters.get(incoming.device_id)) for incoming in fresh
            ]
            batches.accept(connection, taken)
            # Of the head that training started from: the one after the round before.
            looked = [
                incoming.report
                for incoming in fresh
                if incoming.report is not None and incoming.report.evaluation is not None
            ]
            said = [evaluations.Said(report.device_id, report.evaluation) for report in looked]
            evaluations.put(connection, run.run_id, number - 1, said)
            budgeting.learn_all(connection, _all_known(fresh))
            attempts = {
                incoming.device_id: _refuse(connection, run, number, incoming)
                for incoming in waiting
                if incoming.refusal
            }
    except AlreadyThereError as error:
        run.sent.update(sent)
        raise StoreError(f"a part of a report is there already ({error})", where=run.run_id) from error
    except BaseException:
        # Perhaps after the commit: the answer to it can be lost.
        run.sent_unsure.update(sent)
        raise
    run.sent.update({device_id: size for device_id, size in sent.items() if device_id in there})
    results: list[Receipt | BaseException] = []
    for incoming in waiting:
        if incoming.report is None or incoming.update is None:
            assert incoming.refusal is not None
            why = f"{incoming.refusal.code}: {incoming.refusal.reason}"
            results.append(Receipt(Verdict.REJECTED, why, attempts[incoming.device_id]))
        elif incoming.device_id in there:
            same = there[incoming.device_id] == hashlib.sha256(incoming.data).digest()
            results.append(_held(number, incoming.report.attempt, same=same))
        else:
            results.append(_folded(run, incoming.report, incoming.update))
    return results


def late_order(db: Database, run: ActiveRun, number: int, device_id: str) -> LateOrder | None:
    """The order of a round that has closed which a report answers; None: there was none, or nobody knows from which
    head it was trained."""
    with db.reading() as connection:
        lines = runs.lines_of(connection, run.run_id, number)
        if device_id not in lines:
            return None
        line = grants.complete(connection, run.run_id, number, {device_id: lines[device_id]})[device_id]
        version, attempt = runs.trained_from(connection, run.run_id, number)
        whole = costs.whole_of(connection, run.run_id, number)
    return LateOrder(number, line, version, attempt, whole) if version else None


def accept_late(
    db: Database, run: ActiveRun, number: int, order: LateOrder, incoming: Read, *, folds: bool
) -> Receipt | BaseException:
    """Write down a report of an earlier round, which counts in round ``number``, and fold it in.

    Args:
        folds: round ``number`` is open; else its fold is made when it opens, from what is written down.
    """
    with db.writing() as connection:
        same = reports.same_as_held(connection, run.run_id, order.round, incoming.device_id, incoming.data)
        if same is not None:
            attempt = None if incoming.report is None else incoming.report.attempt
            return _held(order.round, attempt, same=same)
        if incoming.report is None:
            assert incoming.refusal is not None
            attempt = _refuse(connection, run, order.round, incoming)
            return Receipt(Verdict.REJECTED, f"{incoming.refusal.code}: {incoming.refusal.reason}", attempt)
        assert isinstance(run.fold, Fold)
        late = Late(order.line, number - order.round, order.whole)
        meter = devices.meter_of(connection, incoming.device_id) if incoming.report.meter_id else None
        report = replace(incoming.report, energy=named(incoming.report.energy, incoming.report.meter_id, meter))
        sizes = run.fold.sizes_of(report, incoming.update)  # type: ignore[arg-type]
        weight = run.fold.weight_of(report, late)
        batches.accept(connection, [batches.Taken(report, incoming.data, weight, sizes, 0, number)])
        budgeting.learn_all(connection, _all_known([incoming]))
        detail = f"{incoming.device_id}: its report of round {order.round} counts here, {late.rounds} rounds late"
        runs.note(connection, run.run_id, number, "late", detail)
    if folds:
        try:
            run.fold.add(report, incoming.update, late)  # type: ignore[arg-type]
        except Exception as error:
            log.exception("%s round %d: late report of %s is not folded", run.run_id, number, incoming.device_id)
            return error
    return Receipt(Verdict.ACCEPTED, attempt=incoming.report.attempt)


def _meter_id(incoming: Read) -> int | None:
    return None if incoming.report is None else incoming.report.meter_id


def _taken(run: ActiveRun, incoming: Read, sent: int, meter: MeterCard | None) -> batches.Taken:
    assert incoming.report is not None
    assert incoming.update is not None
    # Energy with the sensor that the device's card names.
    report = replace(incoming.report, energy=named(incoming.report.energy, incoming.report.meter_id, meter))
    sizes = run.fold.sizes_of(report, incoming.update)  # type: ignore[arg-type]
    return batches.Taken(report, incoming.data, run.fold.weight_of(report), sizes, sent)


def _all_known(taken: Iterable[Read]) -> list[tuple[str, int, str]]:
    """Orders whose report told the joules of sending as well: all the others are learnt from when those come."""
    known = []
    for incoming in taken:
        assert incoming.report is not None
        phases = {record.phase for record in incoming.report.energy if record.energy_j is not None}
        if phases.issuperset(grants.WORKING):
            known.append((incoming.report.run_id, incoming.report.round, incoming.report.device_id))
    return known


def _folded(run: ActiveRun, report: DeviceReport, update: Tree | Moments | MaskedWords) -> Receipt | BaseException:
    # After the commit, so that what is folded is what a restart would fold.
    try:
        run.fold.add(report, update)  # type: ignore[arg-type]  # a fold of statistics is given statistics
    except Exception as error:
        log.exception("%s round %d: report of %s is held, and not folded", run.run_id, report.round, report.device_id)
        return error
    return Receipt(Verdict.ACCEPTED, attempt=report.attempt)


def _refuse(connection: Connection, run: ActiveRun, number: int, incoming: Read) -> int | None:
    assert incoming.refusal is not None
    attempt = _settle_of(connection, incoming.data, run.run_id, number, incoming.device_id, incoming.board)
    reports.mark(connection, run.run_id, number, incoming.device_id, "rejected", len(incoming.data), attempt)
    reports.refuse(connection, run.run_id, number, incoming.device_id, incoming.refusal.code, incoming.refusal.reason)
    return attempt


def _held(number: int, attempt: int | None, *, same: bool) -> Receipt:
    """The answer when this device's report of the round is on disk. Only the very same bytes are a duplicate: a device
    that is told so takes it that what it sent has reached the head."""
    if same:
        return Receipt(Verdict.DUPLICATE, "held already", attempt)
    return Receipt(Verdict.REJECTED, f"other_report: another report of round {number} under this name is held", attempt)


def _parsed(data: bytes, run_id: str, number: int, device_id: str) -> DeviceReport:
    try:
        report = parse_report(data)
    except UpdateError as error:
        raise RejectedError("unreadable", str(error)) from error
    if (report.run_id, report.round, report.device_id) != (run_id, number, device_id):
        raise RejectedError("unreadable", "the report is not the one that its header announced")
    return report


def _settle_of(connection: Connection, data: bytes, run_id: str, number: int, device_id: str, board: str) -> int | None:
    """Write the joules of a report that is not taken: they were spent all the same; returns its attempt."""
    try:
        report = _parsed(data, run_id, number, device_id)
    except RejectedError:
        return None
    if not reports.holds(connection, run_id, number, device_id):
        energy, faults = plausibility.possible(_named(connection, device_id, report), board)
        _say(faults, run_id, number, device_id)
        reports.settle(connection, run_id, number, device_id, energy, report.attempt)
    return report.attempt


def _named(connection: Connection, device_id: str, told: DeviceReport | SettledEnergy) -> tuple[PhaseEnergy, ...]:
    """Energy with the sensor that the device's card names. Told by a meter that it does not have any more, it stays
    without one: which that was is not known here."""
    meter = devices.meter_of(connection, device_id) if told.meter_id else None
    return named(told.energy, told.meter_id, meter)


def _say(faults: list[str], run_id: str, number: int, device_id: str) -> None:
    for fault in faults:
        log.warning("%s round %d: energy of %s is left out: %s", run_id, number, device_id, fault)


def may_come_later(db: Database, run_id: str, number: int, device_id: str) -> bool:
    """Whether a report that nobody can take now will be taken: its run is not over, its round neither, and it is
    not held yet. So it is for a moment after a restart."""
    with db.reading() as connection:
        return (
            runs.order_of(connection, run_id, number, device_id) is not None
            and not reports.holds(connection, run_id, number, device_id)
            and (runs.is_unfinished(connection, run_id, number) or _will_count_late(connection, run_id, number))
        )


def _will_count_late(connection: Connection, run_id: str, number: int) -> bool:
    row, last = runs.row(connection, run_id), runs.last_round(connection, run_id)
    if row["state"] not in runs.GOING_STATES or last is None:
        return False
    current = last["round"] + (last["state"] == "closed")
    plan = parse(row["plan_toml"])
    return bool(current <= plan.run.rounds and current - plan.round.late <= number < current)


def report_limit(db: Database, run_id: str) -> int:
    """The most bytes that an honest report of this run has.

    Raises:
        UnknownRunError: no such run.
    """
    with db.reading() as connection:
        found = runs.plan_and_shapes(connection, run_id)
    if found is None:
        raise UnknownRunError(f"no run is called {run_id[:80]!r}", where="report")
    plan_toml, shapes = found
    return of_plan(parse(plan_toml), shapes)


def late(db: Database, run_id: str, number: int, device_id: str, data: bytes) -> Receipt:
    """The answer to a report of a round that is not open, or of another run."""
    with db.writing() as connection:
        same = reports.same_as_held(connection, run_id, number, device_id, data)
        if same is not None:
            return _held(number, None, same=same)
        if runs.order_of(connection, run_id, number, device_id) is None:
            return Receipt(Verdict.REJECTED, f"not_ordered: no order of round {number} in run {run_id}")
        reports.mark(connection, run_id, number, device_id, "late", len(data))
        board = devices.board_of(connection, device_id)
        attempt = _settle_of(connection, data, run_id, number, device_id, board)
    return Receipt(Verdict.LATE, f"round {number} is closed", attempt)


def settle(
    db: Database, waiting: Sequence[tuple[str, Sequence[SettledEnergy]]]
) -> list[list[SettledEnergy] | BaseException]:
    """Write energy that became known late, of many devices in one transaction; returns for each what belongs to no
    order, which is left out. Joules that cannot be are left out too, and stay unknown."""
    strange: list[list[SettledEnergy] | BaseException] = []
    with db.writing() as connection:
        boards = devices.boards_of(connection, [device_id for device_id, _ in waiting])
        there = batches.ordered(
            connection,
            [
                (settled_energy.run_id, settled_energy.round, device_id)
                for device_id, settled in waiting
                for settled_energy in settled
                if settled_energy.round <= plausibility.LAST_ROUND
            ],
        )
        meters = devices.meters_of(
            connection,
            [device_id for device_id, settled in waiting if any(settled_energy.meter_id for settled_energy in settled)],
        )
        told: list[batches.Told] = []
        for device_id, settled in waiting:
            strange.append(
                [
                    settled_energy
                    for settled_energy in settled
                    if (settled_energy.run_id, settled_energy.round, device_id) not in there
                ]
            )
            for settled_energy in settled:
                if (settled_energy.run_id, settled_energy.round, device_id) in there:
                    energy, faults = plausibility.possible(
                        named(
                            settled_energy.energy,
                            settled_energy.meter_id,
                            meters.get(device_id) if settled_energy.meter_id else None,
                        ),
                        boards.get(device_id, ""),
                    )
                    _say(faults, settled_energy.run_id, settled_energy.round, device_id)
                    told.append(
                        batches.Told(
                            settled_energy.run_id,
                            settled_energy.round,
                            device_id,
                            tuple(energy),
                            settled_energy.attempt,
                        )
                    )
        budgeting.learn_all(connection, batches.settle(connection, told, there))
    return strange
