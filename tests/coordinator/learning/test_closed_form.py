"""Heads from sums alone, against the formulas on the examples themselves, and against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.learning.closed_form import ALONE, SHRINKAGES, _margins, grouped, solve, temperature
from coordinator.learning.stopping import why_stop
from protos.errors import EmptyShardError
from protos.statistics.moments import moments_of, nothing, total

CLASSES, WIDTH = 4, 12


def examples(seed: int, count: int, shares: Any = None) -> tuple[Any, Any]:
    means = np.random.default_rng(11).normal(0, 7, (CLASSES, WIDTH))
    mixing = np.random.default_rng(12).normal(0, 9, (WIDTH, WIDTH))
    random = np.random.default_rng(seed)
    y = random.choice(CLASSES, count, p=shares)
    x = means[y] + random.normal(size=(count, WIDTH)) @ mixing
    return np.clip(np.rint(x), -128, 127).astype(np.int8), y.astype(np.int32)


def of(seed: int, count: int, shares: Any = None) -> Any:
    return moments_of(*examples(seed, count, shares), CLASSES, 0)


def test_lda_is_that_of_scikit_learn_on_the_examples() -> None:
    lda = pytest.importorskip("sklearn.discriminant_analysis", reason="needs scikit-learn: the workshop extra")
    x, y = examples(1, 600, [0.5, 0.3, 0.1, 0.1])
    for given, priors in ((None, "data"), (np.full(CLASSES, 1 / CLASSES), "uniform")):
        reference = lda.LinearDiscriminantAnalysis(solver="lsqr", priors=given).fit(x.astype(float), y)
        found = solve([moments_of(x, y, CLASSES, 0)], priors=priors, shrinkage=1e-9)
        scores = x.astype(float) @ found.kernel + found.bias
        # Pooled by priors there, by counts here: the same where the priors are those of the data.
        if priors == "data":
            wanted = reference.decision_function(x.astype(float))
            np.testing.assert_allclose(
                scores - scores.mean(axis=1, keepdims=True), wanted - wanted.mean(axis=1, keepdims=True), rtol=1e-3,
                atol=1e-3,
            )  # fmt: skip
        assert (scores.argmax(axis=1) == y).mean() > 0.7


@pytest.mark.parametrize("shrinkage", [1e-6, 0.1])
def test_ridge_is_the_solution_of_least_squares_with_a_free_intercept(shrinkage: float) -> None:
    x, y = examples(2, 300)
    found = solve([moments_of(x, y, CLASSES, 0)], head="ridge", shrinkage=shrinkage)
    z = x.astype(float) - x.mean(axis=0)
    covariance = z.T @ z / len(z)
    ridge = shrinkage * np.trace(covariance) / WIDTH
    targets = np.eye(CLASSES)[y]
    wanted = np.linalg.solve(covariance + ridge * np.eye(WIDTH), z.T @ targets / len(z))
    np.testing.assert_allclose(found.kernel, wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.bias, targets.mean(axis=0) - x.mean(axis=0) @ wanted, rtol=1e-6)


def test_total_moments_are_those_of_all_examples_together() -> None:
    parts = [examples(seed, count) for seed, count in ((3, 40), (4, 75), (5, 9))]
    found = solve([moments_of(x, y, CLASSES, 0) for x, y in parts])
    everything = np.concatenate([x for x, _ in parts]).astype(float)
    middle, covariance = found.total_moments
    np.testing.assert_allclose(middle, everything.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(everything.T, bias=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", ["lda", "ridge"])
def test_a_class_that_nobody_has_is_never_chosen(head: str) -> None:
    x, y = examples(3, 400, [0.4, 0.3, 0.3, 0.0])
    found = solve([moments_of(x, y, CLASSES, 0)], head=head, shrinkage=0.01)
    assert set((x.astype(float) @ found.kernel + found.bias).argmax(axis=1)) <= {0, 1, 2}


@pytest.mark.parametrize("head", ["lda", "ridge"])
def test_shrinkage_is_chosen_from_the_devices_alone_and_loses_little_to_the_best_by_hindsight(head: str) -> None:
    test_x, test_y = examples(99, 4000)
    for seed in range(3):
        shards = [of(100 * seed + at, 12, np.roll([0.7, 0.1, 0.1, 0.1], at)) for at in range(4)]

        def accuracy(found: Any) -> float:
            return float(((test_x.astype(float) @ found.kernel + found.bias).argmax(axis=1) == test_y).mean())

        chosen = solve(shards, head=head)
        assert chosen.shrinkage in SHRINKAGES
        assert len(chosen.expected_errors) == len(SHRINKAGES)
        best = max(accuracy(solve(shards, head=head, shrinkage=shrinkage)) for shrinkage in SHRINKAGES)
        assert accuracy(chosen) > best - 0.03


def test_scores_of_a_calibrated_head_are_probabilities() -> None:
    shards = [of(seed, 150) for seed in range(5)]
    test_x, test_y = examples(77, 4000)
    found = solve(shards)

    def loss(factor: float) -> float:
        scores = factor * (test_x.astype(float) @ found.kernel + found.bias)
        scores -= scores.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(test_y)), test_y]).mean())

    assert loss(1.0) < min(loss(0.25), loss(4.0))


def test_which_device_came_first_changes_nothing() -> None:
    shards = [of(seed, 20 + 3 * seed) for seed in range(9)]
    found = [solve(order) for order in (shards, shards[::-1], shards[3:] + shards[:3])]
    for head in found[1:]:
        assert (head.kernel == found[0].kernel).all()
        assert (head.bias == found[0].bias).all()
    assert total(grouped(shards), CLASSES, WIDTH) == total(shards, CLASSES, WIDTH)
    assert len(grouped(shards)) == 5


def test_one_device_alone_and_no_device_at_all() -> None:
    assert solve([of(1, 50)]).shrinkage == ALONE
    assert np.isfinite(solve([moments_of(np.zeros((4, WIDTH), np.int8), np.arange(4), CLASSES, 0)]).kernel).all()
    for parts in ([], [nothing(CLASSES, WIDTH)], [of(1, 9, [1.0, 0.0, 0.0, 0.0])]):
        with pytest.raises(EmptyShardError, match="examples of two classes or more"):
            solve(parts)


def test_a_run_ends_when_accuracy_fell_for_good_and_not_for_chance() -> None:
    rising: list[tuple[int, float | None]] = [(0, 0.1), (1, 0.6), (2, 0.8)]
    assert why_stop(rising, 1000, 3) == ""
    fallen = [*rising, (3, 0.75), (4, 0.76), (5, 0.74)]
    assert why_stop(fallen, 1000, 3) == (
        "held-out accuracy fell from 80.00 % in round 2, and stayed below it in rounds 3 to 5"
    )
    assert why_stop(fallen, 1000, 4) == ""
    assert why_stop(fallen, 1000, 0) == ""
    assert why_stop(fallen, 20, 3) == "", "20 examples cannot tell 74 % from 80 %"
    assert why_stop([*rising, (3, 0.75), (4, 0.795), (5, 0.74)], 1000, 3) == ""
    assert why_stop([(number, None) for number in range(9)], 1000, 3) == ""


def test_devices_calibrate_a_head_only_where_no_held_out_data_do() -> None:
    parts = [of(seed, 60) for seed in (1, 2, 3)]
    alone = solve(parts, shrinkage=0.1)
    assert alone.temperature != 1.0
    held_out = solve(parts, shrinkage=0.1, accuracy=lambda kernel, bias: 0.5)
    assert held_out.temperature == 1.0
    np.testing.assert_allclose(alone.kernel, held_out.kernel * alone.temperature)


def test_pairs_that_others_tell_apart_the_wrong_way_round_do_not_calibrate() -> None:
    """A device whose labels are swapped: on its examples margins are below 0, and say nothing of a temperature."""
    x, y = examples(4, 90)
    swapped = moments_of(x, np.array([1, 0, 3, 2], np.int32)[y], CLASSES, 0)
    groups = [of(1, 90), of(2, 90), swapped]
    above = below = 0.0
    against = 0
    for ((share, mean, deviation),) in _margins(groups, "lda", "data", (0.1,)):
        for one in np.ndindex(CLASSES, CLASSES):
            against += bool(mean[one] < 0 < deviation[one])
            if mean[one] > 0 and deviation[one] > 0:
                weight = share[one] * np.exp(-0.5 * (mean[one] / deviation[one]) ** 2)
                above, below = above + weight * 2 * mean[one], below + weight * deviation[one] ** 2
    assert against
    assert temperature(groups, "lda", "data", 0.1) == pytest.approx(above / below)


def test_with_uniform_priors_pairs_of_each_class_weigh_the_same_however_often_it_comes() -> None:
    groups = [of(seed, 200, [0.55, 0.25, 0.1, 0.1]) for seed in (1, 2)]
    for ((share, _, _),) in _margins(groups, "lda", "uniform", (0.1,)):
        np.testing.assert_allclose(share.sum(axis=1), share.sum() / CLASSES)
    for ((share, _, _),), out in zip(_margins(groups, "lda", "data", (0.1,)), groups, strict=True):
        np.testing.assert_allclose(share.sum(axis=1), out.counts / out.examples * (CLASSES - 1))
