"""TernGrad: each coordinate as -s, 0 or +s, unbiased (Wen et al., NeurIPS 2017, section 3)."""

from collections.abc import Mapping

import numpy as np

from protos.extending import Codebook, Codec, CodecEntry, FloatArray, Parameter, Values, each, pack, stateless


def build(parameters: Mapping[str, float]) -> Codec:
    """The codec that a plan asks for, its parameters checked and complete."""

    def encode_one(values: FloatArray, generator: np.random.Generator) -> Values:
        # s = the largest |x|, of those at most `clip` standard deviations from 0 (TernGrad's gradient clipping).
        limit = parameters["clip"] * float(values.std())
        clipped = np.clip(values, -limit, limit) if limit > 0 else values
        scale = float(np.abs(clipped).max(initial=0))
        # P(not 0) = |x| / s, so that the mean of what is read is x.
        kept = generator.random(values.shape) * scale < np.abs(clipped)
        codes = np.where(kept, np.where(clipped < 0, 0, 2), 1).astype(np.uint8)
        levels = np.array([-scale, 0, scale, 0], "<f4")
        return Codebook(2, levels.tobytes(), pack(codes, 2))

    return Codec("ternary", stateless, each(encode_one))


TERNARY = CodecEntry({"clip": Parameter(2.5, 0.5, 100, whole=False)}, build, "TernGrad: -s, 0 or +s, two bits")
