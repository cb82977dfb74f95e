"""A codec tried on a tree of random numbers: what it costs, and how wrong what is read from it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protos.update.contract import Codec
from protos.update.tensors import EncodedTensor, decode
from protos.update.trees import Shapes, Tree, coordinates, norm, shapes, subtract

__all__ = ["Trial", "tried"]

CODINGS = 8
MOST_COORDINATES = 1 << 16


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes:
        bits: a coordinate, of all that travels.
        error: mean of ``||read - x||^2 / ||x||^2``.
        error_of_mean: the same of the mean of all codings; about ``error / CODINGS`` for an unbiased codec, about
            ``error`` for one without randomness.
    """

    bits: float
    error: float
    error_of_mean: float


def tried(codec: Codec, expected: Shapes, size_bytes: Callable[[tuple[EncodedTensor, ...]], int]) -> Trial:
    """Code white Gaussian numbers, each time from the codec's first state.

    Args:
        codec: what to try.
        expected: shapes of the tree; tensors past :data:`MOST_COORDINATES` in all are left out.
        size_bytes: what encoded tensors weigh as they travel.
    """
    random = np.random.default_rng(0)
    tree: Tree = {}
    for name, shape in sorted(expected.items()):
        if not tree or coordinates(tree) + int(np.prod(shape)) <= MOST_COORDINATES:
            tree[name] = random.standard_normal(tuple(shape), np.float32)
    own = shapes(tree)
    whole = norm(tree) ** 2
    bits = error = 0.0
    mean = {name: np.zeros_like(value) for name, value in tree.items()}
    for _ in range(CODINGS):
        tensors, _ = codec.encode(tree, codec.init(own), random)
        read = decode(tensors, own)
        bits += 8 * size_bytes(tensors) / coordinates(tree) / CODINGS
        error += norm(subtract(read, tree)) ** 2 / whole / CODINGS
        mean = {name: value + read[name] / np.float32(CODINGS) for name, value in mean.items()}
    return Trial(bits, error, norm(subtract(mean, tree)) ** 2 / whole)
