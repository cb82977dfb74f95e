"""Random numbers that both ends make from a seed in the tensor.

Only the raw words of a bit generator are used: numpy promises that those stay the same from version to version and
from machine to machine, which it does not promise of its distributions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.update.trees import FloatArray

DITHER, KEPT, SIGNS = 1, 2, 3  # what the words are for: one stream each
WHOLE = 1 << 16


def words(seed: int, purpose: int, count: int) -> npt.NDArray[np.uint16]:
    """uint16 [count], evenly spread over 0..65535; a function of seed and purpose alone."""
    source = np.random.PCG64(np.random.SeedSequence([seed, purpose]))
    raw: npt.NDArray[np.uint64] = source.random_raw(-(-count // 4)) if count else np.zeros(0, np.uint64)
    return raw.astype("<u8", copy=False).view("<u2")[:count]


def dither(seed: int, count: int) -> FloatArray:
    """float32 [count], evenly spread over (-1/2, 1/2) in steps of 2**-16, and never 0."""
    drawn: FloatArray = words(seed, DITHER, count).astype(np.float32)
    drawn += np.float32(0.5 - WHOLE / 2)
    drawn *= np.float32(1 / WHOLE)
    return drawn


def kept(seed: int, share: int, count: int) -> npt.NDArray[np.intp]:
    """Which of ``count`` coordinates travel when each does with probability ``share`` / 65536."""
    return np.flatnonzero(words(seed, KEPT, count) < share)
