"""What one device is asked to do in one round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OrderLine:
    """The part of an order that differs from device to device.

    Attributes:
        steps: optimiser steps at most, >= 1.
        budget_j: joules at most, or None for no limit.
    """

    device_id: str
    steps: int
    budget_j: float | None
