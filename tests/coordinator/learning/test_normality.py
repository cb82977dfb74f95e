"""What is normal, from the sums of a fleet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.learning.normality import solve_distance
from protos.errors import EmptyShardError
from protos.model.task import scores_of, whitened_head
from protos.statistics.moments import moments_of, nothing


def shards(count: int = 3, each: int = 200) -> list[Any]:
    random = np.random.default_rng(3)
    mix = random.normal(size=(6, 6)) * 12
    return [
        np.clip(np.rint(random.normal(size=(each, 6)) @ mix), -128, 127).astype(np.int8) for _ in range(count)
    ]  # fmt: skip


def summed(values: Any) -> Any:
    return moments_of(values, np.zeros(len(values), np.int32), 1, 0)


def test_the_sums_of_a_fleet_give_the_distance_of_all_its_examples() -> None:
    parts = shards()
    found = solve_distance([summed(part) for part in parts], shrinkage=0.01)
    whole = np.concatenate(parts).astype(float)
    kernel, bias = whitened_head(whole.mean(axis=0), np.cov(whole.T, bias=True), 0.01)
    np.testing.assert_allclose(
        scores_of(whole @ found.kernel + found.bias), scores_of(whole @ kernel + bias), rtol=1e-8
    )
    assert 0.5 < scores_of(whole @ found.kernel + found.bias).mean() < 1.0


def test_left_out_devices_choose_little_shrinkage_for_many_examples_and_more_for_few() -> None:
    many = solve_distance([summed(shard) for shard in shards(each=400)])
    few = solve_distance([summed(shard) for shard in shards(each=5)])
    assert many.chosen == few.chosen == "chosen by leaving out devices"
    assert many.shrinkage < few.shrinkage


def test_held_out_data_choose_where_they_can_tell() -> None:
    parts = [summed(shard) for shard in shards()]
    best = solve_distance(parts, order=lambda kernel, bias: float(-abs(np.abs(kernel).max() - 0.01)))
    assert best.chosen == "chosen by held-out data"
    assert solve_distance(parts, order=lambda kernel, bias: None).chosen == "chosen by leaving out devices"
    assert solve_distance(parts[:1], order=lambda kernel, bias: None).shrinkage == 0.1


def test_no_normal_example_makes_no_head() -> None:
    with pytest.raises(EmptyShardError, match="label 0"):
        solve_distance([nothing(1, 6)])
