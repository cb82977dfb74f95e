"""Splits of one data set over a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.lab.partition import HANDFUL, check_scheme, partition
from protos.errors import EmptyShardError, ShapeError, UsageError

Array = np.ndarray[Any, Any]
SCHEMES = ["iid", "natural", "dirichlet:0.01", "dirichlet:0.5", "dirichlet:100"]


def assert_split(parts: Sequence[Array], count: int, devices: int) -> None:
    assert len(parts) == devices
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    for part in parts:
        assert len(part)
        assert (np.diff(part) > 0).all()


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_parts_are_disjoint_complete_seeded_and_never_empty(data: st.DataObject) -> None:
    devices = data.draw(st.integers(1, 12))
    count = data.draw(st.integers(devices, 200))
    classes = data.draw(st.integers(1, 10))
    scheme = data.draw(st.sampled_from(SCHEMES))
    seed = data.draw(st.integers(0, 2**40))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    y = rng.integers(0, classes, count)
    owners = np.concatenate([np.arange(devices), rng.integers(0, 2 * devices, count - devices)])
    parts = partition(y, owners, devices, scheme, seed)
    assert_split(parts, count, devices)
    again = partition(y, owners, devices, scheme, seed)
    assert all(np.array_equal(part, other) for part, other in zip(parts, again, strict=True))
    if scheme == "iid":
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if scheme.startswith("dirichlet"):
        assert min(map(len, parts)) >= min(HANDFUL, count // devices)


def test_another_seed_gives_another_split() -> None:
    y, owners = np.arange(500) % 10, np.arange(500) % 50
    for scheme in SCHEMES:
        one, other = (partition(y, owners, 5, scheme, seed) for seed in (1, 2))
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def skew(parts: Sequence[Array], y: Array) -> float:
    """Mean distance (total variation) of a device's class shares from those of all."""
    whole = np.bincount(y, minlength=10) / len(y)
    return float(np.mean([np.abs(np.bincount(y[part], minlength=10) / len(part) - whole).sum() / 2 for part in parts]))


def test_a_smaller_alpha_is_more_skewed_and_a_large_one_is_nearly_iid() -> None:
    y = np.random.default_rng(0).integers(0, 10, 5000)
    small, middle, large, iid = (
        np.mean([skew(partition(y, None, 5, scheme, seed), y) for seed in range(10)])
        for scheme in ("dirichlet:0.1", "dirichlet:1", "dirichlet:1000", "iid")
    )
    assert small > middle + 0.1 > large + 0.2
    assert large < 2 * iid + 0.02


def test_natural_parts_keep_every_owner_whole_and_deal_owners_out_evenly() -> None:
    owners = np.array([f"writer-{number}" for number in np.random.default_rng(2).integers(0, 23, 1000)])
    parts = partition(np.zeros(1000, int), owners, 5, "natural", 3)
    sets = [set(owners[part].tolist()) for part in parts]
    assert sorted(map(len, sets)) == [4, 4, 5, 5, 5]
    assert sum(map(len, sets)) == len(set(owners.tolist()))
    assert_split(parts, 1000, 5)


def test_one_owner_per_device_comes_in_the_order_of_the_owners() -> None:
    owners = np.array([20, 10, 30, 10, 20, 30])
    parts = partition(np.zeros(6, int), owners, 3, "natural", 9)
    assert [part.tolist() for part in parts] == [[1, 3], [0, 4], [2, 5]]


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("dirichelt:0.5", r"did you mean dirichlet:ALPHA\?"),
        ("IID", r"did you mean iid\?"),
        ("nature", r"did you mean natural\?"),
        ("zzz", "choose iid, dirichlet:ALPHA, natural"),
        ("", "choose iid"),
        ("dirichlet", "no positive ALPHA"),
        ("dirichlet:", "no positive ALPHA"),
        ("dirichlet:-1", "no positive ALPHA"),
        ("dirichlet:0", "no positive ALPHA"),
        ("dirichlet:nan", "no positive ALPHA"),
        ("dirichlet:inf", "no positive ALPHA"),
        ("dirichlet:half", "no positive ALPHA"),
        ("iid:3", "iid takes no number"),
        ("natural:", "natural takes no number"),
    ],
)
def test_a_bad_scheme_is_answered_with_the_nearest(scheme: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_scheme(scheme)
    with pytest.raises(UsageError, match=words):
        partition(np.arange(10), None, 2, scheme, 0)


def test_what_cannot_be_split_is_refused() -> None:
    y = np.zeros(4, int)
    with pytest.raises(EmptyShardError, match="4 examples are too few for 5 devices"):
        partition(y, None, 5, "iid", 0)
    with pytest.raises(UsageError, match="`device` field"):
        partition(y, None, 2, "natural", 0)
    with pytest.raises(EmptyShardError, match="2 owners are too few for 3 devices"):
        partition(y, np.array([1, 1, 2, 2]), 3, "natural", 0)
    with pytest.raises(ShapeError, match="3 owners for 4 labels"):
        partition(y, np.array([1, 1, 2]), 2, "natural", 0)
    with pytest.raises(UsageError, match="0 devices"):
        partition(y, None, 0, "iid", 0)
    with pytest.raises(UsageError, match="negative"):
        partition(y, None, 2, "iid", -1)


def test_an_alpha_so_small_that_the_draw_underflows_still_gives_a_split() -> None:
    y = np.arange(300) % 3
    for seed in range(20):
        assert_split(partition(y, None, 4, "dirichlet:1e-5", seed), 300, 4)
