"""The budgets of a run against its books: what a round may cost, read before it opens, and costs
learnt when joules come.

All of it runs inside a transaction of :mod:`coordinator.run.round_transactions`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from coordinator.aggregate.privacy import rounds_within
from coordinator.budgets import guesses
from coordinator.budgets.accounts import Charged, Situation, allot
from coordinator.budgets.cold_start import prices_of, work_w_of
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.round_plan import Entrant, RoundPlan, Surroundings, plan_round
from coordinator.budgets.solar import DAY_S, Trace, parse_trace, read_trace
from coordinator.operator.status import DeviceBudget, WeightBias
from coordinator.run.planning import steps_for
from coordinator.run.reports.aggregation import Population
from coordinator.run.run import ActiveRun
from coordinator.store import batches, reports, runs
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.ledger.accounts import Account, Past
from coordinator.store.ledger.costs import KeptPlan
from coordinator.store.ledger.privacy import participations
from coordinator.store.models import harvests, heads
from protos.convert.reports import parse_report
from protos.energy.trace import Phase
from protos.orders import DeviceCard
from protos.plan.sections import PlannerSection
from protos.update import trees
from protos.update.codecs import generator
from protos.update.tensors import decode
from protos.update.trees import Tree

# Before a round has been timed.
_FIRST_ROUND_S = 60.0
_TIMED_ROUNDS = 10


def plan(
    connection: Connection,
    run: ActiveRun,
    number: int,
    attempt: int,
    cards: Sequence[DeviceCard],
    now_unix_s: float,
    renewed: Collection[str] | None = None,
) -> RoundPlan:
    """The round that opens now, for the devices that are present.

    Args:
        renewed: whose orders of an earlier attempt are renewed, and not promised a second time; None: all.
    """
    row = runs.row(connection, run.run_id)
    own = [card.device_id for card in cards] if renewed is None else renewed
    charged = charged_to(connection, run, now_unix_s, (number, own), keep=True)
    # A total holds in expectation, so orders on their way count as what they are expected to cost.
    fleet_j = sum(account.spent_j + account.pending_j for account in charged.values())
    situation = Situation(
        now_unix_s,
        row["started_unix_s"],
        max(1, run.plan.run.rounds - number + 1),
        _round_s(connection, run.run_id, number, now_unix_s),
        fleet_j,
    )
    present = [card.device_id for card in cards]
    known = costs.models_of(connection, run.bundle.bundle_id, present)
    past = grants.past(connection, run.run_id, present, every_round=run.plan.planner.participation == "fedau")
    sums = run.asks_statistics(number)
    here = Surroundings(
        number,
        situation,
        _summed_coordinates(run) if sums else trees.coordinates(run.head),
        lambda steps: run.normaliser_of(steps, number),
        generator(run.plan.run.seed, "draw", number, attempt),
        harvest(connection, run),
    )
    unknown = {card.device_id: first_model(run, card) for card in cards if card.device_id not in known}
    batches.begin_fits(connection, run.bundle.bundle_id, unknown)
    known |= unknown
    entrants = [
        entrant(
            run, card, known[card.device_id], charged.get(card.device_id, Account()), past.get(card.device_id, Past())
        )
        for card in cards
    ]
    plan = replace(run.plan, planner=PlannerSection()) if sums else run.plan
    return plan_round(plan, entrants, here)


def private(connection: Connection, run: ActiveRun, cards: list[DeviceCard]) -> list[DeviceCard]:
    """Those on whom the plan's epsilon is not spent yet."""
    section = run.plan.privacy
    if section.noise is None or section.epsilon is None:
        return cards
    most = rounds_within(section.noise, section.epsilon, section.delta)
    took_part = participations(connection, run.run_id)
    return [card for card in cards if took_part.get(card.device_id, 0) < most]


def _summed_coordinates(run: ActiveRun) -> int:
    """Numbers of an update that weighs about what statistics do: two bytes an entry of the Gram matrix."""
    manifest = run.bundle.manifest
    width = manifest.summed_width(run.plan.closed_form.project or manifest.backbone.embedding_width)
    entries = width * (width + 1) // 2 + width * manifest.summed_classes
    return int(16 * entries / run.plan.update.parameters.get("bits", 32.0))


