"""Kernels on few bits: the levels that min-max gives, and ranges that no shift or stretch betters by much."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protos.errors import UsageError
from protos.model.head_kinds.weight_grids import (
    FULL,
    KINDS,
    Rounding,
    check_bits,
    head_size_bytes,
    round_head,
    round_kernel,
)

_BITS = (1, 2, 3, 4, 6, 8)


def _kernel(seed: int, rows: int = 64, columns: int = 10) -> np.ndarray:
    random = np.random.default_rng(seed)
    # Tails, and channels of unlike size: where ranges differ.
    return (random.standard_t(4, (rows, columns)) * random.uniform(0.2, 2.0, columns)).astype(np.float32)


def _error(kernel: np.ndarray, how: Rounding) -> float:
    return float(np.square(round_kernel(kernel, how).astype(np.float64) - kernel).sum())


@pytest.mark.parametrize("bits", _BITS)
def test_min_max_keeps_both_ends_and_errs_by_half_a_step_at_most(bits: int) -> None:
    kernel = _kernel(1)
    rounded = round_kernel(kernel, Rounding(bits))
    step = np.ptp(kernel) / (2**bits - 1)
    assert (rounded.min(), rounded.max()) == pytest.approx((kernel.min(), kernel.max()))
    assert np.abs(rounded - kernel).max() <= step / 2 * (1 + 1e-5)
    assert len(np.unique(rounded)) <= 2**bits


@pytest.mark.parametrize(("bits", "kind"), list(itertools.product(_BITS, KINDS)))
def test_every_range_has_no_more_levels_than_its_bits(bits: int, kind: tuple) -> None:
    rounded = round_kernel(_kernel(2), Rounding(bits, *kind))
    for part in rounded.T if kind[1] == "channel" else [rounded]:
        levels = np.unique(part)
        assert len(levels) <= 2**bits
        if len(levels) > 2:
            gaps = np.diff(levels)
            whole = gaps / gaps.min()
            np.testing.assert_allclose(whole, whole.round(), atol=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_search_is_never_worse_than_min_max_and_near_the_best_range_there_is(seed: int, granularity: str) -> None:
    kernel = _kernel(seed)
    for bits in (2, 3, 4):
        found = _error(kernel, Rounding(bits, "mse", granularity))
        assert found <= _error(kernel, Rounding(bits, "minmax", granularity)) * (1 + 1e-6)
        if granularity == "tensor":
            low, high = float(kernel.min()), float(kernel.max())
            best = np.inf
            for a, b in itertools.product(np.linspace(0, 0.9, 61), repeat=2):
                ends = low * (1 - a), high * (1 - b)
                step = (ends[1] - ends[0]) / (2**bits - 1)
                codes = np.clip(np.rint((kernel - ends[0]) / step), 0, 2**bits - 1)
                best = min(best, float(np.square(ends[0] + step * codes - kernel).sum()))
            assert found <= 1.02 * best, (bits, found / best)


def test_a_range_for_each_channel_errs_less_than_one_for_all() -> None:
    for bits, ranges in itertools.product((2, 3, 4, 8), ("minmax", "mse")):
        kernel = _kernel(7)
        assert _error(kernel, Rounding(bits, ranges, "channel")) < _error(kernel, Rounding(bits, ranges, "tensor"))


def test_constant_kernels_and_full_width_are_left_as_they_are() -> None:
    constant = np.full((3, 2), 0.7, np.float32)
    for kind in KINDS:
        np.testing.assert_array_equal(round_kernel(constant, Rounding(2, *kind)), constant)
    kernel = _kernel(3)
    np.testing.assert_array_equal(round_kernel(kernel, Rounding(FULL)), kernel)


def test_a_head_keeps_its_biases_and_is_counted_in_bytes() -> None:
    tree = {"out_bias": np.array([0.1, -0.3], np.float32), "out_kernel": _kernel(4, 8, 2)}
    rounded = round_head(tree, Rounding(2))
    np.testing.assert_array_equal(rounded["out_bias"], tree["out_bias"])
    assert not np.array_equal(rounded["out_kernel"], tree["out_kernel"])
    assert head_size_bytes(tree, Rounding(2)) == 8 + 4 + 8
    assert head_size_bytes(tree, Rounding(3, "mse", "channel")) == 8 + 6 + 16
    assert head_size_bytes(tree, Rounding(FULL)) == 4 * 18


@pytest.mark.parametrize("bits", [(), (0,), (17,), (8, 33)])
def test_widths_that_no_grid_has_are_refused(bits: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="--bits"):
        check_bits(bits, where="--bits")
    assert check_bits([32, 8, 8], where="--bits") == (32, 8)
