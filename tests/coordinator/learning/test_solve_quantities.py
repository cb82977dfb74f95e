"""A regression's head from the sums of a fleet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.learning.quantities import NAME, solve_quantities
from protos.errors import EmptyShardError
from protos.statistics.moments import Moments, moments_of, nothing
from protos.statistics.quantities import DIGITS, QuantityMoments, digits_of, quantity_moments

OFFSET, WIDTH = -7, 12
MEAN, SCALE = np.array([101325.0, 0.4], np.float32), np.array([900.0, 0.02], np.float32)


def shard(seed: int, count: int, noise: float = 0.3) -> tuple[Any, Any]:
    random, same = np.random.default_rng(seed), np.random.default_rng(99)
    x = np.clip(np.rint(random.normal(size=(count, WIDTH)) @ same.normal(size=(WIDTH, WIDTH)) * 9), -120, 120)
    told = x @ same.normal(size=(WIDTH, 2)) / 40 + noise * random.normal(size=(count, 2))
    return x.astype(np.int8), (told * SCALE + MEAN).astype(np.float32)


def summed(x: Any, y: Any) -> Moments:
    numbers = np.concatenate([x, digits_of(y, MEAN, SCALE, x.dtype, OFFSET)], axis=1)
    return moments_of(numbers, np.zeros(len(x), np.int32), 1, OFFSET)


def looked(moments: Moments) -> QuantityMoments:
    return quantity_moments(moments, 2, np.dtype(np.int8), OFFSET)


def central(parts: list[tuple[Any, Any]], shrinkage: float) -> tuple[Any, Any]:
    """Ridge regression by whoever has all examples in one place."""
    z = np.concatenate([x for x, _ in parts]).astype(float) - OFFSET
    t = (np.concatenate([y for _, y in parts]).astype(float) - MEAN) / SCALE
    covariance = np.cov(z.T, bias=True)
    shrunk = covariance + shrinkage * np.trace(covariance) / WIDTH * np.eye(WIDTH)
    kernel = np.linalg.solve(shrunk, (z - z.mean(axis=0)).T @ (t - t.mean(axis=0)) / len(z))
    return kernel, t.mean(axis=0) - z.mean(axis=0) @ kernel


def test_the_sums_of_a_fleet_give_the_ridge_solution_of_all_its_examples() -> None:
    parts = [shard(seed, 60 + 40 * seed) for seed in range(4)]
    found = solve_quantities([summed(*part) for part in parts], looked, shrinkage=0.01)
    kernel, bias = central(parts, 0.01)
    # But for the rounding of quantities to 1 / 16384 of their deviation.
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-5)
    np.testing.assert_allclose(found.bias, bias, atol=1e-4)
    assert (found.head, found.chosen, found.temperature) == (NAME, "given", 1.0)


def test_a_device_that_goes_leaves_the_head_of_the_others_bit_for_bit() -> None:
    parts = [summed(*shard(seed, 80)) for seed in range(4)]
    whole = parts[0] + parts[1] + parts[2] + parts[3]
    rest = whole - parts[1]
    one, other = (solve_quantities(these, looked, shrinkage=0.1) for these in ([rest], [parts[3], parts[0], parts[2]]))
    np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(one.bias, other.bias)


def test_left_out_devices_choose_by_the_error_that_their_examples_have() -> None:
    shards = [shard(seed, 9, noise=2.0) for seed in range(4)]
    found = solve_quantities([summed(*each_shard) for each_shard in shards], looked)
    assert found.chosen == "chosen by leaving out devices"
    for shrinkage, said in found.expected_errors:
        errors = []
        for at, (x, y) in enumerate(shards):
            kernel, bias = central(shards[:at] + shards[at + 1 :], shrinkage)
            errors.append(np.square((x.astype(float) - OFFSET) @ kernel + bias - (y.astype(float) - MEAN) / SCALE))
        assert said == pytest.approx(np.mean(errors), rel=1e-3)
    assert found.shrinkage == min(found.expected_errors, key=lambda expected_error: expected_error[1])[0]
    many = solve_quantities([summed(*shard(seed, 500, noise=0.1)) for seed in range(4)], looked)
    assert many.shrinkage < found.shrinkage


def test_held_out_data_choose_where_they_are_given_and_of_equals_the_most_shrunk() -> None:
    parts = [summed(*shard(0, 90))]
    best = solve_quantities(parts, looked, explained=lambda kernel, bias: -float(np.abs(kernel).max()))
    assert (best.chosen, best.shrinkage) == ("chosen by held-out data", max(one for one, _ in best.expected_errors))
    assert solve_quantities(parts, looked, explained=lambda kernel, bias: 0.5).shrinkage == best.shrinkage
    assert solve_quantities(parts, looked).shrinkage == 0.1


def test_one_example_makes_its_own_mean_and_none_makes_no_head() -> None:
    x, y = shard(0, 1)
    found = solve_quantities([summed(x, y)], looked, shrinkage=0.1)
    np.testing.assert_allclose(found.bias, (y[0].astype(float) - MEAN) / SCALE, atol=1e-4)
    assert not found.kernel.any()
    with pytest.raises(EmptyShardError, match="no device has an example"):
        solve_quantities([nothing(1, WIDTH + 2 * DIGITS)], looked)
