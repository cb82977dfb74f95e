"""Personal heads: better where the device differs from the fleet, the fleet's own where nothing says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protos.errors import EmptyShardError, ShapeError
from protos.model.head_algebra import logits_of
from protos.model.head_kinds.personal import (
    FLEET,
    LEAST_EXAMPLES,
    WEIGHTS,
    Candidate,
    candidates,
    features_gram,
    gram_of_sums,
    personalise,
)

D, K = 12, 5


def _fleet(seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(D, K)).astype(np.float32) * 0.7
    return {"out_bias": np.zeros(K, np.float32), "out_kernel": kernel}, random.normal(size=(4000, D)).astype(np.float32)


def _examples(tree: dict[str, Any], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and labels drawn from the softmax of a head: that head is the best there is."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, D)).astype(np.float32)
    scores = logits_of(tree, x).astype(np.float64)
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    y = (chance.cumsum(axis=1) < random.uniform(size=(count, 1))).sum(axis=1)
    return x, np.minimum(y, K - 1).astype(np.int32)


def _loss(tree: dict[str, Any], x: np.ndarray, y: np.ndarray) -> float:
    scores = logits_of(tree, x).astype(np.float64)
    return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(y)), y]).mean())


def _other(fleet: dict[str, Any], seed: int) -> dict[str, Any]:
    """A device whose labels follow another head: two classes have changed places for it."""
    turned = {name: value.copy() for name, value in fleet.items()}
    turned["out_kernel"][:, [0, 1]] = turned["out_kernel"][:, [1, 0]]
    return turned


@pytest.mark.parametrize("kinds", [("steps",), ("statistics",), ("steps", "statistics")])
def test_a_device_unlike_the_fleet_gets_a_better_head(kinds: tuple[str, ...]) -> None:
    fleet, everyone = _fleet()
    own = _other(fleet, 1)
    x, y = _examples(own, 200, 2)
    found = personalise(
        fleet, x, y, kinds=kinds, fleet_gram=features_gram(everyone), fleet_examples=len(everyone), caution=1.0
    )
    assert found.candidate.kind in kinds
    assert found.gain > found.error > 0
    tx, ty = _examples(own, 4000, 3)
    assert _loss(found.tree, tx, ty) < _loss(fleet, tx, ty) - 0.1


def test_devices_like_the_fleet_keep_its_head_but_for_few_and_lose_next_to_nothing() -> None:
    fleet, everyone = _fleet()
    gram, moved, lost = features_gram(everyone), 0, []
    for seed in range(40):
        x, y = _examples(fleet, 60, 100 + seed)
        found = personalise(fleet, x, y, fleet_gram=gram, fleet_examples=len(everyone), seed=seed)
        moved += found.candidate != FLEET
        tx, ty = _examples(fleet, 2000, 500 + seed)
        lost.append(_loss(found.tree, tx, ty) - _loss(fleet, tx, ty))
        if found.candidate == FLEET:
            np.testing.assert_array_equal(found.tree["out_kernel"], fleet["out_kernel"])
    rash = sum(
        personalise(fleet, *_examples(fleet, 60, 100 + seed), fleet_gram=gram, fleet_examples=len(everyone), seed=seed,
                    caution=0.0).candidate != FLEET
        for seed in range(40)
    )  # fmt: skip
    assert moved <= 12
    assert rash > moved, "caution is what keeps them"
    assert np.mean(lost) < 0.02


def test_statistics_are_one_newton_step_and_the_weight_holds_it_back() -> None:
    fleet, everyone = _fleet()
    x, y = _examples(_other(fleet, 1), 100, 2)
    prior = features_gram(everyone) / len(everyone)
    prior += 1e-3 * np.trace(prior) / len(prior) * np.eye(len(prior))
    found = personalise(fleet, x, y, kinds=("statistics",), fleet_gram=features_gram(everyone),
                        fleet_examples=len(everyone), caution=-100.0)  # fmt: skip
    assert found.candidate.weight in WEIGHTS
    wide = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    scores = logits_of(fleet, x).astype(np.float64)
    chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    step = np.linalg.solve(wide.T @ wide + found.candidate.weight * prior, wide.T @ (np.eye(K)[y] - chance))
    np.testing.assert_allclose(found.tree["out_kernel"], fleet["out_kernel"] + step[:-1], atol=1e-4)
    np.testing.assert_allclose(found.tree["out_bias"], step[-1], atol=1e-4)


def test_sums_over_plain_features_give_the_gram_of_standardised_ones() -> None:
    random = np.random.default_rng(4)
    z = random.normal(3, 2, (50, D))
    mean, scale = random.normal(size=D).astype(np.float32), random.uniform(0.5, 2, D).astype(np.float32)
    expected = features_gram(((z - mean) * scale).astype(np.float64))
    np.testing.assert_allclose(gram_of_sums(z.T @ z, z.sum(axis=0), 50, mean, scale), expected, rtol=1e-5, atol=1e-3)


def test_the_same_seed_gives_the_same_head_and_few_examples_none() -> None:
    fleet, everyone = _fleet()
    x, y = _examples(_other(fleet, 1), 80, 2)
    given = {"fleet_gram": features_gram(everyone), "fleet_examples": len(everyone)}
    first, second = (personalise(fleet, x, y, **given) for _ in range(2))
    np.testing.assert_array_equal(first.tree["out_kernel"], second.tree["out_kernel"])
    few = personalise(fleet, x[: LEAST_EXAMPLES - 1], y[: LEAST_EXAMPLES - 1], **given)
    assert (few.candidate, few.gain) == (FLEET, 0.0)
    assert candidates(()) == [FLEET]
    assert "8 passes" in Candidate("steps", 8, 0.5).in_words()


def test_what_does_not_fit_is_refused() -> None:
    fleet, _ = _fleet()
    x, y = _examples(fleet, 40, 2)
    with pytest.raises(EmptyShardError, match="those of the fleet"):
        personalise(fleet, x, y)
    with pytest.raises(ShapeError, match="hidden"):
        personalise({**fleet, "hidden_kernel": x}, x, y, kinds=("steps",))
    with pytest.raises(ShapeError, match="features of shape"):
        personalise(fleet, x[:, :3], y, kinds=("steps",))
