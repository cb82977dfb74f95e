"""Codecs around a codec. Each keeps its own arrays in the state, beside those of the inner one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from protos.update.contract import Codec, State
from protos.update.quantised.sparse import Sparse, places_to
from protos.update.tensors import DecodedAhead, EncodedTensor, decode
from protos.update.trees import Shapes, Tree, add_scaled, shapes, subtract

RESIDUAL, HELD = "residual/", "held/"


def _zeros(expected: Shapes, prefix: str) -> State:
    return {prefix + name: np.zeros(tuple(shape), np.float32) for name, shape in expected.items()}


def _own(state: State, prefix: str) -> tuple[Tree, State]:
    """Arrays of one wrapper under their plain names, and the state of what is inside."""
    own = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
    return own, {name: array for name, array in state.items() if not name.startswith(prefix)}


def _prefixed(tree: Tree, prefix: str) -> State:
    return {prefix + name: array for name, array in tree.items()}


def error_feedback(inner: Codec) -> Codec:
    """What one coding lost is added to the next: e' = (x + e) - C(x + e) (Seide et al. 2014; Karimireddy et al., ICML
    2019). For codecs that shrink the error (sign, largest, to nearest); with an unbiased codec of error above 1 the
    residual would grow without bound."""

    def init(expected: Shapes) -> State:
        return {**_zeros(expected, RESIDUAL), **inner.init(expected)}

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        residual, within = _own(state, RESIDUAL)
        wanted = add_scaled(tree, residual, 1.0)
        tensors, within = inner.encode(wanted, within, generator)
        left = subtract(wanted, decode(tensors, shapes(wanted)))
        return tensors, {**_prefixed(left, RESIDUAL), **within}

    return Codec(inner.name, init, encode)


def against_reference(inner: Codec) -> Codec:
    """Codes the difference from what the other end already holds: h' = h + C(x - h) (Richtárik et al., EF21, NeurIPS
    2021; with an unbiased C: DIANA). What is decoded is that difference; the reader adds it to its own h with
    :func:`apply_difference`, and both ends then hold the same numbers. Set ``state["held/NAME"]`` to start from
    something better than zeros."""

    def init(expected: Shapes) -> State:
        return {**_zeros(expected, HELD), **inner.init(expected)}

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        held, within = _own(state, HELD)
        tensors, within = inner.encode(subtract(tree, held), within, generator)
        after = apply_difference(held, decode(tensors, shapes(tree)))
        return tensors, {**_prefixed(after, HELD), **within}

    return Codec(inner.name, init, encode)


def apply_difference(held: Tree, decoded: Tree) -> Tree:
    """What a reader of :func:`against_reference` holds afterwards: the same float32 as the writer, to the bit."""
    return {name: held[name] + decoded[name] for name in sorted(held)}


def keep_largest(inner: Codec, share: float) -> Codec:
    """Only the ``share`` of each tensor's coordinates with the largest absolute values travels, coded by ``inner``
    (top-k: Stich et al., NeurIPS 2018); one at least, where one is not 0. Biased: made for error feedback."""

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        places, chosen = {}, {}
        for name in sorted(tree):
            flat = tree[name].ravel()
            size = np.abs(flat)
            number = min(math.ceil(share * flat.size), int(np.count_nonzero(size)))
            # A stable order, so that equal sizes are chosen alike on every machine.
            largest = np.sort(np.argsort(-size, kind="stable")[:number])
            places[name], chosen[name] = largest, flat[largest]
        tensors, state = inner.encode(chosen, state, generator)
        sparse = []
        for tensor in tensors:
            assert not isinstance(tensor.values, Sparse | DecodedAhead)
            low, high = places_to(places[tensor.name], tree[tensor.name].size)
            values = Sparse(places[tensor.name].size, low, high, tensor.values)
            sparse.append(replace(tensor, shape=tuple(tree[tensor.name].shape), values=values))
        return tuple(sparse), state

    return Codec(inner.name, lambda expected: inner.init(dict.fromkeys(expected, (0,))), encode)
