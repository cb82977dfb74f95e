"""Tensors that describe themselves: how to read one is written in it, not in a plan.

A new quantiser on a device needs nothing new here as long as its result fits a kind below; a new kind is one
dataclass with ``values``, one field of the message ``Tensor``, and one line each way in
``protos.convert.tensors``.

Decoding is where bytes from the network become numbers. It allocates no more than the expected shape, and refuses
wrong lengths, steps that are not finite or absurd, and codes past the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.packing import unpack
from protos.update.trees import FloatArray, Shapes, Tree

# A head coordinate or a step beyond this is an attack or a divergence, never a model.
ABSURD = 1e9


@dataclass(frozen=True)
class Float32:
    """Little-endian float32, 4 bytes a coordinate."""

    data: bytes

    def values(self, count: int) -> FloatArray:
        return _floats(self.data, "<f4", count).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Float16:
    """Little-endian IEEE 754 binary16, 2 bytes a coordinate."""

    data: bytes

    def values(self, count: int) -> FloatArray:
        return _floats(self.data, "<f2", count).astype(np.float32)


@dataclass(frozen=True)
class UniformGrid:
    """Codes on evenly spaced levels, ``offset + step * (code - (2**bits - 1) / 2)``, bucket by bucket.

    Attributes:
        bits: 1 to 8.
        bucket: coordinates that share a step; the last bucket may be shorter.
        step: float32 per bucket, 0 or positive.
        offset: float32 per bucket, or empty for all zero.
        codes: packed codes, see :mod:`protos.update.packing`.
    """

    bits: int
    bucket: int
    step: bytes
    offset: bytes
    codes: bytes

    def values(self, count: int) -> FloatArray:
        if not 1 <= self.bits <= 8:
            raise UpdateError(f"a grid has 1 to 8 bits, not {self.bits}")
        if self.bucket < 1:
            raise UpdateError(f"a bucket holds 1 coordinate or more, not {self.bucket}")
        buckets = -(-count // self.bucket)
        step = _floats(self.step, "<f4", buckets)
        if (step < 0).any():
            raise UpdateError("a step is negative")
        # One bit has two levels, half a step from the middle. Larger steps would overflow below.
        if float(step.max(initial=0)) > 2 * ABSURD:
            raise UpdateError(f"a step is beyond {2 * ABSURD:g}")
        codes = unpack(self.codes, self.bits, count)
        centred = codes.astype(np.float32) - np.float32((2**self.bits - 1) / 2)
        # With one bucket the step broadcasts; a bucket larger than the tensor must not make repeat() allocate more.
        result: FloatArray = centred * _spread(step, self.bucket, count)
        if self.offset:
            offset = _floats(self.offset, "<f4", buckets)
            if float(np.abs(offset).max(initial=0)) > ABSURD:
                raise UpdateError(f"an offset is beyond {ABSURD:g}")
            result += _spread(offset, self.bucket, count)
        return result


Values = Float32 | Float16 | UniformGrid


@dataclass(frozen=True)
class EncodedTensor:
    """A named array as it travels."""

    name: str
    shape: tuple[int, ...]
    values: Values


def decode(tensors: Iterable[EncodedTensor], expected: Shapes) -> Tree:
    """Numbers from encoded tensors.

    Args:
        expected: name to shape; just these tensors must be there, once each.

    Raises:
        UpdateError: anything that is not as declared and expected.
    """
    tree: Tree = {}
    for tensor in tensors:
        if tensor.name not in expected:
            raise UpdateError(f"unexpected tensor {tensor.name!r}")
        if tensor.name in tree:
            raise UpdateError("twice in one update", where=tensor.name)
        shape = tuple(expected[tensor.name])
        if tensor.shape != shape:
            raise UpdateError(f"declared shape {tensor.shape}, expected {shape}", where=tensor.name)
        try:
            values = tensor.values.values(math.prod(shape))
        except UpdateError as error:
            raise UpdateError(error.what, where=tensor.name) from error
        if values.size and not float(np.abs(values).max()) <= ABSURD:
            raise UpdateError(f"a coordinate is beyond {ABSURD:g}", where=tensor.name)
        tree[tensor.name] = values.reshape(shape)
    missing = sorted(set(expected) - set(tree))
    if missing:
        raise UpdateError(f"tensors missing: {missing}")
    return tree


def as_float32(tree: Tree) -> tuple[EncodedTensor, ...]:
    """A tree without loss: how a head travels when no coded difference is known."""
    return tuple(
        EncodedTensor(name, tuple(tree[name].shape), Float32(np.ascontiguousarray(tree[name], "<f4").tobytes()))
        for name in sorted(tree)
    )


def _floats(data: bytes, dtype: str, count: int) -> npt.NDArray[np.floating]:
    size = np.dtype(dtype).itemsize
    if len(data) != count * size:
        raise UpdateError(f"{count} numbers need {count * size} bytes, got {len(data)}")
    values = np.frombuffer(data, dtype)
    if not np.isfinite(values).all():
        raise UpdateError("NaN or infinity")
    return values


def _spread(per_bucket: npt.NDArray[np.floating], bucket: int, count: int) -> npt.NDArray[np.floating]:
    if len(per_bucket) == 1:
        return per_bucket
    return np.repeat(per_bucket, bucket)[:count]
