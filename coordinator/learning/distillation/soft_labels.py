"""Soft labels in few bits, and only those that have changed.

A distribution over K classes becomes K whole numbers that sum to L = 2^bits - 1, so that what is read back is one
again: p L is rounded down, and the units that are missing go to the largest remainders (Hamilton's method). No entry is
off by more than 1 / L. On one bit that is the most probable class alone, a vote, as in CFD (Sattler et al., 2021).

A cache keeps what was sent last for each example. A label that is off by no more than a tolerance, in total variation,
is not sent again, as in SCARLET (2025). Bytes are counted as they would travel: a bit an example for whether it
follows, then, for each that does, `bits` for each of K - 1 numbers, since the last is what is missing from L; with one
bit, the class.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from protos.errors import ShapeError

Reals = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

MOST_BITS = 16


def quantise(p: Reals, bits: int) -> Whole:
    """[N, K] whole numbers of sum 2^bits - 1, nearest to the distributions p.

    Raises:
        ShapeError: p is no table of distributions, or bits are not from 1 to 16.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ShapeError(f"soft labels in {bits} bits", fix=f"take 1 to {MOST_BITS}")
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any() or not np.allclose(p.sum(axis=1), 1.0, atol=1e-6):
        raise ShapeError(f"soft labels of shape {list(p.shape)} are no distributions")
    levels = (1 << bits) - 1
    exact = p / p.sum(axis=1, keepdims=True) * levels
    low = np.floor(exact).astype(np.int64)
    missing = levels - low.sum(axis=1)
    rank = np.argsort(np.argsort(low - exact, axis=1, kind="stable"), axis=1, kind="stable")
    found: Whole = low + (rank < missing[:, None])
    return found


def dequantise(numbers: Whole) -> Reals:
    """The distributions that :func:`quantise` wrote down."""
    found: Reals = numbers / numbers.sum(axis=1, keepdims=True)
    return found


class Cache:
    """Soft labels of a proxy set as the other side holds them.

    Args:
        bits: of each number.
        tolerance: total variation, 0 to 1, within which a label counts as unchanged.

    Attributes:
        bytes_sent: over all updates.
        sent: labels that travelled, over all updates.
    """

    def __init__(self, bits: int = 4, tolerance: float = 0.05) -> None:
        self.bits, self.tolerance = bits, tolerance
        self.bytes_sent = self.sent = 0
        self._held: Whole | None = None

    def update(self, p: Reals) -> Reals:
        """Tell the other side of labels [N, K]; returns what it holds then."""
        new = quantise(p, self.bits)
        if self._held is None or self._held.shape != new.shape:
            changed = np.ones(len(new), np.bool_)
            self._held = new
        else:
            off = 0.5 * np.abs(dequantise(self._held) - p).sum(axis=1)
            changed = (off > self.tolerance) & (new != self._held).any(axis=1)
            self._held = np.where(changed[:, None], new, self._held)
        count, classes = int(changed.sum()), new.shape[1]
        each = math.ceil(math.log2(classes)) if self.bits == 1 else self.bits * (classes - 1)
        self.bytes_sent += math.ceil(len(new) / 8) + math.ceil(count * each / 8)
        self.sent += count
        return dequantise(self._held)
