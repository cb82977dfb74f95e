"""Random numbers that both ends make from a seed in the tensor.

Only the raw words of a bit generator are used: numpy promises that those stay the same from version to version and
from machine to machine, which it does not promise of its distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.update.trees import FloatArray

DITHER, KEPT, SIGNS = 1, 2, (3, 4, 5)  # what the words are for: one stream each
WHOLE = 1 << 16
_HALF = WHOLE // 2


def words(seed: int, purpose: int, count: int) -> npt.NDArray[np.uint16]:
    """uint16 [count], evenly spread over 0..65535; a function of seed and purpose alone."""
    source = np.random.PCG64(np.random.SeedSequence([seed, purpose]))
    raw: npt.NDArray[np.uint64] = source.random_raw(-(-count // 4)) if count else np.zeros(0, np.uint64)
    return raw.astype("<u8", copy=False).view("<u2")[:count]


@dataclass(frozen=True)
class Dither:
    """Numbers evenly spread over (-1/2, 1/2), in steps of 2**-16 and never 0, as size and sign.

    Attributes:
        size: float32 [n], in (0, 1/2).
        sign: float32 [n], -1 or 1.
        place: uint16 [n], the size in 65536ths, rounded down: 0 to 32767. Its leading bits say in which part it is.
    """

    size: FloatArray
    sign: FloatArray
    place: npt.NDArray[np.uint16]

    @staticmethod
    def made(seed: int, count: int) -> Dither:
        """The dither of ``count`` coordinates."""
        drawn = words(seed, DITHER, count)
        place = drawn & np.uint16(_HALF - 1)
        size = place.astype(np.float32)
        size += np.float32(0.5)
        size *= np.float32(1 / WHOLE)
        sign = (drawn >> np.uint16(15)).astype(np.float32)
        sign *= np.float32(-2)
        sign += np.float32(1)
        return Dither(size, sign, place)

    def every(self, stride: int) -> Dither:
        """A sample of it."""
        return Dither(self.size[::stride], self.sign[::stride], self.place[::stride])


def kept(seed: int, share: int, count: int) -> npt.NDArray[np.intp]:
    """Which of ``count`` coordinates travel when each does with probability ``share`` / 65536."""
    return np.flatnonzero(words(seed, KEPT, count) < share)


def sizes_of(chosen: npt.NDArray[np.intp] | None, sizes: Sequence[int]) -> list[int]:
    """How many of the ``chosen`` of all coordinates fall to each tensor; None: all."""
    if chosen is None:
        return list(sizes)
    ends = np.searchsorted(chosen, np.cumsum([0, *sizes]))
    return [int(size) for size in np.diff(ends)]