def charged_to(
    connection: Connection,
    run: ActiveRun,
    now_unix_s: float,
    renewed: tuple[int, Collection[str]],
    *,
    keep: bool = False,
    only: Sequence[str] | None = None,
) -> dict[str, Account]:
    """The accounts of devices, as far as the plan limits more than one round: what nobody asks for is not summed.
    ``renewed``, ``keep``, ``only``: see :func:`coordinator.store.ledger.accounts.accounts`."""
    budget = run.plan.budget
    if not budget.has_accounts:
        return {}
    midnight_s = now_unix_s - now_unix_s % DAY_S
    return grants.accounts(
        connection,
        run.run_id,
        midnight_s,
        renewed,
        with_today=budget.per_day_j is not None,
        keep=keep,
        only=only,
        ever=budget.total_j is not None,
    )


def left_for(connection: Connection, run: ActiveRun, number: int, device_id: str, now_unix_s: float) -> float:
    """Joules that the accounts leave a device for this round, all that it was ever granted counted; infinite without a
    limit. What one round may cost is promised to each attempt, and each start of the device, anew."""
    row = runs.row(connection, run.run_id)
    charged = charged_to(connection, run, now_unix_s, (0, ()), only=[device_id]).get(device_id, Account())
    now = Situation(
        now_unix_s,
        row["started_unix_s"],
        max(1, run.plan.run.rounds - number + 1),
        _round_s(connection, run.run_id, number, now_unix_s),
    )
    found = harvest(connection, run)
    known = _charged(charged)
    return allot(run.plan.budget, device_id, None, known, now, found).limit_j


def drawn_before(
    connection: Connection, run: ActiveRun, number: int, cards: Sequence[DeviceCard]
) -> tuple[OrderLine, ...] | None:
    """The orders of an earlier attempt at a round for which devices were drawn, as far as the devices are present: a
    second draw would ask some twice as often as was planned. None where nobody was drawn."""
    planned = costs.plans(connection, run.run_id, number).get(number)
    if planned is None or planned.whole is None:
        return None
    lines = grants.complete(connection, run.run_id, number, runs.lines_of(connection, run.run_id, number))
    return tuple(lines[card.device_id] for card in cards if card.device_id in lines)


def entrant(run: ActiveRun, card: DeviceCard, model: CostModel, account: Account, past: Past) -> Entrant:
    """A device as the planner sees it."""
    return Entrant(
        device_id=card.device_id,
        examples=card.train_examples,
        steps=steps_for(run.plan, run.bundle.manifest.head.batch_size, card.train_examples),
        costs=model,
        charged=_charged(account),
        embeddings=0 if past.rounds else card.train_examples,
        own_j=card.budget_j,
        work_w=work_w_of(card.board),
        bytes_down=4 * trees.coordinates(run.head),
        rounds=past.rounds,
        change=past.change,
        deviation=past.deviation,
    )


def _charged(account: Account) -> Charged:
    own_j = account.spent_j + account.uncertain_j
    return Charged(own_j, account.today_j, own_j + account.others_j)


def first_model(run: ActiveRun, card: DeviceCard) -> CostModel:
    """The fit of a device that was never metered at work on this bundle."""
    manifest = run.bundle.manifest
    return CostModel(
        prices_of(
            card.board,
            macs=manifest.backbone.macs,
            coordinates=trees.coordinates(run.head),
            batch_size=manifest.head.batch_size,
        )
    )


def harvest(connection: Connection, run: ActiveRun) -> Trace | None:
    """The harvest that the plan names, as its table was when the run was given the plan; or None."""
    if run.plan.budget.harvest is None:
        return None
    if (table := harvests.of_run(connection, run.run_id)) is not None:
        return parse_trace(table, where=f"harvest of {run.run_id}")
    directory = Path(runs.row(connection, run.run_id)["plan_directory"])
    return read_trace(directory / Path(run.plan.budget.harvest).expanduser())


def _round_s(connection: Connection, run_id: str, number: int, now_unix_s: float) -> float:
    """Seconds from the opening of one round to that of the next, over the last few."""
    opened = runs.opened_unix_s(connection, run_id, number - _TIMED_ROUNDS)
    if not opened:
        return _FIRST_ROUND_S
    return max(0.1, (now_unix_s - opened[0]) / len(opened))


def kept(made: RoundPlan) -> KeptPlan:
    """What is written down of a planned round."""
    plan_distance, example_distance = made.from_plan, made.from_examples
    return KeptPlan(
        made.whole,
        made.weights,
        WeightBias(
            plan_distance.total_variation,
            plan_distance.largest_ratio,
            example_distance.total_variation,
            example_distance.largest_ratio,
            tuple(device_id for device_id, _ in made.left_out),
        ),
    )


