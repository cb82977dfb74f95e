"""The arithmetic of integer dense layers: scales, zero points, weights and biases. numpy only.

A layer computes ``z = relu?(x @ K + b)``. With ``x = (q_x - z_x) s_x`` and ``K = q_K s_K`` the kernel of the
runtime accumulates ``sum((q_x - z_x) q_K) + q_b`` in 32 bits, where ``q_b`` has the scale ``s_x s_K``, and writes
``q_z = round(acc * s_x s_K / s_z) + z_z``, clipped to the 8-bit range (Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 2).

Two choices are made on calibration embeddings:

- The weight scale is not simply the largest magnitude: a smaller scale clips a few weights and makes the steps of
  all others finer. The one with the least squared error of the layer's output wins.
- The mean error that rounding the weights makes is known, ``E[x] @ (K - q_K s_K)``, and goes into the bias (Nagel
  et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import NonFiniteError, ShapeError

# Scales tried for the weights, as a share of the one at which nothing is clipped.
_SHRINK = np.linspace(1.0, 0.5, 11)
# Room above and below the calibrated range of a layer's output: other examples go a little further.
_HEADROOM = 0.1
_MAX_BIAS = 2**30


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """One float layer of a head.

    Attributes:
        kernel: float [in, out].
        bias: float [out].
        relu: whether negative outputs become zero.
    """

    kernel: NDArray[np.floating[Any]]
    bias: NDArray[np.floating[Any]]
    relu: bool = False


@dataclass(frozen=True)
class Affine:
    """How 8-bit integers stand for real numbers: ``real = (q - zero_point) * scale``."""

    dtype: str
    scale: float
    zero_point: int

    def real(self, q: NDArray[Any]) -> NDArray[np.float64]:
        """The real numbers that integers stand for."""
        return (q.astype(np.float64) - self.zero_point) * self.scale

    def integers(self, real: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """The nearest integers, clipped to the range of the dtype."""
        limits = np.iinfo(self.dtype)
        q: NDArray[Any] = np.clip(np.rint(real / self.scale) + self.zero_point, limits.min, limits.max)
        return q.astype(self.dtype)


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer in integers.

    Attributes:
        weights: int8 [out, in] in -127..127.
        weight_scale: float32 value.
        bias: int32 [out], of scale `source.scale * weight_scale`.
        relu: as in DenseLayer.
        source, target: quantisation of input and output.
    """

    weights: NDArray[np.int8]
    weight_scale: float
    bias: NDArray[np.int32]
    relu: bool
    source: Affine
    target: Affine

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """The layer on integers, rounded as real arithmetic rounds; runtimes may differ by one step.

        Args:
            q: [N, in] of the source's dtype.

        Returns:
            [N, out] of the target's dtype.
        """
        acc = (q.astype(np.int64) - self.source.zero_point) @ self.weights.T.astype(np.int64) + self.bias
        real = acc * (self.source.scale * self.weight_scale)
        return self.target.integers(np.maximum(real, 0) if self.relu else real)


def range_of(values: NDArray[np.floating[Any]], dtype: str, *, relu: bool) -> Affine:
    """The quantisation whose range holds these values and zero, with a little room.

    Zero is represented exactly; a layer with ReLU spends no integer on negative numbers.
    """
    low = 0.0 if relu else min(0.0, float(values.min(initial=0.0)))
    high = max(0.0, float(values.max(initial=0.0)))
    spread = (high - low) * _HEADROOM
    low, high = (low if low == 0.0 else low - spread), (high if high == 0.0 else high + spread)
    limits = np.iinfo(dtype)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Affine(dtype, scale, int(np.clip(round(limits.min - low / scale), limits.min, limits.max)))


def quantise_layer(layer: DenseLayer, q: NDArray[Any], source: Affine) -> IntegerLayer:
    """Integers for one layer, chosen on calibration inputs.

    Args:
        layer: kernel [in, out].
        q: [N, in] calibration inputs as the layer before gives them, N >= 1.
        source: what `q` stands for.

    Raises:
        ShapeError: kernel, bias and inputs do not fit together.
        NonFiniteError: NaN or infinity in kernel or bias.
    """
    kernel, bias = np.asarray(layer.kernel, np.float64), np.asarray(layer.bias, np.float64)
    if q.ndim != 2 or kernel.ndim != 2 or not len(q) or q.shape[1] != len(kernel) or bias.shape != kernel.shape[1:]:
        raise ShapeError(
            f"inputs {list(q.shape)}, kernel {list(kernel.shape)} and bias {list(bias.shape)} do not fit together",
            where="head",
            fix="give the head of this backbone, and at least one calibration example",
        )
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise NonFiniteError("a weight is NaN or infinite", where="head", fix="export an earlier head version")
    x = source.real(q)
    wanted = x @ kernel + bias
    if layer.relu:
        wanted = np.maximum(wanted, 0)
    target = range_of(wanted, source.dtype, relu=layer.relu)
    largest = float(np.abs(kernel).max(initial=0.0)) / 127
    # The bias must fit into 32 bits; an all-zero kernel leaves the scale to the bias alone.
    smallest = float(np.abs(bias).max(initial=0.0)) / (_MAX_BIAS * source.scale)
    best: tuple[float, IntegerLayer] | None = None
    for share in _SHRINK if largest else (1.0,):
        weight_scale = float(np.float32(max(largest * share, smallest))) or 1.0
        weights = np.clip(np.rint(kernel / weight_scale), -127, 127)
        error = x.mean(axis=0) @ (kernel - weights * weight_scale)
        steps = np.rint((bias + error) / (source.scale * weight_scale))
        limit = np.iinfo(np.int32)
        integer = IntegerLayer(
            np.ascontiguousarray(weights.T).astype(np.int8),
            weight_scale,
            np.clip(steps, limit.min, limit.max).astype(np.int32),
            layer.relu,
            source,
            target,
        )
        loss = float(np.square(_before_rounding(integer, x) - wanted).mean())
        if best is None or loss < best[0]:
            best = loss, integer
    assert best is not None
    return best[1]


def _before_rounding(layer: IntegerLayer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Output with integer weights and bias, the output itself not yet rounded: what tells scales apart."""
    real: NDArray[np.float64] = x @ (layer.weights.T * layer.weight_scale)
    real += layer.bias * (layer.source.scale * layer.weight_scale)
    return np.maximum(real, 0) if layer.relu else real
