"""`eden`: rotation, the best levels for a Gaussian, and the scale that makes the estimate unbiased.

Vargaftik et al., "EDEN: Communication-efficient and robust distributed mean estimation for federated learning",
ICML 2022. Scale = ||x||^2 / <q, y> keeps the inner product with x; with a uniform random rotation the estimate is
unbiased (theorem 2.1), with signs and Hadamard matrices nearly so. Unlike the published code it rotates in chunks, so
a tensor is not filled up to a power of two, and mixes bits by place in the rotated chunk, where all places are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protos.update.contract import Codec, each, stateless
from protos.update.packing import pack
from protos.update.quantised import dither
from protos.update.quantised.levels import lloyd_max, nearest
from protos.update.quantised.rotated import Rotated, Rotation, chunks, richer
from protos.update.reading import ABSURD
from protos.update.tensors import Values
from protos.update.trees import FloatArray

_TINY = 1e-30  # chunks of a smaller norm are zeros


def coded(flat: FloatArray, bits: float, chunk: int, seed: int) -> Rotated:
    """``flat`` float32 [n] at ``bits`` per coordinate, 0.1 to 8, scales not counted."""
    whole = min(8, math.floor(bits))
    mixed = min(dither.WHOLE - 1, round((bits - whole) * dither.WHOLE))
    pieces = chunks(flat.size, chunk)
    rotation = Rotation(pieces, seed)
    padded = np.zeros(rotation.padded, np.float32)
    padded[: flat.size] = flat
    scales: list[npt.NDArray[np.float32]] = []
    rich: list[npt.NDArray[np.uint8]] = []
    poor: list[npt.NDArray[np.uint8]] = []
    for begin, number, size in pieces:
        rows = padded[begin : begin + number * size].reshape(number, size)
        norm = np.sqrt(np.sum(np.square(rows, dtype=np.float64), axis=1))
        unit = np.where(norm > _TINY, math.sqrt(size) / np.maximum(norm, _TINY), 0.0)
        turned = rotation.there(rows * unit[:, None].astype(np.float32), begin)
        more = richer(size, mixed)
        inner = np.zeros(number)
        for part, width, kept in ((turned[:, :more], whole + 1, rich), (turned[:, more:], whole, poor)):
            if width and part.size:
                codes = nearest(np.ascontiguousarray(part), width)
                kept.append(codes.ravel())
                inner += np.einsum("ij,ij->i", part, lloyd_max(width)[codes], dtype=np.float64)
        # ||x||^2 / <q, y> for y of norm sqrt(size); no code at all in a tiny chunk would divide by nothing.
        scale = np.where(inner > 0, norm * math.sqrt(size) / np.maximum(inner, 1e-12), 0.0)
        scales.append(np.minimum(scale, ABSURD).astype("<f4"))
    packed = b"".join(
        pack(np.concatenate(kept), width) if kept else b"" for kept, width in ((rich, whole + 1), (poor, whole))
    )
    scale_bytes = np.concatenate(scales).tobytes() if scales else b""
    return Rotated(chunk, seed, whole, mixed, scale_bytes, packed)


def eden(parameters: Mapping[str, float]) -> Codec:
    """``bits`` per coordinate; ``chunk`` coordinates are rotated together."""
    bits, chunk = parameters["bits"], 1 << round(math.log2(parameters["chunk"]))

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        return coded(np.ascontiguousarray(values, np.float32), bits, chunk, int(generator.integers(1 << 32)))

    return Codec("eden", stateless, each(encode_one))
