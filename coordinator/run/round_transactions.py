"""Rounds, written down as they open, are folded and close: each function is one transaction, or reads only. All run in
the thread of the store (:class:`coordinator.run.workers.Store`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import Connection

from coordinator.budgets.round_plan import RoundPlan
from coordinator.learning import stopping
from coordinator.run.downlink import Downlink
from coordinator.run.reports.aggregation import Fold, Late, name_in_fold
from coordinator.run.rounds import budget_outlook
from coordinator.run.rounds import round_budgets as budgeting
from coordinator.run.rounds.round_events import Dry, Enough
from coordinator.run.run import ActiveRun
from coordinator.store import clock, pruning, reports, runs
from coordinator.store.database import Database
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.models import device_heads as shown
from coordinator.store.models import evaluations, heads, server_states, statistics, training_bases
from protos.convert.head_transfers import serialise_difference
from protos.convert.reports import parse_report
from protos.orders import DeviceCard, DeviceReport
from protos.statistics.whitening import Basis
from protos.update.codecs import generator
from protos.update.tensors import decode
from protos.update.trees import Tree


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
    # Already checked when it was accepted, perhaps by another plan than the run has now.
    update = decode(report.update, run.bundle.manifest.head.shapes())
    late = Late(line, number - of_round, costs.whole_of(connection, run.run_id, of_round))
    reports.reweigh(connection, report, fold.weight_of(report, late))
    sizes = fold.sizes_of(report, update)
    grants.reported(connection, run.run_id, of_round, report.device_id, size_bytes, sizes)
    fold.add(report, update, late)


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
) -> bool:
    """Write down the head after a round, what devices will hold of it, how good it is, and in which coordinates they
    train from now on; once.

    Args:
        said: how the head was made, in words, or what became of control variates; "" for the mean of changes.
        server: the state of the server optimiser from now on; None or empty: it has none.
        judged: see :func:`coordinator.run.evaluation.judged_by`.

    Returns:
        False when it was there already, perhaps with another head: noise is another each time.
    """
    with db.writing() as connection:
        if _stands(connection, run.run_id, number, run.machine.attempt, "closed"):
            run.sent.clear()
            return False
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
    return True


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
