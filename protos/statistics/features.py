"""Which whole numbers are summed: embeddings less their offset, or a seeded projection of them to fewer numbers.

A Gram matrix grows with the square of the width. ``project`` = m takes, in place of D numbers q,

    f = clip((P^T (q - centre) + 2^(shift-1)) >> shift, -127, 127),    P of D x m signs drawn from the seed,

which keeps distances (Achlioptas, "Database-friendly random projections", 2003; for federated ridge regression on wide
features arXiv 2601.08216) and is a whole number again, so that sums stay exact. ``centre`` is the bundle's feature mean
in units of q, rounded. The signs come from SHAKE-256, not from a generator whose stream may change with its library.
A linear head on f is a linear head on embeddings, but for the rounding: ``kernel = P kernel_f / 2^shift``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import ShapeError
from protos.statistics.moments import LARGEST

Signs = npt.NDArray[np.int8]
Reals = npt.NDArray[np.float64]

MAX_PROJECT = 4096
MAX_SHIFT = 24
_CLIP = 127
# The deviation of a projected number, of 127: one in 15,000 is clipped.
_DEVIATION = 32.0


@dataclass(frozen=True)
class FeatureMap:
    """From embeddings to the numbers that are summed; every device of a run has the same.

    Attributes:
        offset: subtracted from embeddings when nothing is projected; the backbone's zero point.
        project: m, or 0 for embeddings as they are.
        shift: bits that are rounded away after projecting.
        seed: of the signs.
    """

    offset: int
    project: int = 0
    shift: int = 0
    seed: int = 0

    def width(self, embedding_width: int) -> int:
        """How many numbers an example has."""
        return self.project or embedding_width

    @property
    def summed_offset(self) -> int:
        """What is subtracted from :meth:`of` before summing."""
        return 0 if self.project else self.offset

    def of(self, embeddings: npt.NDArray[Any], centre: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        """The numbers of some examples, int8 or uint8 [N, width]; less :attr:`summed_offset` they are what is summed.

        Args:
            embeddings: int8 or uint8 [N, D].
            centre: see :func:`centre_of`.
        """
        if not self.project:
            return embeddings
        # Whole numbers below 2**24 all along: exact as float32, whatever the order of the sum.
        moved = embeddings.astype(np.float32) - centre.astype(np.float32)
        mixed = (moved @ signs(self.seed, embeddings.shape[1], self.project).astype(np.float32)).astype(np.int32)
        half = 1 << (self.shift - 1) if self.shift else 0
        projected: npt.NDArray[np.int8] = np.clip((mixed + half) >> self.shift, -_CLIP, _CLIP).astype(np.int8)
        return projected

    def plain(self, kernel: Reals, bias: Reals, centre: npt.NDArray[np.int32], scale: float) -> tuple[Reals, Reals]:
        """A head on the summed numbers as one on dequantised embeddings ``(q - offset) * scale``.

        Args:
            kernel: [width, C]; bias: [C].

        Returns:
            Kernel [D, C] and bias [C].
        """
        if not self.project:
            return kernel / scale, bias
        # P kernel / 2^shift works on q - centre = x / scale + offset - centre.
        whole = signs(self.seed, len(centre), self.project).astype(np.float64) @ kernel / 2.0**self.shift
        return whole / scale, bias + (self.offset - centre) @ whole


def centre_of(mean: npt.NDArray[np.float32], scale: float, offset: int) -> npt.NDArray[np.int32]:
    """The mean of each feature in units of the embedding, rounded, int32 [D].

    Args:
        mean: the bundle's, of dequantised embeddings.
        scale, offset: of the embedding.
    """
    found = np.clip(np.rint(mean.astype(np.float64) / scale) + offset, -LARGEST, LARGEST)
    whole: npt.NDArray[np.int32] = found.astype(np.int32)
    return whole


def shift_for(deviation: Reals, scale: float) -> int:
    """Bits to round away so that projected numbers use their range.

    Args:
        deviation: [D] of the dequantised features.
    """
    projected = math.sqrt(float((deviation.astype(np.float64) ** 2).sum())) / scale
    return min(MAX_SHIFT, max(0, math.ceil(math.log2(max(projected, 1.0) / _DEVIATION))))


@lru_cache(maxsize=2)
def signs(seed: int, rows: int, columns: int) -> Signs:
    """P: +1 and -1, int8 [rows, columns], the same on every machine.

    Raises:
        ShapeError: sums of it would pass 2**24.
    """
    if 2 * LARGEST * rows >= 1 << 24:
        raise ShapeError(f"a projection from {rows} numbers is not exact any more")
    count = rows * columns
    drawn = hashlib.shake_256(f"signs/{seed}/{rows}/{columns}".encode()).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8), count=count, bitorder="little")
    made: Signs = (2 * bits.astype(np.int8) - 1).reshape(rows, columns)
    made.flags.writeable = False
    return made
