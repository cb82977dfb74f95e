"""Levels that are not evenly spaced: the best ones for a Gaussian, and levels that travel with the tensor."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.packing import unpack
from protos.update.reading import ABSURD, floats
from protos.update.trees import FloatArray

_SWEEPS = 2000


@functools.lru_cache(maxsize=8)
def lloyd_max(bits: int) -> FloatArray:
    """The 2**bits levels of least mean square error for a standard normal variable, rising; float32.

    Lloyd's iteration (Lloyd 1982; Max 1960) from the levels that are best at high rates (Panter and Dite 1951: density
    of the levels as the cube root of that of the values). Known values: 0.79788 at 1 bit; 0.45278, 1.51042 at 2.

    >>> lloyd_max(2).round(4).tolist() == np.float32([-1.5104, -0.4528, 0.4528, 1.5104]).tolist()
    True
    """
    half = 2 ** (bits - 1)
    grid = np.linspace(0, 9, 1 << 14)
    density = np.exp(-(grid**2) / 6)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    upper = np.interp((np.arange(half) + 0.5) / half * mass[-1], mass, grid)
    for _ in range(_SWEEPS):
        edges = np.concatenate([[0.0], (upper[1:] + upper[:-1]) / 2, [np.inf]])
        bell = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        above = np.array([0.5 * math.erfc(edge / math.sqrt(2)) for edge in edges])
        means = (bell[:-1] - bell[1:]) / (above[:-1] - above[1:])
        moved = float(np.abs(means - upper).max())
        upper = means
        if moved < 1e-9:
            break
    levels = np.concatenate([-upper[::-1], upper]).astype(np.float32)
    levels.setflags(write=False)
    return levels


@functools.lru_cache(maxsize=8)
def _cells(bits: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    levels = lloyd_max(bits)
    edges = (levels[1:] + levels[:-1]) / 2
    places = (np.arange(_CELLS) - _CELLS / 2) / _PER_UNIT
    return np.searchsorted(edges, places).astype(np.uint8), np.append(edges, np.float32(np.inf)).astype(np.float32)


# Narrower than the nearest two edges of 256 levels are apart, so that a cell holds one edge at most.
_CELLS, _PER_UNIT = 1 << 13, 512.0


def nearest(values: FloatArray, bits: int) -> npt.NDArray[np.uint8]:
    """Code of the nearest of :func:`lloyd_max` for each value."""
    first, edges = _cells(bits)
    cell = np.clip(values * np.float32(_PER_UNIT) + np.float32(_CELLS / 2), 0, _CELLS - 1).astype(np.int32)
    codes: npt.NDArray[np.uint8] = first[cell]
    codes += values > edges[codes]
    return codes


@dataclass(frozen=True)
class Codebook:
    """Codes into levels that travel beside them.

    Attributes:
        bits: 1 to 8.
        levels: float32, 2**bits of them.
        codes: packed codes, see :mod:`protos.update.packing`.
    """

    bits: int
    levels: bytes
    codes: bytes

    def values(self, count: int) -> FloatArray:
        if not 1 <= self.bits <= 8:
            raise UpdateError(f"a codebook has 1 to 8 bits, not {self.bits}")
        levels = floats(self.levels, "<f4", 2**self.bits).astype(np.float32)
        if float(np.abs(levels).max()) > ABSURD:
            raise UpdateError(f"a level is beyond {ABSURD:g}")
        return levels[unpack(self.codes, self.bits, count)]
