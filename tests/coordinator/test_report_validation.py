"""What a report says of its own weight is computed again from its order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from coordinator.run.reports.validation import Expected, RejectedError, check
from protos.normaliser import local_normaliser
from protos.orders import DeviceReport, Engine, StopReason
from protos.update.tensors import as_float32

HEAVY = {"rate": 0.1, "momentum": 0.9, "proximal_mu": 2.0}


def expected(inputs: Mapping[str, float], optimiser: str = "sgd") -> Expected:
    return Expected("plan-1", "bundle-1", "head-1", 50, 40, {"out_bias": (3,)}, inputs, optimiser)


def report(steps: int, normaliser: float) -> DeviceReport:
    return DeviceReport(
        "run-1", 1, "a", "plan-1", "bundle-1", "head-1", 50, steps, 40, normaliser, StopReason.BUDGET, 2.0, 1.0,
        Engine("e", "1", "d"), (), as_float32({"out_bias": np.ones(3, np.float32)}), 40, 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [0, 1, 7, 50])
@pytest.mark.parametrize(
    "inputs", [{"rate": 0.1}, {"rate": 0.1, "momentum": 0.9}, {"rate": 0.1, "proximal_mu": 2.0}, HEAVY]
)
def test_the_normaliser_of_the_steps_done_is_taken_and_one_beside_it_is_not(
    inputs: dict[str, float], steps: int
) -> None:
    true = local_normaliser(steps, **inputs)
    for said in (true, true * (1 + 5e-7), true * (1 - 5e-7)):
        assert check(report(steps, said), expected(inputs))["out_bias"].tolist() == [1, 1, 1]
    for said in (true * (1 + 3e-6) + 2e-6, true * (1 - 3e-6) - 2e-6, true + 1, -true - 1, float("nan")):
        with pytest.raises(RejectedError) as caught:
            check(report(steps, said), expected(inputs))
        assert caught.value.code == "wrong_normaliser"
        assert f"after {steps} steps" in caught.value.reason


def test_a_device_cannot_buy_more_say_by_claiming_the_normaliser_of_another_order() -> None:
    plain = local_normaliser(20, rate=0.1)
    with pytest.raises(RejectedError, match="wrong_normaliser"):
        check(report(20, plain), expected(HEAVY))
    with pytest.raises(RejectedError, match="wrong_normaliser"):
        check(report(20, local_normaliser(20, **HEAVY)), expected({"rate": 0.1}))


def test_an_adaptive_optimiser_counts_its_steps() -> None:
    adam = expected(HEAVY, "adam")
    assert check(report(20, 20.0), adam)
    with pytest.raises(RejectedError, match="by the order it is 20"):
        check(dataclasses.replace(report(20, 20.0), local_normaliser=19.0), adam)
