"""Tensors that describe themselves: how to read one is written in it, not in a plan.

A new quantiser on a device needs nothing new here as long as its result fits a kind below; a new kind is one
dataclass with ``values``, one field of the message ``Tensor``, and one line each way in
``protos.convert.tensors``.

Decoding is where bytes from the network become numbers. It allocates no more than the expected shape, and refuses
wrong lengths, steps that are not finite or absurd, and codes past the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from protos.errors import UpdateError
from protos.update.entropy.rans import SIDE_BY_SIDE
from protos.update.entropy.reader import MOST_AHEAD, DecodedAhead, EntropyCoded, decoded_ahead
from protos.update.quantised.grid import Float16, Float32, UniformGrid
from protos.update.quantised.levels import Codebook
from protos.update.quantised.rotated import Rotated
from protos.update.quantised.sparse import Sparse
from protos.update.reading import ABSURD
from protos.update.trees import Shapes, Tree

__all__ = [
    "ABSURD",
    "WHOLE_TREE",
    "Codebook",
    "DecodedAhead",
    "EncodedTensor",
    "EntropyCoded",
    "Float16",
    "Float32",
    "Rotated",
    "Sparse",
    "UniformGrid",
    "Values",
    "ahead",
    "as_float32",
    "decode",
    "is_ahead_quicker",
]

# The name of a tensor that is all tensors of a tree, flat, one after the other in the order of their names.
WHOLE_TREE = "*"

Values = Float32 | Float16 | UniformGrid | Codebook | EntropyCoded | DecodedAhead | Rotated | Sparse


@dataclass(frozen=True)
class EncodedTensor:
    """A named array as it travels, or a whole tree of them: :data:`WHOLE_TREE`, of shape (coordinates,)."""

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
        if tensor.name == WHOLE_TREE and WHOLE_TREE not in expected:
            names = sorted(expected)
            if tree:
                raise UpdateError("a whole tree beside its tensors")
        elif tensor.name in expected:
            names = [tensor.name]
        else:
            raise UpdateError(f"unexpected tensor {tensor.name!r}")
        if not tree.keys().isdisjoint(names):
            raise UpdateError("twice in one update", where=tensor.name)
        tree |= _decoded(tensor, {name: tuple(expected[name]) for name in names})
    missing = sorted(set(expected) - set(tree))
    if missing:
        raise UpdateError(f"tensors missing: {missing}")
    return tree


def is_ahead_quicker(expected: Shapes, number: int) -> bool:
    """Whether :func:`ahead` may gain by changes of these shapes, of which there are so many at most."""
    return number >= SIDE_BY_SIDE and sum(math.prod(shape) for shape in expected.values()) <= MOST_AHEAD


def ahead(
    updates: Sequence[tuple[tuple[EncodedTensor, ...], Shapes]],
) -> list[tuple[EncodedTensor, ...]]:
    """The same updates, each with what :func:`decode` will expect of it. Of those that are one entropy-coded tree the
    codes are decoded, side by side, where there are enough of them for that to be quicker."""
    found: list[tuple[int, EntropyCoded, list[int]]] = []
    for at, (tensors, expected) in enumerate(updates):
        if len(tensors) == 1 and tensors[0].name == WHOLE_TREE and WHOLE_TREE not in expected:
            sizes = [math.prod(expected[name]) for name in sorted(expected)]
            if isinstance(coded := tensors[0].values, EntropyCoded) and tensors[0].shape == (sum(sizes),):
                found.append((at, coded, sizes))
    made = [tensors for tensors, _ in updates]
    decoded = decoded_ahead([(coded, sizes) for _, coded, sizes in found])
    for (at, _, _), values in zip(found, decoded, strict=True):
        made[at] = (replace(made[at][0], values=values),)
    return made


def _decoded(tensor: EncodedTensor, expected: Mapping[str, tuple[int, ...]]) -> Tree:
    """The arrays that one tensor is: itself, or a whole tree."""
    sizes = [math.prod(shape) for shape in expected.values()]
    shape = (sum(sizes),) if tensor.name not in expected else expected[tensor.name]
    if tensor.shape != shape:
        raise UpdateError(f"declared shape {tensor.shape}, expected {shape}", where=tensor.name)
    try:
        if isinstance(tensor.values, EntropyCoded | DecodedAhead):
            values = tensor.values.values(sum(sizes), sizes)
        else:
            values = tensor.values.values(sum(sizes))
    except UpdateError as error:
        raise UpdateError(error.what, where=tensor.name) from error
    if values.size and not float(np.abs(values).max()) <= ABSURD:
        raise UpdateError(f"a coordinate is beyond {ABSURD:g}", where=tensor.name)
    ends = np.cumsum(sizes)[:-1]
    return {name: part.reshape(own) for (name, own), part in zip(expected.items(), np.split(values, ends), strict=True)}


def as_float32(tree: Tree) -> tuple[EncodedTensor, ...]:
    """A tree without loss: how a head travels when no coded difference is known."""
    return tuple(
        EncodedTensor(name, tuple(tree[name].shape), Float32(np.ascontiguousarray(tree[name], "<f4").tobytes()))
        for name in sorted(tree)
    )
