"""The vectorised engine beside the exact one, on the same fleet and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.api import simulate
from coordinator.simulation.results import PHASES, Simulated
from protos.energy.trace import Phase
from protos.errors import UsageError

PLANS: dict[str, dict[str, Any]] = {
    "plain": {"train": {"rate": 0.2, "epochs": 3}},
    "every term": {
        "train": {"rate": 0.1, "epochs": 2.5, "momentum": 0.5, "proximal_mu": 0.1, "rate_decay": 0.9},
        "update": {"codec": "float32"},
        "aggregate": {"server": "momentum"},
    },
}


def both(digits: Path, plan: dict[str, Any], **more: Any) -> tuple[Simulated, Simulated]:
    """The same simulation by both engines."""
    whole = {"run": {"name": "beside", "rounds": 3, "seed": 3}} | plan
    given: dict[str, Any] = {"devices": 40, "data": str(digits / "digits.npz"), "bundle": digits / "digits", "seed": 2}
    exact = simulate(whole, **(given | more))
    return exact, simulate(whole, engine="vectorised", **(given | more))


@pytest.mark.parametrize("name", PLANS)
def test_it_agrees_with_the_exact_engine(digits: Path, name: str) -> None:
    exact, quick = both(digits, PLANS[name])
    for key in ("ordered", "accepted", "steps", "examples"):
        assert np.array_equal(exact.arrays[key], quick.arrays[key]), key
    assert np.allclose(exact.arrays["weight"], quick.arrays["weight"])
    # The largest difference between heads, over how far the head moved: products are added up in another order, and a
    # coordinate in ten thousand is then rounded to the neighbouring level.
    before = simulate_start(digits)
    for key, value in exact.head.items():
        moved = float(np.abs(value - before[key]).max())
        assert float(np.abs(value - quick.head[key]).max()) <= 0.01 * moved, key
    assert np.abs(exact.arrays["accuracy"] - quick.arrays["accuracy"]).max() <= 0.01
    assert np.array_equal(exact.arrays["bytes_up"], quick.arrays["bytes_up"])
    # Idling is reckoned without the coordinator's own work.
    for phase in (Phase.EMBED, Phase.TRAIN, Phase.ENCODE):
        at = PHASES.index(phase)
        assert np.allclose(np.nan_to_num(exact.arrays["energy_j"][..., at]), quick.arrays["energy_j"][..., at]), phase
    assert exact.outcome.run["bytes_up"] == quick.outcome.run["bytes_up"]
    assert quick.outcome.run["energy_j"] == pytest.approx(exact.outcome.run["energy_j"], rel=0.1)


def simulate_start(digits: Path) -> dict[str, Any]:
    """The head before training."""
    from protos.model.bundle import open_bundle

    return dict(open_bundle(digits / "digits").initial_head())


@pytest.mark.parametrize(
    ("plan", "more", "where"),
    [
        ({"budget": {"per_round_j": 1.0}}, {}, "budget"),
        ({"train": {"method": "closed_form"}, "run": {"name": "x"}}, {}, "train.method"),
        ({"update": {"codec": "keep_largest"}}, {}, "update.codec"),
        ({}, {"dropout": 0.1}, "dropout"),
    ],
)
def test_what_it_does_not_do_it_says(digits: Path, plan: dict[str, Any], more: dict[str, Any], where: str) -> None:
    whole = {"run": {"name": "beside", "rounds": 1, "seed": 3}} | plan
    with pytest.raises(UsageError, match="vectorised engine does not do that") as caught:
        simulate(
            whole, devices=4, data=str(digits / "digits.npz"), bundle=digits / "digits", engine="vectorised", **more
        )
    assert caught.value.where == where
