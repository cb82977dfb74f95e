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

from protos.errors import UpdateError
from protos.update.entropy import EntropyCoded
from protos.update.grid import Float16, Float32, UniformGrid
from protos.update.levels import Codebook
from protos.update.reading import ABSURD
from protos.update.rotated import Rotated
from protos.update.sparse import Sparse
from protos.update.trees import Shapes, Tree

__all__ = [
    "ABSURD",
    "Codebook",
    "EncodedTensor",
    "EntropyCoded",
    "Float16",
    "Float32",
    "Rotated",
    "Sparse",
    "UniformGrid",
    "Values",
    "as_float32",
    "decode",
]

Values = Float32 | Float16 | UniformGrid | Codebook | EntropyCoded | Rotated | Sparse


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
