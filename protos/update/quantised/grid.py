"""Kinds of values that need no model: plain floats, and codes on evenly spaced levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.packing import unpack
from protos.update.reading import ABSURD, floats
from protos.update.trees import FloatArray


@dataclass(frozen=True)
class Float32:
    """Little-endian float32, 4 bytes a coordinate."""

    data: bytes

    def values(self, count: int) -> FloatArray:
        return floats(self.data, "<f4", count).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Float16:
    """Little-endian IEEE 754 binary16, 2 bytes a coordinate."""

    data: bytes

    def values(self, count: int) -> FloatArray:
        return floats(self.data, "<f2", count).astype(np.float32)


@dataclass(frozen=True)
class UniformGrid:
    """Codes on evenly spaced levels, ``offset + step * (code - (2**bits - 1) / 2)``, bucket by bucket.

    Attributes:
        bits: 1 to 8.
        bucket: coordinates that share a step; the last bucket may be shorter.
        step: float32 per bucket, 0 or positive.
        offset: float32 per bucket, or empty for all zero.
        codes: packed codes, see :mod:`protos.update.packing`.
        centred: a level lies at the offset, ``offset + step * (code - (2**(bits - 1) - 1))``.
    """

    bits: int
    bucket: int
    step: bytes
    offset: bytes
    codes: bytes
    centred: bool = False

    def values(self, count: int) -> FloatArray:
        if not 1 <= self.bits <= 8:
            raise UpdateError(f"a grid has 1 to 8 bits, not {self.bits}")
        if self.bucket < 1:
            raise UpdateError(f"a bucket holds 1 coordinate or more, not {self.bucket}")
        buckets = -(-count // self.bucket)
        step = floats(self.step, "<f4", buckets)
        if (step < 0).any():
            raise UpdateError("a step is negative")
        # One bit has two levels, half a step from the middle. Larger steps would overflow below.
        if float(step.max(initial=0)) > 2 * ABSURD:
            raise UpdateError(f"a step is beyond {2 * ABSURD:g}")
        codes = unpack(self.codes, self.bits, count)
        middle = 2 ** (self.bits - 1) - 1 if self.centred else (2**self.bits - 1) / 2
        centred = codes.astype(np.float32) - np.float32(middle)
        # With one bucket the step broadcasts; a bucket larger than the tensor must not make repeat() allocate more.
        result: FloatArray = centred * _spread(step, self.bucket, count)
        if self.offset:
            offset = floats(self.offset, "<f4", buckets)
            if float(np.abs(offset).max(initial=0)) > ABSURD:
                raise UpdateError(f"an offset is beyond {ABSURD:g}")
            result += _spread(offset, self.bucket, count)
        return result


def _spread(per_bucket: npt.NDArray[np.floating], bucket: int, count: int) -> npt.NDArray[np.floating]:
    if len(per_bucket) == 1:
        return per_bucket
    return np.repeat(per_bucket, bucket)[:count]
