"""How far a plan's own budgets carry the say of devices away from a say by examples alone, before it runs."""

from __future__ import annotations

from coordinator.budgets.unbiased import Distance, distance
from protos.plan.plan import RunPlan


def from_examples(plan: RunPlan) -> Distance | None:
    """The distance of weights by examples times budgets from weights by examples, where all devices have equally many.

    Devices that the plan gives a line of its own are counted with it, and as many others as ``round.devices`` leaves,
    at least one where there is a limit for all. What devices bring of their own (``--budget-j``) nobody knows before.

    Returns:
        None when the plan does not weigh by budget, and then the distance is 0 whatever devices bring.
    """
    if "by_budget" not in plan.aggregate.weight:
        return None
    budget = plan.budget
    named = budget.device or budget.scale
    default = budget.per_round_j if budget.device else 1.0
    others = max(plan.round.devices - len(named), 1 if named and default is not None else 0)
    wanted = dict.fromkeys(named, 1.0) | {f"another {at}": 1.0 for at in range(others)}
    chosen = dict.fromkeys(wanted, 1.0 if default is None else default) | dict(named)
    return distance(chosen, wanted)
