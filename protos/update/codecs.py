"""Codecs: how a device turns a change of the head into tensors.

A codec is a pair of pure functions with explicit state, ``init(shapes) -> state`` and
``encode(tree, state, generator) -> (tensors, next_state)``. State is a tree of arrays (empty for the codecs here;
error feedback will keep its residual in it) so that it can be stored, and it is advanced by the caller only when the
report was accepted. Decoding needs no codec: see :mod:`protos.update.tensors`.

Randomness comes from the generator that the caller seeds with (run seed, round, device, purpose).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from protos.catalog import hint, pick
from protos.errors import PlanError
from protos.update.packing import pack
from protos.update.tensors import EncodedTensor, Float16, UniformGrid, Values, as_float32
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


def _stateless(shapes: Shapes) -> State:
    return {}


def _each(encode_one: Callable[[FloatArray, np.random.Generator], Values]) -> Encoder:
    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        tensors = tuple(
            EncodedTensor(name, tuple(tree[name].shape), encode_one(tree[name].ravel(), generator))
            for name in sorted(tree)
        )
        return tensors, state

    return encode


def _float32(parameters: Mapping[str, float]) -> Codec:
    return Codec("float32", _stateless, lambda tree, state, generator: (as_float32(tree), state))


def _float16(parameters: Mapping[str, float]) -> Codec:
    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        limit = float(np.finfo(np.float16).max)
        return Float16(np.clip(values, -limit, limit).astype("<f2").tobytes())

    return Codec("float16", _stateless, _each(encode_one))


def _uniform_stochastic(parameters: Mapping[str, float]) -> Codec:
    """Symmetric grid per bucket with stochastic rounding, so that E[decoded] = value up to the rounding of
    float32 (QSGD-like with L-infinity scaling; Alistarh et al., NeurIPS 2017, section 3.1). The outermost levels are
    +-max|x|, or beyond by less than float32 tells apart, so nothing clips; the error of a coordinate is at most one
    step, 2 max|x| / (2**bits - 1)."""
    bits, bucket = int(parameters["bits"]), int(parameters["bucket"])
    top = 2**bits - 1

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        count = values.size
        width = max(1, min(bucket, count))
        buckets = -(-count // width)
        rows = np.zeros((buckets, width), np.float32)
        rows.ravel()[:count] = values
        exact = 2 / top * np.abs(rows).max(axis=1, initial=0).astype(np.float64)
        step = exact.astype(np.float32)
        # Rounded up: with a step too small, by half when it is subnormal, the outermost values would clip.
        step = np.where(step < exact, np.nextafter(step, np.float32(np.inf)), step)
        position = rows / np.where(step > 0, step, 1)[:, None] + np.float32(top / 2)
        codes = np.floor(position + generator.random(position.shape, np.float32))
        packed = pack(np.clip(codes, 0, top).astype(np.uint8).ravel()[:count], bits)
        return UniformGrid(bits, width, step.astype("<f4").tobytes(), b"", packed)

    return Codec("uniform_stochastic", _stateless, _each(encode_one))


CODECS: Mapping[str, CodecEntry] = {
    "float32": CodecEntry({}, _float32, "no loss, 32 bits a coordinate"),
    "float16": CodecEntry({}, _float16, "rounded to nearest, 16 bits a coordinate"),
    "uniform_stochastic": CodecEntry(
        {"bits": Parameter(8, 1, 8), "bucket": Parameter(1024, 16, 1 << 20)},
        _uniform_stochastic,
        "evenly spaced levels, unbiased rounding, 1 to 8 bits a coordinate",
    ),
}
DEFAULT_CODEC = "uniform_stochastic"


def resolve(name: str, given: Mapping[str, float], *, where: str) -> dict[str, float]:
    """Every parameter of codec ``name``: the given ones checked, the others at their defaults.

    Raises:
        PlanError: no such codec or parameter, or a value out of range.
    """
    entry = pick(CODECS, name, what="codec", where=where, error=PlanError)
    for key, value in given.items():
        if key not in entry.parameters:
            fix = hint(key, entry.parameters) if entry.parameters else "leave it out"
            raise PlanError(f"codec {name!r} takes no {key!r}", where=where, fix=fix)
        rule = entry.parameters[key]
        if not rule.minimum <= value <= rule.maximum or (rule.whole and value != int(value)):
            kind = "a whole number" if rule.whole else "a number"
            raise PlanError(f"{key} = {value:g} is not {kind} from {rule.minimum:g} to {rule.maximum:g}", where=where)
    return {key: float(given.get(key, rule.default)) for key, rule in entry.parameters.items()}


def build(name: str, parameters: Mapping[str, float], *, where: str = "codec") -> Codec:
    """The codec called ``name`` with these parameters.

    Raises:
        PlanError: as :func:`resolve`.
    """
    resolved = resolve(name, parameters, where=where)
    return CODECS[name].build(resolved)


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Random numbers for one purpose: a function of the seed and the purpose alone, so nothing depends on order.

    >>> generator(1, "encode", 3).bytes(8) == generator(1, "encode", 3).bytes(8)
    True
    """
    words = [zlib.crc32(str(part).encode()) for part in purpose]
    return np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, *words]))
