"""How much say a device has in a round: a product of factors, chosen in the plan.

Weights are relative; the aggregation divides by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from protos.catalog import pick
from protos.errors import PlanError


@dataclass(frozen=True)
class Standing:
    """What a weight may depend on.

    Attributes:
        examples: training examples behind the report, >= 0.
        budget_j: energy budget of the order, or None without a limit.
        largest_budget_j: the largest budget that any order of the round has, or None when none has one.
    """

    examples: int
    budget_j: float | None
    largest_budget_j: float | None


def _by_examples(standing: Standing) -> float:
    return float(standing.examples)


def _by_budget(standing: Standing) -> float:
    # A device without a limit counts as the best endowed of the round, not as an infinitely rich one.
    if standing.budget_j is not None:
        return standing.budget_j
    return 1.0 if standing.largest_budget_j is None else standing.largest_budget_j


FACTORS: Mapping[str, Callable[[Standing], float]] = {"by_examples": _by_examples, "by_budget": _by_budget}


def weight(factors: Iterable[str], standing: Standing) -> float:
    """The product of the named factors; 1 without any.

    Raises:
        PlanError: no such factor.

    >>> weight(["by_examples", "by_budget"], Standing(100, 2.0, 4.0))
    200.0
    """
    product = 1.0
    for name in factors:
        product *= pick(FACTORS, name, what="weight", where="aggregate.weight", error=PlanError)(standing)
    return product
