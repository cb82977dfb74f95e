"""Codecs: how a device turns a change of the head into tensors.

What a codec is, and what its state is for: :mod:`protos.update.contract`. This room is the table of those that a plan
can name. Decoding needs no codec: see :mod:`protos.update.tensors`.

Randomness comes from the generator that the caller seeds with (run seed, round, device, purpose).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from protos.catalog import hint
from protos.errors import PlanError
from protos.plugins import Plugin, Table
from protos.ranges import Range
from protos.update.contract import Codec, CodecEntry, Parameter, each, stateless
from protos.update.entropy.codec import entropy_coded, entropy_coded_mmse
from protos.update.packing import pack
from protos.update.quantised.baselines import affine8_weights, bucket_quantile, bucket_uniform, plain_sign, qsgd
from protos.update.quantised.eden import eden
from protos.update.quantised.rotated import MAX_CHUNK, MIN_CHUNK
from protos.update.tensors import Float16, UniformGrid, Values, as_float32
from protos.update.trees import FloatArray
from protos.update.wrappers import error_feedback, keep_largest


def _float32(parameters: Mapping[str, float]) -> Codec:
    return Codec("float32", stateless, lambda tree, state, generator: (as_float32(tree), state))


def _float16(parameters: Mapping[str, float]) -> Codec:
    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        limit = float(np.finfo(np.float16).max)
        return Float16(np.clip(values, -limit, limit).astype("<f2").tobytes())

    return Codec("float16", stateless, each(encode_one))


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

    return Codec("uniform_stochastic", stateless, each(encode_one))


def _sign(parameters: Mapping[str, float]) -> Codec:
    return error_feedback(plain_sign(parameters))


def _keep_largest(parameters: Mapping[str, float]) -> Codec:
    """Values to nearest on an even grid, so that all of it is a contraction, as error feedback needs."""
    inner = bucket_uniform({"bits": parameters["bits"], "bucket": 1 << 20, "stochastic": 0.0})
    inner = Codec("keep_largest", inner.init, inner.encode)
    return error_feedback(keep_largest(inner, parameters["share"]))


_RATE = Parameter(2, 0.1, 8, whole=False)
_BITS = Parameter(8, 1, 8)
_BUCKET = Parameter(1024, 16, 1 << 20)

BUILT_IN: Mapping[str, CodecEntry] = {
    "float32": CodecEntry({}, _float32, "no loss, 32 bits a coordinate"),
    "float16": CodecEntry({}, _float16, "rounded to nearest, 16 bits a coordinate"),
    "uniform_stochastic": CodecEntry(
        {"bits": _BITS, "bucket": _BUCKET},
        _uniform_stochastic,
        "evenly spaced levels, unbiased rounding, 1 to 8 bits a coordinate",
    ),
    "entropy_coded": CodecEntry(
        {"bits": _RATE, "per_tensor": Parameter(0, 0, 1)},
        entropy_coded,
        "unbiased, one common step, entropy coder; any rate from 0.1 to 8 bits a coordinate",
    ),
    "entropy_coded_mmse": CodecEntry(
        {"bits": _RATE, "per_tensor": Parameter(0, 0, 1)},
        entropy_coded_mmse,
        "to nearest, inner product kept, entropy coder; least error at low rates, not unbiased",
    ),
    "eden": CodecEntry(
        {"bits": _RATE, "chunk": Parameter(4096, MIN_CHUNK, MAX_CHUNK)},
        eden,
        "rotated in chunks, best levels for a Gaussian, unbiased scale; 0.1 to 8 bits a coordinate",
    ),
    "bucket_uniform": CodecEntry(
        {"bits": _BITS, "bucket": _BUCKET, "stochastic": Parameter(0, 0, 1)},
        bucket_uniform,
        "QuantFL: even levels from least to greatest value of a bucket",
    ),
    "bucket_quantile": CodecEntry({"bits": _BITS}, bucket_quantile, "QuantFL: levels for equal numbers of values"),
    "affine8_weights": CodecEntry({}, affine8_weights, "FL-PQSU: scale and zero point for a tensor, 8 bits"),
    "qsgd": CodecEntry(
        {"bits": Parameter(8, 2, 8), "bucket": Parameter(512, 16, 1 << 20)},
        qsgd,
        "QSGD: levels up to the norm of a bucket, unbiased rounding",
    ),
    "sign": CodecEntry({}, _sign, "scaled signs with error feedback, 1 bit a coordinate"),
    "keep_largest": CodecEntry(
        {"share": Parameter(0.01, 1e-5, 1, whole=False), "bits": _BITS},
        _keep_largest,
        "the largest coordinates of each tensor with error feedback",
    ),
}
DEFAULT_CODEC = "uniform_stochastic"


def _adopt(plugin: Plugin, offered: object) -> CodecEntry:
    # Only when there is one: a device that uses ours does not need the room.
    from protos.update.plugged_codec import adopt

    return adopt(plugin, offered)


CODECS: Table[CodecEntry] = Table("codecs", BUILT_IN, _adopt)
"""Ours, and behind them those of installed packages."""


def resolve(name: str, given: Mapping[str, float], *, where: str) -> dict[str, float]:
    """Every parameter of codec ``name``: the given ones checked, the others at their defaults.

    Raises:
        PlanError: no such codec or parameter, or a value out of range.
        PluginError: the codec is an installed package's, and cannot be used.
    """
    if name not in CODECS:
        fix = f"{hint(name, CODECS)}; or install the package that has it on this machine"
        raise PlanError(f"no codec is called {name!r}", where=where, fix=fix)
    entry = CODECS[name]
    for key, value in given.items():
        if key not in entry.parameters:
            fix = hint(key, entry.parameters) if entry.parameters else "leave it out"
            raise PlanError(f"codec {name!r} takes no {key!r}", where=where, fix=fix)
        rule = entry.parameters[key]
        limits = Range(rule.minimum, rule.maximum, whole=rule.whole)
        if value not in limits:
            raise PlanError(f"{key} = {value:g} is not {limits}", where=where)
    return {key: float(given.get(key, rule.default)) for key, rule in entry.parameters.items()}


def build(name: str, parameters: Mapping[str, float], *, where: str = "codec") -> Codec:
    """The codec called ``name`` with these parameters.

    Raises:
        PlanError, PluginError: as :func:`resolve`.
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
