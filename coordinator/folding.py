"""The reports of one round, folded into one change of the head."""

from __future__ import annotations

import numpy as np

from coordinator.aggregate.rules import RULES
from coordinator.order_line import OrderLine
from coordinator.weights import Standing, weight
from protos.catalog import pick
from protos.errors import NonFiniteError, PlanError
from protos.orders import DeviceReport
from protos.plan import AggregateSection
from protos.update import trees
from protos.update.trees import Shapes, Tree


class Fold:
    """Folds reports as they come, in memory for one, whatever their number.

    Args:
        plan: how to weigh, normalise and step.
        shapes: of the head.
        lines: the orders of the round, by device; who has the largest budget depends on all of them.
    """

    def __init__(self, plan: AggregateSection, shapes: Shapes, lines: dict[str, OrderLine]) -> None:
        self._plan = plan
        self._rule = pick(RULES, plan.normalise, what="normalisation", where="aggregate.normalise", error=PlanError)
        self._state = self._rule.start(shapes)
        self._lines = lines
        budgets = [line.budget_j for line in lines.values() if line.budget_j is not None]
        self._largest_budget_j = max(budgets, default=None)

    def weight_of(self, report: DeviceReport) -> float:
        """The say of a report, not normalised."""
        budget_j = self._lines[report.device_id].budget_j
        return weight(self._plan.weight, Standing(report.examples, budget_j, self._largest_budget_j))

    def add(self, report: DeviceReport, update: Tree) -> None:
        """Fold in a checked report. One without a step has no effect."""
        if report.steps_done:
            self._state = self._rule.add(self._state, update, self.weight_of(report), report.local_normaliser)

    def head_after(self, head: Tree) -> Tree:
        """The head moved by the change of the round; ``head`` itself when nobody made a step. Changes nothing, so
        that it can be asked again.

        Raises:
            NonFiniteError: the head has left the numbers.
        """
        change = self._rule.finish(self._state)
        if change is None:
            return head
        with np.errstate(over="ignore"):
            moved = trees.add_scaled(head, change, self._plan.server_rate)
        try:
            trees.check(moved, trees.shapes(head), where="head")
        except NonFiniteError as error:
            fix = "lower train.rate or aggregate.server_rate"
            raise NonFiniteError("training diverged: the new head is not finite", fix=fix) from error
        return moved
