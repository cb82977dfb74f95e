"""What one device is asked to do in one round."""

from __future__ import annotations

from dataclasses import dataclass

from protos.orders import CostHint


@dataclass(frozen=True)
class OrderLine:
    """The part of an order that differs from device to device.

    Attributes:
        steps: optimiser steps at most, >= 1; 0 where statistics are asked for.
        budget_j: joules at most, or None for no limit.
        standing_j: what the plan's budgets promise the device a round, which is what ``by_budget`` weighs by; None
            without a budget.
        probability: of being asked, in (0, 1].
        factor: on the weight of its report: 1 / p, or an estimate of it.
        bits: a coordinate, instead of the plan's; None for the plan's.
        expected_j: what the work will cost, or None where nobody has worked it out.
        costs: what the device is told of that.
    """

    device_id: str
    steps: int
    budget_j: float | None
    standing_j: float | None = None
    probability: float = 1.0
    factor: float = 1.0
    bits: float | None = None
    expected_j: float | None = None
    costs: CostHint | None = None
