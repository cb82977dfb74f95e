"""Whether devices that may spend nothing now will ever be able to: time refills some budgets, and nothing the others.

The round is planned again as it would be at the best of times: after a month of harvest, on a day of which nothing is
spent, as the last round of the run, but for joules of the whole fleet. Who cannot be asked then never can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from coordinator.budgets.accounts import Situation
from coordinator.budgets.round_plan import Surroundings, plan_round
from coordinator.budgets.solar import DAY_S
from coordinator.run.rounds import round_budgets as books
from coordinator.run.rounds.round_events import Dry, Hope
from coordinator.run.run import ActiveRun
from coordinator.store import devices, runs
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.ledger.accounts import Account, Past
from protos.orders import DeviceCard
from protos.update import trees
from protos.update.codecs import generator

_DAYS = 30
_NAMED = 3


def outlook(
    connection: Connection,
    run: ActiveRun,
    number: int,
    cards: Sequence[DeviceCard],
    now_unix_s: float,
    renewed: Collection[str],
) -> Dry:
    """What may come for a round that none of ``cards``, the devices that are present, can be asked for now.

    Args:
        renewed: whose orders of an earlier attempt would be renewed, as
            :func:`coordinator.run.rounds.round_budgets.plan` has them: what went to a start of a device that ended is
            charged here as well, or time would seem to help.
    """
    present = {card.device_id for card in cards}
    absent = [
        device.card for device in devices.known(connection) if not device.left and device.card.device_id not in present
    ]
    charged = books.charged_to(connection, run, now_unix_s, (number, renewed))
    told = {device_id: replace(account, uncertain_j=0.0, pending_j=0.0) for device_id, account in charged.items()}
    able = _planner_of(connection, run, number, now_unix_s)
    lacking = able(cards, charged)
    if not lacking:
        return Dry(Hope.TIME)
    hope = Hope.NEWS if not able(cards, told) or (absent and not able(absent, told)) else Hope.NONE
    some = [f"{device_id}: {why}" for device_id, why in lacking[:_NAMED]]
    more = [f"and {len(lacking) - _NAMED} more"] if len(lacking) > _NAMED else []
    return Dry(hope, ", ".join([*some, *more]))


def _planner_of(
    connection: Connection, run: ActiveRun, number: int, now_unix_s: float
) -> Callable[[Sequence[DeviceCard], Mapping[str, Account]], list[tuple[str, str]]]:
    """A function of cards and accounts: who of them can never be asked, and why; nobody as soon as one can be."""
    later_s = now_unix_s - now_unix_s % DAY_S + _DAYS * DAY_S
    row = runs.row(connection, run.run_id)
    harvest = books.harvest(connection, run)
    rounds_left = max(1, run.plan.run.rounds - number + 1)

    def lacking(cards: Sequence[DeviceCard], charged: Mapping[str, Account]) -> list[tuple[str, str]]:
        ids = [card.device_id for card in cards]
        known = costs.models_of(connection, run.bundle.bundle_id, ids)
        past = grants.past(connection, run.run_id, ids)
        entrants = [
            books.entrant(
                run,
                card,
                known.get(card.device_id) or books.first_model(run, card),
                replace(charged.get(card.device_id, Account()), today_j=0.0),
                past.get(card.device_id, Past()),
            )
            for card in cards
        ]
        fleet_j = sum(account.spent_j + account.pending_j for account in charged.values())
        if (total_j := run.plan.budget.fleet_j) is not None:
            # The rest of it is shared by the rounds that are left, and none of these passes while nobody is asked.
            fleet_j = total_j - max(0.0, total_j - fleet_j) / rounds_left
        best = Surroundings(
            number,
            Situation(later_s, row["started_unix_s"], 1, 1.0, fleet_j),
            trees.coordinates(run.head),
            lambda steps: run.normaliser_of(steps, number),
            generator(run.plan.run.seed, "outlook", number),
            harvest,
        )
        left_out = list(plan_round(run.plan, entrants, best).left_out)
        return left_out if len(left_out) == len(entrants) else []

    return lacking
