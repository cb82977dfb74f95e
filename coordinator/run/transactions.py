"""What is written down in one go: each function is one transaction, or reads only. All run in the thread of
the store (:class:`coordinator.run.workers.Store`)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from coordinator.budgets.round_plan import RoundPlan
from coordinator.learning import stopping
from coordinator.run.downlink import Downlink
from coordinator.run.reports import plausibility
from coordinator.run.reports.aggregation import Fold, Late, name_in_fold
from coordinator.run.reports.validation import RejectedError
from coordinator.run.rounds import budget_outlook
from coordinator.run.rounds import round_budgets as budgeting
from coordinator.run.rounds.round_events import Dry, Enough
from coordinator.run.run import ActiveRun, LateOrder
from coordinator.run.run import report_limit as of_plan
from coordinator.store import batches, clock, devices, pruning, reports, runs
from coordinator.store.database import AlreadyThereError, Database
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.models import device_heads as shown
from coordinator.store.models import evaluations, heads, server_states, statistics, training_bases
from protos.convert.energy import named
from protos.convert.head_transfers import serialise_difference
from protos.convert.reports import parse_report
from protos.energy.trace import PhaseEnergy
from protos.errors import EdgejouleError, RefusedError, StoreError, UnknownRunError, UpdateError
from protos.orders import DeviceCard, DeviceReport, MeterCard, Receipt, SettledEnergy, Verdict
from protos.plan.plan import RunPlan, parse
from protos.secure_sum.grid import MaskedWords
from protos.statistics.moments import Moments
from protos.statistics.whitening import Basis
from protos.update import trees
from protos.update.codecs import generator
from protos.update.trees import Tree

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


def read(
    run_id: str,
    number: int,
    device_id: str,
    data: bytes,
    check: Callable[[DeviceReport], Tree | Moments | MaskedWords],
    declared: int,
    board: str,
) -> Read:
    """Decode a report and hold it against its order. It touches nothing, and may run in any thread.

    Args:
        number: round of the report's header; device_id likewise.
        check: of its order; what the report brings, or RejectedError.
        declared: training examples that the device declared at join.
        board: in the device's own words.
    """
    try:
        report = _parsed(data, run_id, number, device_id)
        update = check(report)
        if (fault := plausibility.report_fault(report, declared, board)) is not None:
            raise RejectedError(*fault)
    except RejectedError as error:
        return Read(number, device_id, data, board, refusal=error)
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
    reports.mark(connection, run.run_id, number, incoming.device_id, "rejected", len(incoming.data))
    reports.refuse(connection, run.run_id, number, incoming.device_id, incoming.refusal.code, incoming.refusal.reason)
    return _settle_of(connection, incoming.data, run.run_id, number, incoming.device_id, incoming.board)


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


def open_round(
    db: Database, run: ActiveRun, number: int, attempt: int, cards: Iterable[DeviceCard]
) -> list[str] | Dry | Enough:
    """Plan a round, write it down with its orders, and begin its fold with the reports carried over from earlier
    attempts.

    An attempt that is on disk already is not planned or written again: the answer to its commit was lost.

    Returns:
        Whom the planner spares; or, when there is nobody to ask and nothing was written, whether that may change.
    """
    cards = list(cards)
    now_unix_s = clock.unix_s()
    with db.writing() as connection:
        present, cards = cards, budgeting.private(connection, run, cards)
        if present and not cards and not reports.holds_any(connection, run.run_id, number):
            return Enough(f"privacy.epsilon = {run.plan.privacy.epsilon:g} is spent on every device that is present")
        if not _stands(connection, run.run_id, number, attempt, "open") and not _plan_and_write(
            connection, run, number, attempt, cards, now_unix_s
        ):
            if run.asks_statistics(number) and all_held(connection, run, number, cards):
                return Enough("the statistics of every device that is present are held")
            ended = _ended(connection, run, number, cards) if attempt > 1 else set()
            renewed = [card.device_id for card in cards if card.device_id not in ended]
            return budget_outlook.outlook(connection, run, number, cards, now_unix_s, renewed)
        asked = set(runs.asked(connection, run.run_id, number, attempt))
    refold(db, run, number)
    return [card.device_id for card in present if card.device_id not in asked]


def all_held(connection: Connection, run: ActiveRun, number: int, cards: Iterable[DeviceCard]) -> bool:
    """Whether a round of statistics has nobody to ask, since all that these devices have is held."""
    held = {held_sums.device_id: held_sums.examples for held_sums in statistics.held_by(connection, run.run_id, number)}
    return all(held.get(card.device_id, 0) == card.train_examples for card in cards)


def _stands(connection: Connection, run_id: str, number: int, attempt: int, state: str) -> bool:
    """Whether the newest round is this attempt, in this state. Every action on a round looks first, since it is
    carried out again after a failure that may have been none."""
    last = runs.last_round(connection, run_id)
    return last is not None and (last["round"], last["attempt"], last["state"]) == (number, attempt, state)


def _plan_and_write(
    connection: Connection, run: ActiveRun, number: int, attempt: int, cards: list[DeviceCard], now_unix_s: float
) -> bool:
    """Write down an attempt; False when there is nobody to ask, and nothing was written."""
    made: RoundPlan | None = None
    sums = run.asks_statistics(number)
    if sums:
        held = {
            held_sums.device_id: held_sums.examples for held_sums in statistics.held_by(connection, run.run_id, number)
        }
        cards = [card for card in cards if held.get(card.device_id, 0) != card.train_examples]
    carried = reports.holds_any(connection, run.run_id, number)
    if run.plan.round.sample is not None and not sums:
        left = run.plan.round.sample - len(reports.devices_in(connection, run.run_id, number))
        cards = _drawn(run, number, attempt, cards, max(0, left))
    ended = _ended(connection, run, number, cards) if attempt > 1 else set()
    lines = budgeting.drawn_before(connection, run, number, cards) if attempt > 1 else None
    if lines is None or not (lines or carried):
        renewed = [card.device_id for card in cards if card.device_id not in ended]
        made = budgeting.plan(connection, run, number, attempt, cards, now_unix_s, renewed)
        lines = tuple(replace(line, steps=0, bits=None) for line in made.lines) if sums else made.lines
    if not lines and not carried:
        return False
    sessions = {card.device_id: card.session for card in cards}
    runs.open_round(connection, run.run_id, number, attempt, lines, "", sessions, run.downlink.version)
    for line in lines:
        if line.device_id in ended:
            # What it gets is granted when it asks: see hand_over.
            grants.close_promise(connection, run.run_id, number, line.device_id, ended=True)
    grants.add(connection, run.run_id, number, lines, now_unix_s)
    if made is not None:
        costs.keep_plan(connection, run.run_id, number, budgeting.kept(made))
        for device_id, why in made.left_out:
            runs.note(connection, run.run_id, number, "left out", f"{device_id}: {why}")
    runs.change(connection, run.run_id, engine=run.roster.engine)
    return True


def _drawn(run: ActiveRun, number: int, attempt: int, cards: list[DeviceCard], count: int) -> list[DeviceCard]:
    """So many of the devices that are present, each with the same chance, whatever their order."""
    names = sorted(card.device_id for card in cards)
    random = generator(run.plan.run.seed, "sample", number, attempt)
    chosen = {names[at] for at in random.permutation(len(names))[:count]}
    return [card for card in cards if card.device_id in chosen]


def _ended(connection: Connection, run: ActiveRun, number: int, cards: list[DeviceCard]) -> set[str]:
    """Devices that began anew with an order of an earlier attempt in their hands: what it granted may be spent."""
    sessions = runs.sessions_of(connection, run.run_id, number)
    made = set()
    for card in cards:
        if sessions.get(card.device_id) in (None, card.session) or not run.may_have_begun(card.device_id):
            continue
        order = runs.order_of(connection, run.run_id, number, card.device_id)
        if order is not None and order["budget_j"] is not None and order["outcome"] != "accepted":
            made.add(card.device_id)
    return made


def hand_over(db: Database, run: ActiveRun, number: int, device_id: str, session: str) -> str | None:
    """Make sure of what an order grants before a device gets it: one that an earlier start of it had, which may have
    spent all that was granted, and one of a further attempt, before which the device told what the others cost. What is
    and may be spent is charged, and it gets what the accounts leave.

    Returns:
        None when the order belongs to this start now; else why the device cannot be asked again in this attempt.
    """
    now_unix_s = clock.unix_s()
    line, attempt = run.lines[device_id], run.machine.attempt
    ended = run.sessions.get(device_id) not in (None, session)
    budget_j = line.budget_j
    with db.writing() as connection:
        if not _stands(connection, run.run_id, number, attempt, "open"):
            return None
        if not ended and not grants.is_told_of(connection, run.run_id, number, device_id):
            # It was never begun: what the round was planned with holds, and nothing is written.
            run.charged.add(device_id)
            return None
        if budget_j is not None and (run.may_have_begun(device_id) or attempt > 1):
            if device_id not in run.charged or ended:
                grants.close_promise(
                    connection, run.run_id, number, device_id, ended=ended and run.may_have_begun(device_id)
                )
            else:
                grants.promise(connection, run.run_id, number, device_id, 0.0)
            left_j = budgeting.left_for(connection, run, number, device_id, now_unix_s)
            budget_j = min(budget_j, left_j)
            least_j = 0.0 if line.costs is None else line.costs.sending_j + line.costs.step_j
            if budget_j <= least_j:
                what = "went to a start of it that ended" if ended else "is the rest of an order that is asked again"
                why = f"{line.budget_j:.3g} J {what}, and {left_j:.3g} J are left"
                runs.note(connection, run.run_id, number, "left out", f"{device_id}: {why}")
                return why
            grants.promise(connection, run.run_id, number, device_id, budget_j)
        runs.belongs_to(connection, run.run_id, number, device_id, session, budget_j)
    run.lines[device_id] = replace(line, budget_j=budget_j)
    run.sessions[device_id] = session
    run.charged.add(device_id)
    if ended:
        run.handed.discard(device_id)
    return None


def agree(db: Database, run: ActiveRun, number: int) -> list[str]:
    """Hold the fold against the rows, which are the truth, and fold again where they differ.

    Returns:
        Whose reports of the round are on disk, in the order of acceptance.
    """
    with db.reading() as connection:
        held = reports.devices_in(connection, run.run_id, number)
        counting = reports.counting_in(connection, run.run_id, number)
    for device_id in list(run.sent_unsure):
        size = run.sent_unsure.pop(device_id)
        if device_id not in held:
            run.sent[device_id] += size
    if run.fold.folded != [name_in_fold(name, None if of == number else of) for of, name in counting]:
        refold(db, run, number)
    return held


def refold(db: Database, run: ActiveRun, number: int) -> None:
    """Fold the accepted reports of a round again, in the order of acceptance: the same bits as the first time. What
    was there stays until all of it is done."""
    with db.writing() as connection:
        lines = grants.complete(connection, run.run_id, number, runs.lines_of(connection, run.run_id, number))
        before = list(statistics.held_by(connection, run.run_id, number)) if run.asks_statistics(number) else []
        controls = None if run.asks_statistics(number) else run.controls()
        controlled = (
            None if controls is None else reports.weights_between(connection, run.run_id, controls.epoch, number)
        )
        people = budgeting.population(connection, run, number)
        fold = run.new_fold(number, lines, people, lambda: before, controlled)
        sessions = runs.sessions_of(connection, run.run_id, number)
        for of_round, data in reports.in_order(connection, run.run_id, number):
            report = parse_report(data)
            if of_round != number:
                _refold_late(connection, run, fold, number, of_round, report, len(data))
                continue
            # Already checked when it was accepted; what a device declares since then does not matter.
            update = run.checked(report, lines[report.device_id], report.examples)
            reports.reweigh(connection, report, fold.weight_of(report))
            sizes = fold.sizes_of(report, update)  # type: ignore[arg-type]
            grants.reported(connection, run.run_id, number, report.device_id, len(data), sizes)
            fold.add(report, update)  # type: ignore[arg-type]
    run.take_fold(lines, fold, sessions)


def _refold_late(
    connection: Connection,
    run: ActiveRun,
    fold: object,
    number: int,
    of_round: int,
    report: DeviceReport,
    size_bytes: int,
) -> None:
    assert isinstance(fold, Fold)
    line = runs.lines_of(connection, run.run_id, of_round)[report.device_id]
    line = grants.complete(connection, run.run_id, of_round, {report.device_id: line})[report.device_id]
    version, attempt = runs.trained_from(connection, run.run_id, of_round)
    update = run.late_checker(LateOrder(of_round, line, version, attempt), report.examples)(report)
    late = Late(line, number - of_round, costs.whole_of(connection, run.run_id, of_round))
    reports.reweigh(connection, report, fold.weight_of(report, late))
    sizes = fold.sizes_of(report, update)  # type: ignore[arg-type]
    grants.reported(connection, run.run_id, of_round, report.device_id, size_bytes, sizes)
    fold.add(report, update, late)  # type: ignore[arg-type]


def close_round(
    db: Database,
    run: ActiveRun,
    number: int,
    head: Tree,
    downlink: Downlink,
    accuracy: float | None,
    loss: float | None,
    basis: Basis | None = None,
    said: str = "",
    server: Tree | None = None,
    judged: str = "",
) -> None:
    """Write down the head after a round, what devices will hold of it, how good it is, and in which coordinates they
    train from now on; once.

    Args:
        said: how the head was made, in words, or what became of control variates; "" for the mean of changes.
        server: the state of the server optimiser from now on; None or empty: it has none.
        judged: see :func:`coordinator.run.evaluation.judged_by`.
    """
    with db.writing() as connection:
        if _stands(connection, run.run_id, number, run.machine.attempt, "closed"):
            run.sent.clear()
            return
        _write_sent(connection, run, number)
        version = heads.put(connection, head)
        runs.close_round(connection, run.run_id, number, head_version=version, accuracy=accuracy, loss=loss)
        links = [
            shown.StoredLink(link.before, link.after, serialise_difference(link.difference)) for link in downlink.links
        ]
        shown.put(connection, run.run_id, downlink.shown, links)
        if basis is not None:
            training_bases.put(connection, run.run_id, basis)
        if server:
            server_states.put(connection, run.run_id, server)
        evaluations.add_up(connection, run.run_id, number - 1)
        if said:
            runs.note(connection, run.run_id, number, "controls" if run.corrects else "solved", said)
        if judged:
            runs.note(connection, run.run_id, number, runs.JUDGED, judged)
        for remark in run.fold.remarks:
            runs.note(connection, run.run_id, number, "cut", f"{remark.device_id}: {remark.text}")
        if number > 1 and run.forgets_reports:
            # Of the round that has just closed they stay, for whoever wants to know how its head came about.
            pruning.forget_bytes(connection, run.run_id, number - 1)
    run.sent.clear()


def enough(db: Database, run: ActiveRun) -> str:
    """Why no further round is worth its joules, or "": see :mod:`coordinator.learning.stopping`."""
    goal = run.plan.evaluate
    with db.reading() as connection:
        accuracies = runs.accuracies(connection, run.run_id)
        spent_j = 0.0
        if goal.until_j is not None:
            # What may have been spent counts: the limit holds for the worst.
            charged = grants.accounts(connection, run.run_id, 0.0).values()
            spent_j = sum(account.spent_j + account.uncertain_j for account in charged)
    examples = len(run.evaluator.labels) if run.evaluator is not None else 0
    return (
        stopping.why_reached(accuracies, goal.until)
        or stopping.why_spent(spent_j, goal.until_j)
        or stopping.why_stop(accuracies, examples, goal.patience)
    )


def abandon_round(db: Database, run: ActiveRun, number: int, attempt: int, reason: str) -> bool:
    """Write down that an attempt failed; once.

    Returns:
        False when it has its quorum, and nothing was written: reports came in since it was given up, while that could
        not be written.
    """
    with db.writing() as connection:
        if _stands(connection, run.run_id, number, attempt, "abandoned"):
            run.sent.clear()
            return True
        reported = reports.devices_in(connection, run.run_id, number)
        ordered = {*reported, *runs.asked(connection, run.run_id, number, attempt)}
        late = len(reports.late_in(connection, run.run_id, number)) if run.machine.rules.buffer is not None else 0
        if len(reported) + late >= run.machine.rules.needed(len(ordered)):
            return False
        _write_sent(connection, run, number)
        runs.abandon_round(connection, run.run_id, number, reason)
    run.sent.clear()
    return True


def _write_sent(connection: Connection, run: ActiveRun, number: int) -> None:
    runs.add_bytes_down(connection, run.run_id, number, dict(run.sent))


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


def resume_run(db: Database, run_id: str, plan: RunPlan | None, plan_toml: str, directory: str) -> None:
    """Let a run that rests wait for its turn again.

    Args:
        plan: another one than it has, or None; with its text and folder.

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
        if plan.run.rounds <= max(0, closed):
            raise RefusedError(f"has {closed} rounds already", where=run_id, fix=f"plan more than {closed} rounds")
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
