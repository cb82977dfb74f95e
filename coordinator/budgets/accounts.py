"""What a device may spend now, and a round in the long run: the limits of a plan against what was spent.

All limits hold at once. What is *charged* to an account is what is known to be spent and what may have been: joules
that were granted and not yet reported (:mod:`coordinator.store.ledger.accounts`). Times are Unix seconds; days
are those of UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coordinator.budgets.solar import DAY_S, Trace
from protos.plan.sections import BudgetSection


@dataclass(frozen=True)
class Charged:
    """Joules of one device in the run, in all runs since midnight, and in all runs that there ever were."""

    run_j: float = 0.0
    today_j: float = 0.0
    ever_j: float = 0.0


@dataclass(frozen=True)
class Situation:
    """When a round opens.

    Attributes:
        now_s: Unix time.
        started_s: Unix time of the run's start.
        rounds_left: this one included, >= 1.
        round_s: how long a round takes, about.
        fleet_j: charged to all devices of the run so far.
    """

    now_s: float
    started_s: float
    rounds_left: int
    round_s: float
    fleet_j: float = 0.0


@dataclass(frozen=True)
class Allotment:
    """What a device may spend.

    Attributes:
        limit_j: on this round at most; infinite without a limit.
        rate_j: a round, so that the accounts last.
        standing_j: what its budgets promise a round, whatever was spent: what ``by_budget`` weighs by; None without.
    """

    limit_j: float
    rate_j: float
    standing_j: float | None


def allot(
    budget: BudgetSection,
    device_id: str,
    own_j: float | None,
    charged: Charged,
    now: Situation,
    harvest: Trace | None = None,
) -> Allotment:
    """The allotment of one device on the round that opens now.

    Args:
        own_j: the device's own limit on a round.
        harvest: of a device of scale 1, when the plan names one.
    """
    scale = budget.scale.get(device_id, 1.0)
    limits = [value for value in (budget.of(device_id), own_j) if value is not None]
    rates: list[float] = []
    standing: list[float] = list(limits)
    if budget.per_day_j is not None:
        day_j = budget.per_day_j * scale
        left_j = max(0.0, day_j - charged.today_j)
        seconds_left = DAY_S - now.now_s % DAY_S
        limits.append(left_j)
        rates.append(left_j / _rounds(seconds_left, now))
        standing.append(day_j / _rounds(DAY_S, now))
    if budget.total_j is not None:
        total_j = budget.total_j * scale
        rest_j = max(0.0, total_j - charged.ever_j)
        limits.append(rest_j)
        rates.append(rest_j / now.rounds_left)
        standing.append(total_j)
    if budget.battery_j is not None or harvest is not None:
        battery_j = (budget.battery_j or 0.0) * budget.battery_share * scale
        come_j = coming_j = 0.0
        if harvest is not None:
            share = budget.harvest_share * scale
            come_j = share * harvest.joules(now.started_s, now.now_s)
            horizon_s = now.rounds_left * now.round_s
            coming_j = share * harvest.joules(now.now_s, now.now_s + horizon_s)
        stock_j = max(0.0, battery_j + come_j - charged.run_j)
        limits.append(stock_j)
        rates.append((stock_j + coming_j) / now.rounds_left)
        daily_j = 0.0 if harvest is None else budget.harvest_share * scale * harvest.day_j
        standing.append(battery_j + daily_j)
    return Allotment(min(limits, default=math.inf), min(rates, default=math.inf), min(standing, default=None))


def fleet_rate_j(budget: BudgetSection, now: Situation) -> float:
    """Joules that the fleet may spend on this round, so that its total lasts; infinite without a total."""
    if budget.fleet_j is None:
        return math.inf
    return max(0.0, budget.fleet_j - now.fleet_j) / now.rounds_left


def _rounds(seconds: float, now: Situation) -> float:
    """Rounds in so many seconds, at least this one, at most those that are left."""
    return min(float(now.rounds_left), max(1.0, seconds / now.round_s))
