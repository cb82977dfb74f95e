"""How much say a device has in a round: a product of factors, chosen in the plan.

Weights are relative; the aggregation divides by their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from protos.catalog import pick
from protos.errors import PlanError
from protos.plugins import Plugin, Table, guarded, wrong


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


def _adopt(plugin: Plugin, offered: object) -> Factor:
    """A factor of an installed package, whose numbers are held against what a weight may be."""
    if not callable(offered):
        raise wrong(plugin, f"is {type(offered).__name__}, not a function of a Standing")
    asked = guarded(plugin, offered, "weigh a device")

    def factor(standing: Standing) -> float:
        value = asked(standing)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise wrong(plugin, f"gives {value!r} for {standing}, not a finite number from 0 on")
        return float(value)

    return factor


Factor = Callable[[Standing], float]
BUILT_IN: Mapping[str, Factor] = {"by_examples": _by_examples, "by_budget": _by_budget}
FACTORS: Table[Factor] = Table("weights", BUILT_IN, _adopt)
"""Ours, and behind them those of installed packages."""


def weight(factors: Iterable[str], standing: Standing) -> float:
    """The product of the named factors; 1 without any.

    Raises:
        PlanError: no such factor.
        PluginError: a factor of an installed package cannot be used, or gives no weight.

    >>> weight(["by_examples", "by_budget"], Standing(100, 2.0, 4.0))
    200.0
    """
    product = 1.0
    for name in factors:
        product *= pick(FACTORS, name, what="weight", where="aggregate.weight", error=PlanError)(standing)
    return product