def population(connection: Connection, run: ActiveRun, number: int) -> Population | None:
    """Whom a round speaks for, as it was planned. The same after a restart: heads and reports are in the store."""
    planned = costs.plans(connection, run.run_id, number).get(number)
    if planned is None or planned.whole is None:
        return None
    if run.plan.round.late:
        # What is guessed of a device is of one round, and a report may be of another.
        return Population(planned.whole)
    last = _last_change(connection, run, number)
    if last is not None:
        _remember(connection, run, number)

    def guess_of(device_id: str) -> Tree | None:
        if last is None or device_id not in planned.weights:
            return None
        # Read when it is asked for: kept, they would be as many heads as devices.
        own = run.recent.get(device_id)
        return guesses.of_device(own if own is not None and own.round < number else None, last, number)

    return Population(planned.whole, guesses.of_all(planned.weights, guess_of), guess_of)


def _last_change(connection: Connection, run: ActiveRun, number: int) -> Tree | None:
    """Of the head in the round before, per unit of the normaliser; None before there is one."""
    versions = runs.last_heads(connection, run.run_id, number)
    if len(versions) < 2:
        return None
    after, before = (heads.get(connection, version) for version in versions)
    planned = costs.plans(connection, run.run_id, number - 1).get(number - 1)
    unit = run.plan.aggregate.server_rate
    if run.plan.aggregate.normalise == "fednova" and planned is not None and planned.whole is not None:
        unit *= planned.whole.work / planned.whole.weight
    return {name: ((after[name] - before[name]) / unit).astype(after[name].dtype) for name in after}


def _remember(connection: Connection, run: ActiveRun, number: int) -> None:
    """See to it that the last change of each device before this round is there, of its stored report; not of one whose
    bytes were forgotten, before the run had a plan that guesses."""
    for device_id, of_round in reports.newest(connection, run.run_id, number).items():
        if run.recent.round_of(device_id) == of_round:
            continue
        if not (data := reports.data_of(connection, run.run_id, of_round, device_id)):
            continue
        report = parse_report(data)
        if report.steps_done and report.local_normaliser > 0:
            update = decode(report.update, run.bundle.manifest.head.shapes())
            update = update if run.basis is None else run.basis.back(update)
            unit = report.local_normaliser if run.plan.aggregate.normalise == "fednova" else 1.0
            change = {name: (value / unit).astype(value.dtype) for name, value in update.items()}
            run.recent.put(device_id, of_round, change)


def learn_all(connection: Connection, orders: Iterable[tuple[str, int, str]]) -> None:
    """Fit costs to orders whose joules have all become known, by run, round and device. Each order teaches once."""
    rounds: dict[tuple[str, int], list[str]] = {}
    for run_id, number, device_id in orders:
        rounds.setdefault((run_id, number), []).append(device_id)
    for (run_id, number), device_ids in rounds.items():
        found = batches.lessons(connection, run_id, number, device_ids)
        if not found:
            continue
        bundle_id = runs.bundle_of(connection, run_id)
        models = costs.models_of(connection, bundle_id, found, to_learn=True)
        for device_id, model in models.items():
            lesson, energy = found[device_id]
            if not lesson.steps:
                # Coding statistics is no measure of coding an update.
                energy = [phase_energy for phase_energy in energy if phase_energy.phase is not Phase.ENCODE]
            model.observe(Work(lesson.embedded, lesson.steps, lesson.bytes_up, lesson.bytes_down), energy)
        batches.learnt(connection, run_id, number, bundle_id, models)


def ledger_of(
    connection: Connection, run_id: str, now_unix_s: float, only: Sequence[str] | None = None
) -> list[DeviceBudget]:
    """What every device of a run was granted, spent, and may have spent; and what its work costs.

    Args:
        only: of these devices, a few hundred at most; None: of all.
    """
    bundle_id = runs.bundle_of(connection, run_id)
    models = costs.models(connection, bundle_id) if only is None else costs.models_of(connection, bundle_id, only)
    made = []
    for device_id, account in grants.accounts(connection, run_id, now_unix_s - now_unix_s % DAY_S, only=only).items():
        if not account.orders:
            continue
        model = models.get(device_id)
        made.append(
            DeviceBudget(
                device_id=device_id,
                orders=account.orders,
                granted_j=account.granted_j,
                spent_j=account.spent_j,
                uncertain_j=account.uncertain_j,
                today_j=account.today_j,
                unlimited=account.unlimited,
                price={} if model is None else vars(model.prices),
                deviation={} if model is None else vars(model.deviations),
                fitted_rounds=0 if model is None else model.rounds,
            )
        )
    return made
