"""What a codec is: a pair of pure functions with explicit state.

``init(shapes) -> state`` and ``encode(tree, state, generator) -> (tensors, next_state)``. State is a tree of arrays
(empty for most codecs; error feedback keeps its residual in it) so that it can be stored, and it is advanced by the
caller only when the report was accepted. Decoding needs no codec: see :mod:`protos.update.tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from protos.update.tensors import EncodedTensor, Values
from protos.update.trees import FloatArray, Shapes, Tree

State: TypeAlias = Tree
Encoder = Callable[[Tree, State, np.random.Generator], tuple[tuple[EncodedTensor, ...], State]]


@dataclass(frozen=True)
class Codec:
    """``init`` makes the first state, ``encode`` codes one update, whose coordinates are finite."""

    name: str
    init: Callable[[Shapes], State]
    encode: Encoder


@dataclass(frozen=True)
class Parameter:
    """A number that a plan may set for a codec."""

    default: float
    minimum: float
    maximum: float
    whole: bool = True


@dataclass(frozen=True)
class CodecEntry:
    """A row of the table: what may be set, and how to build the codec from it."""

    parameters: Mapping[str, Parameter]
    build: Callable[[Mapping[str, float]], Codec]
    meaning: str


def stateless(shapes: Shapes) -> State:
    """The state of a codec that keeps none."""
    return {}


def each(encode_one: Callable[[FloatArray, np.random.Generator], Values]) -> Encoder:
    """An encoder that takes the tensors one by one, flat and in the order of their names."""

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        tensors = tuple(
            EncodedTensor(name, tuple(tree[name].shape), encode_one(tree[name].ravel(), generator))
            for name in sorted(tree)
        )
        return tensors, state

    return encode
