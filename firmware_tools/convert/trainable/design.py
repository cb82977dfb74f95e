"""What of a tail trains, under which names it travels, and in which units.

What travels is the change of a bias or of a kernel, 0 before any training, so that a penalty on its size pulls towards
the pre-trained network (Li, Grandvalet, Davoine 2018, arXiv:1802.01483). It travels in units of the layer: a tensor t
adds ``gain t`` to what the network had, with

    gain of a bias    BIAS_GAIN * s        s: root mean square over channels of the deviation of the layer's output
    gain of a kernel  KERNEL_GAIN * s / q  q: root of the mean squared length of what one output value is made of

So one learning rate serves layers of every size, and the head behind them, as standardised features do (decision 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from firmware_tools.convert.trainable.graph import DENSE, DEPTHWISE, Layer, Tail
from protos.model.manifest import TailSpec, TailTensor

# Chosen of 0.3, 1.2 and 4.8 by the validation part of a seed that judges nothing (benchmarks/beyond_head.py): with 4.8
# rates three times smaller diverge already.
BIAS_GAIN = 1.2
KERNEL_GAIN = 1.2
# A layer that gives hardly anything on the calibration examples keeps a unit that is no zero.
_LEAST = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TailDesign:
    """A tail that trains.

    Attributes:
        tail: its layers.
        trained: what travels of it: `TailTensor.layer` is the number of the layer.
        dtype, scale, zero_point: of the integers that the trunk gives.
        blocks: in how many parts, one after the other, a step goes over its batch; divides it.
    """

    tail: Tail
    trained: tuple[TailTensor, ...]
    dtype: str
    scale: float
    zero_point: int
    blocks: int = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what travels."""
        return {tensor.name: tensor.shape for tensor in self.trained}

    def spec(self, file: str) -> TailSpec:
        """For the manifest."""
        return TailSpec(file=file, features=self.tail.width, shape=self.tail.shape, trained=self.trained)


def trained_of(
    tail: Tail, kernels: tuple[Layer, ...], scales: Mapping[int, tuple[float, float]]
) -> tuple[TailTensor, ...]:
    """All biases of a tail and the kernels of these layers, as they travel.

    Args:
        scales: by the layer's number, s and q.
    """
    found = []
    for place, layer in enumerate(tail.layers):
        spread, length = (max(_LEAST, value) for value in scales.get(layer.output, (1.0, 1.0)))
        if layer.bias is not None:
            found.append(TailTensor(f"tail{place:02d}_bias", layer.bias.shape, layer.output, BIAS_GAIN * spread))
        if any(layer is kernel for kernel in kernels):
            assert layer.kernel is not None
            found.append(
                TailTensor(f"tail{place:02d}_kernel", layer.kernel.shape, layer.output, KERNEL_GAIN * spread / length)
            )
    return tuple(found)


def scales_of(tail: Tail, x: Any) -> dict[int, tuple[float, float]]:
    """s and q of each layer with weights, from float activations at the cut, [N, *tail.shape]. Runs TensorFlow."""
    import tensorflow as tf

    from firmware_tools.convert.trainable.layers import one_layer

    known = {tail.source: tf.constant(np.asarray(x, np.float32))}
    found: dict[int, tuple[float, float]] = {}
    for layer in tail.layers:
        inputs = [known[index] for index in layer.inputs]
        known[layer.output] = value = one_layer(layer, inputs)
        if layer.kernel is None:
            continue
        numbers = np.asarray(value, np.float64).reshape(-1, layer.shape[-1])
        given = np.asarray(inputs[0], np.float64)
        places = 1 if layer.kind == DENSE else int(np.prod(layer.kernel.shape[:2]))
        channels = 1 if layer.kind == DEPTHWISE else layer.kernel.shape[-2]
        length = float(np.sqrt(np.mean(given**2) * places * channels))
        found[layer.output] = float(np.sqrt(np.mean(numbers.var(axis=0)))), length
    return found
