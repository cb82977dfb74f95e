"""Sums of integer embeddings: exact, whatever the order or the tree, and subtracted as if they had never been."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import LabelError, ShapeError, UpdateError
from protos.statistics.moments import MAX_EXAMPLES, Moments, moments_of, nothing, total, triangle

CLASSES, WIDTH = 4, 7


def data(seed: int, count: int, dtype: Any = np.int8, width: int = WIDTH) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max + 1, (count, width)).astype(dtype), random.integers(0, CLASSES, count)


def naive(x: Any, y: Any, offset: int) -> Moments:
    z = [[int(value) - offset for value in row] for row in x]
    sums = [[sum(row[j] for row, k in zip(z, y, strict=True) if k == c) for j in range(WIDTH)] for c in range(CLASSES)]
    gram = [sum(row[i] * row[j] for row in z) for i, j in zip(*triangle(WIDTH), strict=True)]
    return Moments(np.bincount(y, minlength=CLASSES), np.array(sums), np.array(gram))


@pytest.mark.parametrize(("dtype", "offset"), [(np.int8, 0), (np.int8, -128), (np.int8, 127), (np.uint8, 0)])
def test_sums_are_those_of_python_integers(dtype: Any, offset: int) -> None:
    x, y = data(1, 50, dtype)
    assert moments_of(x, y, CLASSES, offset) == naive(x, y, offset)


@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums_of_many_blocks_are_exact(value: int) -> None:
    """float32 would round a sum of 20,000 squares of 255."""
    count, offset = 20_001, -128 if value == 127 else 127
    found = moments_of(np.full((count, 2), value, np.int8), np.zeros(count, np.int32), 1, offset)
    assert found.gram.tolist() == [255 * 255 * count] * 3
    assert found.sums.tolist() == [[(value - offset) * count] * 2]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_no_order_and_no_tree_changes_a_bit(sizes: list[int], random: Any) -> None:
    parts = [moments_of(*data(seed, size), CLASSES, 3) for seed, size in enumerate(sizes)]
    flat = total(parts, CLASSES, WIDTH)
    shuffled = random.sample(parts, len(parts))
    assert total(shuffled, CLASSES, WIDTH) == flat
    while len(shuffled) > 1:
        at = random.randrange(len(shuffled) - 1)
        shuffled[at : at + 2] = [shuffled[at] + shuffled[at + 1]]
    assert shuffled[0] == flat
    x, y = (np.concatenate(part) for part in zip(*(data(s, n) for s, n in enumerate(sizes)), strict=True))
    assert moments_of(x, y, CLASSES, 3) == flat


def test_what_is_subtracted_was_never_there() -> None:
    parts = [moments_of(*data(seed, 20 + seed), CLASSES, -5) for seed in range(4)]
    for out in range(4):
        rest = [part for at, part in enumerate(parts) if at != out]
        for order in itertools.permutations(rest):
            assert total(parts, CLASSES, WIDTH) - parts[out] == total(list(order), CLASSES, WIDTH)
    weighted = [part.times(weight) for part, weight in zip(parts, (3, 1, 7, 2), strict=True)]
    assert total(weighted, CLASSES, WIDTH) - weighted[2] == weighted[0] + weighted[1] + weighted[3]
    with pytest.raises(UpdateError, match="what is subtracted was never added"):
        parts[0] - parts[1] - parts[2]


def test_a_weight_is_so_many_copies() -> None:
    x, y = data(3, 12)
    three = moments_of(np.concatenate([x] * 3), np.concatenate([y] * 3), CLASSES, 0)
    assert moments_of(x, y, CLASSES, 0).times(3) == three
    assert three.times(0) == nothing(CLASSES, WIDTH)
    with pytest.raises(UpdateError, match="negative"):
        three.times(-1)


def test_a_sum_that_64_bits_do_not_hold_is_refused_before_it_is_made() -> None:
    many = Moments(np.array([MAX_EXAMPLES]), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
    with pytest.raises(UpdateError, match="whose sums 64 bits hold"):
        many + many
    with pytest.raises(UpdateError, match="whose sums 64 bits hold"):
        many.times(2)


def test_what_does_not_fit_together_is_refused() -> None:
    x, y = data(1, 10)
    with pytest.raises(LabelError, match=r"labels \d..3 in data for 2 classes"):
        moments_of(x, y, 2, 0)
    with pytest.raises(ShapeError, match="are no embeddings"):
        moments_of(x.astype(np.float32), y, CLASSES, 0)
    with pytest.raises(ShapeError, match="past 255"):
        moments_of(x, y, CLASSES, 200)
    with pytest.raises(ShapeError, match="do not go with those"):
        nothing(CLASSES, WIDTH) + nothing(CLASSES, WIDTH + 1)
