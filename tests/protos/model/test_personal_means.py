"""Heads from own class means: they learn what is different, and leave alone the classes that a device has not had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protos.errors import EmptyShardError, ShapeError
from protos.model.head_algebra import logits_of
from protos.model.head_kinds.personal import FLEET, LEAST_EXAMPLES, features_gram
from protos.model.head_kinds.personal_means import MIXES, FleetSums, _Maker, fleet_means, own_means

D, K = 10, 6
_CENTRES = np.random.default_rng(1).normal(size=(K, D)) * 1.2


def _examples(y: Any, seed: int, shift: Any = 0.0) -> tuple[Any, Any]:
    noise = np.random.default_rng(seed).normal(size=(len(y), D))
    return (_CENTRES[y] + noise + shift).astype(np.float32), np.asarray(y, np.int32)


def _fleet() -> tuple[dict[str, Any], FleetSums]:
    """The best head for the centres, and sums of 6,000 examples."""
    y = np.random.default_rng(2).integers(0, K, 6000)
    x, y = _examples(y, 3)
    tree = {
        "out_bias": (-0.5 * (_CENTRES**2).sum(axis=1)).astype(np.float32),
        "out_kernel": np.ascontiguousarray(_CENTRES.T, np.float32),
    }
    wide = np.hstack([x, np.ones((len(x), 1))])
    return tree, FleetSums(features_gram(x), np.stack([wide[y == number].sum(axis=0) for number in range(K)]))


def _made(fleet: dict[str, Any], sums: FleetSums, x: Any, y: Any) -> list[Any]:
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    maker = _Maker(start, sums)
    experts = maker.experts(np.hstack([x.astype(np.float64), np.ones((len(x), 1))]), y)
    return [maker.head(experts, at) for at in range(len(maker.candidates))]


def _accuracy(tree: Any, x: Any, y: Any) -> float:
    return float((logits_of(tree, x).argmax(axis=1) == y).mean())


def test_a_device_of_another_style_gets_a_better_head_on_classes_it_never_had() -> None:
    fleet, sums = _fleet()
    shift = np.random.default_rng(4).normal(size=D) * 0.9
    x, y = _examples(np.random.default_rng(5).integers(0, 4, 160), 6, shift)
    found = own_means(fleet, x, y, sums)
    assert found.candidate.kind == "means"
    assert "own means times" in found.candidate.in_words()
    assert found.gain > 2 * found.error > 0
    assert 0.5 < found.share <= 1
    assert found.candidate.mix > 0.1, "candidates that change more save more here"
    tx, ty = _examples(np.random.default_rng(7).integers(0, K, 3000), 8, shift)
    assert _accuracy(found.tree, tx, ty) > _accuracy(fleet, tx, ty) + 0.025
    unseen = ty >= 4
    assert _accuracy(found.tree, tx[unseen], ty[unseen]) > _accuracy(fleet, tx[unseen], ty[unseen])


def test_means_are_the_fleets_and_the_devices_together_and_shares_are_the_fleets() -> None:
    fleet, sums = _fleet()
    x, y = _examples(np.random.default_rng(9).integers(0, 3, 120), 10)
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    maker = _Maker(start, sums)
    wide = np.hstack([x.astype(np.float64), np.ones((len(x), 1))])
    at = next(n for n, candidate in enumerate(maker.candidates) if (candidate.mix, candidate.weight) == (0.2, 4.0))
    found = (maker.head(maker.experts(wide, y), at) - start) / 0.2
    centre = sums.by_class[:, :-1] / sums.by_class[:, -1:]
    inside = (sums.gram[:-1, :-1] - (centre * sums.by_class[:, -1:]).T @ centre) / sums.examples
    inside += 0.01 * np.trace(inside) / D * np.eye(D)
    shift = (x - centre[y]).sum(axis=0) / (len(y) + 10)
    mean = (4 * (centre[1] + shift) + x[y == 1].sum(axis=0)) / (4 + (y == 1).sum())
    np.testing.assert_allclose(found[:-1, 1], np.linalg.solve(inside, mean), rtol=1e-6)
    lone = centre[5] + shift
    expected = np.log(sums.shares()[5]) - 0.5 * lone @ np.linalg.solve(inside, lone)
    np.testing.assert_allclose(found[-1, 5], expected, rtol=1e-6)
    # A class that the device lacks is found as before.
    tx, ty = _examples(np.full(1000, 5), 11)
    after = np.hstack([tx, np.ones((len(tx), 1))]) @ maker.head(maker.experts(wide, y), at)
    before = np.hstack([tx, np.ones((len(tx), 1))]) @ start
    assert float((after.argmax(axis=1) == ty).mean()) > float((before.argmax(axis=1) == ty).mean()) - 0.02


def test_without_an_example_the_means_are_the_fleets() -> None:
    fleet, sums = _fleet()
    found = fleet_means(fleet, sums, 0.2)
    start = np.vstack([fleet["out_kernel"], fleet["out_bias"][None]]).astype(np.float64)
    x = np.hstack([sums.means()[:, :-1], np.ones((K, 1))])
    made = start + 0.2 * _Maker(start, sums).experts(x, np.arange(K, dtype=np.int32))[0]
    # One example of each class, where the fleet has its mean, changes nothing either.
    np.testing.assert_allclose(found["out_kernel"], made[:-1], rtol=1e-5)
    np.testing.assert_allclose(found["out_bias"], made[-1], rtol=1e-5)


def test_what_pays_weighs_more_and_the_mean_is_never_worse_than_candidates_are() -> None:
    fleet, sums = _fleet()
    shift = np.random.default_rng(4).normal(size=D) * 0.9
    x, y = _examples(np.random.default_rng(5).integers(0, 4, 160), 6, shift)
    whole, few = own_means(fleet, x, y, sums), own_means(fleet, x[:20], y[:20], sums)
    one = own_means(fleet, x, y, sums, caution=0.0)
    assert one.candidate.mix in MIXES
    assert 0 < few.candidate.mix < whole.candidate.mix <= max(MIXES)
    assert 0 < whole.gain <= one.gain
    # The mean of linear heads: between the fleet's and what moves furthest.
    furthest = max(np.abs(head[:-1] - fleet["out_kernel"]).max() for head in _made(fleet, sums, x, y))
    assert 0 < np.abs(whole.tree["out_kernel"] - fleet["out_kernel"]).max() < furthest


def test_devices_like_the_fleet_lose_next_to_nothing() -> None:
    fleet, sums = _fleet()
    tx, ty = _examples(np.random.default_rng(12).integers(0, K, 2000), 13)
    lost = []
    for seed in range(20):
        x, y = _examples(np.random.default_rng(100 + seed).integers(0, K, 60), 200 + seed)
        found = own_means(fleet, x, y, sums, seed=seed)
        lost.append(_accuracy(fleet, tx, ty) - _accuracy(found.tree, tx, ty))
    assert np.mean(lost) < 0.005
    assert max(lost) < 0.02


def test_under_caution_devices_like_the_fleet_keep_its_head_but_for_few() -> None:
    fleet, sums = _fleet()
    moved, lost = 0, []
    tx, ty = _examples(np.random.default_rng(12).integers(0, K, 2000), 13)
    for seed in range(20):
        x, y = _examples(np.random.default_rng(100 + seed).integers(0, K, 60), 200 + seed)
        found = own_means(fleet, x, y, sums, seed=seed, caution=2.0)
        moved += found.candidate != FLEET
        lost.append(_accuracy(fleet, tx, ty) - _accuracy(found.tree, tx, ty))
        if found.candidate == FLEET:
            np.testing.assert_array_equal(found.tree["out_kernel"], fleet["out_kernel"])
    assert moved <= 3
    assert np.mean(lost) < 0.005


def test_few_examples_and_what_does_not_fit() -> None:
    fleet, sums = _fleet()
    x, y = _examples(np.arange(40) % K, 14)
    few = own_means(fleet, x[: LEAST_EXAMPLES - 1], y[: LEAST_EXAMPLES - 1], sums)
    assert (few.candidate, few.gain) == (FLEET, 0.0)
    one_class = own_means(fleet, *_examples(np.zeros(30, np.int64), 15), sums)
    assert np.isfinite(one_class.tree["out_kernel"]).all()
    # Of one class alone nothing else can be lost by: the others are found as before.
    tx, ty = _examples(np.random.default_rng(20).integers(1, K, 2000), 21)
    assert _accuracy(one_class.tree, tx, ty) > _accuracy(fleet, tx, ty) - 0.01
    with pytest.raises(ShapeError, match="hidden"):
        own_means({**fleet, "hidden_kernel": x}, x, y, sums)
    with pytest.raises(ShapeError, match="features of shape"):
        own_means(fleet, x[:, :3], y, sums)
    with pytest.raises(ShapeError, match="sums of shape"):
        own_means(fleet, x, y, FleetSums(sums.gram[1:], sums.by_class))
    with pytest.raises(EmptyShardError, match="no example"):
        own_means(fleet, x, y, FleetSums(sums.gram, np.zeros_like(sums.by_class)))


def test_sums_over_plain_features_give_those_of_standardised_ones() -> None:
    random = np.random.default_rng(16)
    z, y = random.normal(3, 2, (80, D)), random.integers(0, K - 1, 80)
    mean, scale = random.normal(size=D).astype(np.float32), random.uniform(0.5, 2, D).astype(np.float32)
    sums = np.stack([z[y == number].sum(axis=0) for number in range(K)])
    found = FleetSums.of_plain(z.T @ z, sums, np.bincount(y, minlength=K), mean, scale)
    wide = np.hstack([(z - mean) * scale, np.ones((len(z), 1))])
    np.testing.assert_allclose(found.gram, wide.T @ wide, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(
        found.by_class, [wide[y == number].sum(axis=0) for number in range(K)], rtol=1e-5, atol=1e-3
    )
    np.testing.assert_allclose(found.means()[K - 1], found.by_class.sum(axis=0) / 80)
    assert found.shares()[K - 1] == pytest.approx(1 / 81)
