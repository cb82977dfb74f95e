"""Kernels of a head rounded to few bits after training: which levels, and what a head is on them.

A kernel on ``b`` bits has ``2^b`` evenly spaced levels, ``w ~ low + step * code`` with codes 0 to ``2^b - 1``, one pair
(low, step) for the tensor or for each output channel. Two choices of the pair:

    min-max:  low = min w,  step = (max w - min w) / (2^b - 1): no value is clipped;
    mse:      the pair of the least squared error that a search finds, which clips the tails: min-max and ranges
              that are narrower at either end are starts, and from each, codes and pair are fitted in turn (Lloyd's
              alternation: nearest codes for the pair, then least squares of w on the codes). Neither step can make
              the error larger, and min-max is one of the starts, so the result is never worse than min-max.

Biases stay as they are: they are few, and integer kernels hold them in 32 bits. numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from protos.errors import UsageError
from protos.model.head_algebra import Array, Tree

Ranges = Literal["minmax", "mse"]
Granularity = Literal["tensor", "channel"]

FULL = 32
BITS = range(1, 17)
KINDS: tuple[tuple[Ranges, Granularity], ...] = (
    ("minmax", "tensor"),
    ("minmax", "channel"),
    ("mse", "tensor"),
    ("mse", "channel"),
)

# Starts of the search, as shares of the way from the mean to each end, every pair of them; and rounds of the
# alternation, which seldom needs ten.
_SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Rounding:
    """How kernels are rounded.

    Attributes:
        bits: 1 to 16; 32 leaves kernels as they are.
        ranges: "minmax" or "mse".
        granularity: one range for a "tensor", or for each output "channel", the last axis.
    """

    bits: int
    ranges: Ranges = "minmax"
    granularity: Granularity = "tensor"


def check_bits(bits: Iterable[int], *, where: str) -> tuple[int, ...]:
    """The widths, each once, in the order given.

    Raises:
        UsageError: none, or a width that no grid has.
    """
    found = tuple(dict.fromkeys(bits))
    wrong = [bit for bit in found if bit not in BITS and bit != FULL]
    if not found or wrong:
        what = f"{wrong[0]} bits: a kernel has 1 to 16, or 32" if wrong else "no width is given"
        raise UsageError(what, where=where, fix="such as 32,8,6,4,3,2")
    return found


def round_kernel(kernel: npt.ArrayLike, how: Rounding) -> Array:
    """The kernel on its grid, float32 of the same shape.

    Args:
        kernel: finite real values [..., C].

    >>> round_kernel([[0.0], [1.0], [2.6], [3.0]], Rounding(2)).ravel().tolist()
    [0.0, 1.0, 3.0, 3.0]
    """
    values = np.asarray(kernel, np.float64)
    if how.bits == FULL or values.size == 0:
        return np.array(values, np.float32)
    channels = values.shape[-1] if how.granularity == "channel" and values.ndim > 1 else 1
    columns = values.reshape(-1, channels)
    low, high = columns.min(axis=0), columns.max(axis=0)
    best = _snapped(columns, low, _step(low, high, how.bits), how.bits)[1]
    if how.ranges == "mse":
        error = np.square(best - columns).sum(axis=0)
        mean = columns.mean(axis=0)
        for below, above in itertools.product(_SHARES, repeat=2):
            found = _alternated(columns, mean + below * (low - mean), mean + above * (high - mean), how.bits)
            own = np.square(found - columns).sum(axis=0)
            better = own < error
            best, error = np.where(better, found, best), np.where(better, own, error)
    return best.reshape(values.shape).astype(np.float32)


def _step(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float64]:
    step: npt.NDArray[np.float64] = (high - low) / (2**bits - 1)
    return step


def _snapped(
    columns: npt.NDArray[np.float64], low: npt.NDArray[np.float64], step: npt.NDArray[np.float64], bits: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Codes of the nearest levels, and these levels. A column of one value has one level."""
    safe = np.where(step > 0, step, 1.0)
    codes = np.clip(np.rint((columns - low) / safe), 0, 2**bits - 1)
    return codes, low + step * codes


def _alternated(
    columns: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], bits: int
) -> npt.NDArray[np.float64]:
    step = _step(low, high, bits)
    codes, levels = _snapped(columns, low, step, bits)
    for _ in range(_ROUNDS):
        # Least squares of w = low + step * code, column by column: step = cov(code, w) / var(code).
        code_mean, mean = codes.mean(axis=0), columns.mean(axis=0)
        spread = np.square(codes - code_mean).sum(axis=0)
        slope = ((codes - code_mean) * (columns - mean)).sum(axis=0) / np.where(spread > 0, spread, 1.0)
        step = np.where(spread > 0, slope, 0.0)
        low = mean - step * code_mean
        before = codes
        codes, levels = _snapped(columns, low, step, bits)
        if np.array_equal(before, codes):
            break
    return levels


def round_head(tree: Mapping[str, npt.NDArray[Any]], how: Rounding) -> Tree:
    """The head with its kernels on their grids, in the space in which it travels; biases are left alone."""
    return {
        name: round_kernel(value, how) if name.endswith("_kernel") else np.array(value, np.float32)
        for name, value in tree.items()
    }


def head_size_bytes(tree: Mapping[str, npt.NDArray[Any]], how: Rounding) -> int:
    """Bytes that the head takes: codes, a float32 pair for each range, float32 biases."""
    total = 0
    for name, value in tree.items():
        if not name.endswith("_kernel") or how.bits == FULL:
            total += 4 * value.size
            continue
        ranges = value.shape[-1] if how.granularity == "channel" else 1
        total += -(-how.bits * value.size // 8) + 8 * ranges
    return total
