"""Rows of frequencies that need no table: made from the density of a distribution of known mean size.

Both ends must make the same integers. So everything here is integer arithmetic, or one of + * / sqrt on float64, which
IEEE 754 defines to the last bit; there is no library exponential, and sums are made of integers.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from protos.update.entropy.contexts import mean_of

Counts = npt.NDArray[np.int64]
_FINEST, _COARSEST = 1024, 16  # places a unit at which a density is looked at
_PEAK = float(1 << 24)


def normalise(weights: Counts, precision: int) -> Counts:
    """Rows of weights as frequencies with the sum ``1 << precision`` each; 1 at least where the weight is not 0."""
    occurs = weights > 0
    spare = (1 << precision) - occurs.sum(axis=1, keepdims=True)
    frequencies = np.where(occurs, 1 + weights * spare // weights.sum(axis=1, keepdims=True), 0)
    rows = np.arange(len(weights))
    frequencies[rows, frequencies.argmax(axis=1)] += (1 << precision) - frequencies.sum(axis=1)
    return frequencies


def exponential(z: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """About exp(-z) for z from 0, by multiplications alone: the same bits on every machine."""
    power: npt.NDArray[np.float64] = 1.0 / (1.0 + np.minimum(z, 30.0) / 4096.0)
    for _ in range(12):
        power = power * power
    return power


def _density(shape: int, z: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    match shape:
        case 1:
            return exponential(z * z * 0.5)
        case 2:
            return exponential(z * np.sqrt(z))
        case 3:
            return exponential(z)
        case 4:
            return exponential(np.sqrt(z) * 2.0)
        case _:
            tail = 1.0 / (1.0 + z * z)
            squared: npt.NDArray[np.float64] = tail * tail
            return squared


# Number of a density to its mean absolute value at scale 1: Gaussian, between, Laplace, heavier, Student-like.
SHAPES = {1: 0.797885, 2: 0.754, 3: 1.0, 4: 1.5, 5: 0.63662}


@functools.lru_cache(maxsize=512)
def rows(
    shape: int, level: int, apart: int, parts: int, dithered: bool, reach: int, octaves: int, precision: int
) -> Counts:
    """Frequencies [parts, 2 * reach + 1 + 2 * octaves]: symbols of :mod:`protos.update.entropy.symbols`.

    Args:
        shape: a key of :data:`SHAPES`.
        level: of the numbers without their ``apart`` low bits, see :mod:`protos.update.entropy.contexts`.
        apart: 0 where symbols are numbers; else a symbol stands for 2**apart of them, from itself upwards.
        parts: into which the size of the dither, 0 to 1/2, is cut.
        dithered: whether that size was added to the values before they were rounded.
    """
    scale = mean_of(level) / SHAPES[shape]
    unit = _COARSEST
    while unit < _FINEST and unit * scale < 8:
        unit *= 2
    # The integral from the middle on, at every place of one side, in integers.
    half = (reach + 2) * unit
    density = _density(shape, (np.arange(half) + 0.5) / (unit * scale))
    side = (density * _PEAK).astype(np.int64)
    below = np.concatenate([[0], np.cumsum(side)])
    integral = np.concatenate([-below[:0:-1], below])
    edge = half + unit // 2 + np.arange(-reach - 1, reach + 1) * unit
    if apart:
        edge += unit // 2 - (unit >> (apart + 1))
    made = np.zeros((parts, 2 * reach + 1 + 2 * octaves), np.int64)
    for part in range(parts):
        ends = (part, part + 1) if dithered else (0,)
        for end in ends:
            at = integral[edge - (end * unit // (2 * parts) >> apart)]
            made[part, : 2 * reach + 1] += (at[1:] - at[:-1]) // len(ends)
    width = np.float64(2.0) ** np.arange(octaves)
    first = (reach + 0.5) / scale
    begin = np.maximum(0.0, (width - 1.0) / scale)
    looks = [_density(shape, first + begin + width * (place / scale)) for place in (0.125, 0.375, 0.625, 0.875)]
    tail = ((looks[0] + looks[1] + looks[2] + looks[3]) * width * (0.25 * unit * _PEAK / 16.0)).astype(np.int64)
    made[:, 2 * reach + 1 :] = np.tile(np.minimum(tail * 16, np.int64(1) << 38), 2)
    made.clip(0, None, out=made)
    found = normalise(made + 1, precision)
    found.setflags(write=False)
    return found
