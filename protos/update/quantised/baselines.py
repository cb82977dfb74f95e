"""Codecs of the literature, as they were described, to be measured against. Flat tensors in, kinds of values out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protos.update.contract import Codec, each, stateless
from protos.update.packing import pack
from protos.update.quantised.grid import UniformGrid
from protos.update.quantised.levels import Codebook
from protos.update.tensors import Values
from protos.update.trees import FloatArray


def rows_of(values: FloatArray, bucket: int) -> npt.NDArray[np.float64]:
    """float64 [buckets, width]; the last bucket is filled up with its last value, which changes no minimum."""
    width = max(1, min(bucket, values.size))
    buckets = -(-values.size // width)
    rows = np.empty(buckets * width)
    rows[: values.size] = values
    rows[values.size :] = values[-1] if values.size else 0.0
    return rows.reshape(buckets, width)


def _codes(rows: npt.NDArray[np.float64], top: int, bits: int, count: int) -> bytes:
    return pack(np.clip(rows, 0, top).astype(np.uint8).ravel()[:count], bits)


def bucket_uniform(parameters: Mapping[str, float]) -> Codec:
    """Evenly spaced levels from the least to the greatest value of a bucket, to nearest (QuantFL, arXiv:2603.17507);
    ``stochastic`` 1 rounds at random instead, which is unbiased. 64 bits a bucket beside the codes."""
    bits, bucket, stochastic = int(parameters["bits"]), int(parameters["bucket"]), bool(parameters["stochastic"])
    top = 2**bits - 1

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        rows = rows_of(values, bucket)
        low, high = rows.min(axis=1, initial=np.inf), rows.max(axis=1, initial=-np.inf)
        step = ((high - low) / top).astype("<f4")
        offset = ((high + low) / 2).astype("<f4")
        place = (rows - low[:, None]) / np.where(step > 0, step, 1)[:, None].astype(np.float64)
        codes = np.floor(place + (generator.random(place.shape) if stochastic else 0.5))
        return UniformGrid(bits, rows.shape[1], step.tobytes(), offset.tobytes(), _codes(codes, top, bits, values.size))

    return Codec("bucket_uniform", stateless, each(encode_one))


def bucket_quantile(parameters: Mapping[str, float]) -> Codec:
    """Buckets of equal numbers of values, each read as the mean of its bucket (the companion of ``bucket_uniform`` in
    QuantFL). One codebook a tensor. Biased."""
    bits = int(parameters["bits"])
    count = 2**bits

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        wide = values.astype(np.float64)
        if not wide.size:
            return Codebook(bits, bytes(4 * count), b"")
        edges = np.quantile(wide, np.arange(1, count) / count)
        codes = np.searchsorted(edges, wide, side="right")
        filled = np.bincount(codes, minlength=count)
        means = np.bincount(codes, wide, minlength=count) / np.maximum(filled, 1)
        return Codebook(bits, means.astype("<f4").tobytes(), pack(codes.astype(np.uint8), bits))

    return Codec("bucket_quantile", stateless, each(encode_one))


def affine8_weights(parameters: Mapping[str, float]) -> Codec:
    """Eight bits and a zero point for a whole tensor (FL-PQSU: Xu et al., IEEE Access 9, 2021): scale = (max - min) /
    255, zero point = int(-min / scale) cut to 0..255, code = round(zero point + x / scale) cut to 0..255.

    Published for weights after training, not for changes of them: give it a tree of weights for that. Its error is
    then relative to the weights, which are many times larger than a change of them.
    """

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
        if not values.size or high == low:
            # The published scale of a constant would be 0 and the code undefined: the value travels as an offset.
            buckets = 1 if values.size else 0
            offset = np.full(buckets, low if values.size else 0.0, "<f4").tobytes()
            return UniformGrid(8, max(1, values.size), np.zeros(buckets, "<f4").tobytes(), offset, bytes(values.size))
        scale = max((high - low) / 255, 2.0**-149)
        zero = min(255, max(0, int(-low / scale)))
        codes = np.rint(np.clip(zero + values.astype(np.float64) / scale, 0, 255)).astype(np.uint8)
        offset = np.array([scale * (127.5 - zero)], "<f4").tobytes()
        return UniformGrid(8, values.size, np.array([scale], "<f4").tobytes(), offset, codes.tobytes())

    return Codec("affine8_weights", stateless, each(encode_one))


def qsgd(parameters: Mapping[str, float]) -> Codec:
    """Sign and s = 2**(bits - 1) - 1 levels up to the Euclidean norm of a bucket, rounded at random (Alistarh et al.,
    NeurIPS 2017, section 3.1), with fixed-length codes in place of Elias'. Unbiased."""
    bits, bucket = int(parameters["bits"]), int(parameters["bucket"])
    top = 2 ** (bits - 1) - 1

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        rows = rows_of(values, bucket)
        if values.size:
            rows.ravel()[values.size :] = 0.0
        exact = np.sqrt(np.sum(np.square(rows), axis=1)) / top
        step = exact.astype("<f4")
        place = rows / np.where(step > 0, step, 1)[:, None].astype(np.float64)
        codes = np.floor(place + generator.random(place.shape)) + top
        packed = _codes(codes, 2 * top, bits, values.size)
        return UniformGrid(bits, rows.shape[1], step.tobytes(), b"", packed, centred=True)

    return Codec("qsgd", stateless, each(encode_one))


def plain_sign(parameters: Mapping[str, float]) -> Codec:
    """Sign times the mean absolute value of the tensor (scaled sign: Karimireddy et al., ICML 2019). A contraction, and
    biased: made for error feedback."""

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        count = values.size
        mean = np.abs(values).mean(dtype=np.float64) if count else 0.0
        step = np.full(1 if count else 0, 2 * mean, "<f4").tobytes()
        return UniformGrid(1, max(1, count), step, b"", pack((values >= 0).astype(np.uint8), 1))

    return Codec("sign", stateless, each(encode_one))
