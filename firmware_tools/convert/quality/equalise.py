"""Cross-layer equalisation: two layers in a row share the ranges of their channels, so that none is lost in another.

One int8 scale serves all channels of an activation. Where one channel is a thousand times as wide as the others, these
are rounded to nothing. With f(x) = relu(x), or nothing, between two layers,

    W2 f(W1 x + b1) = (W2 S) f(S^-1 (W1 x + b1)),    s_c = sqrt(r1_c r2_c) / r2_c

where r1_c is the largest weight of channel c in the first layer, r2_c in the second: both have sqrt(r1_c r2_c) then,
and what the model computes stays the same. Source: Nagel et al., ICCV 2019, arXiv:1906.04721, equations 7 to 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from firmware_tools.convert.quality.graph import WEIGHTED, Graph

_HOMOGENEOUS = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
# Between two layers: each channel stays for itself, and twice the value gives twice the value.
_THROUGH = ("PAD", "RELU", "MAX_POOL_2D", "AVERAGE_POOL_2D")
_ROUNDS = 20
_SETTLED = 1.01
Pair = tuple[Any, Any]


def equalised(content: bytes, *, where: str) -> tuple[bytes, int]:
    """The same float32 .tflite with equalised weights, and how many pairs of layers there are."""
    graph = Graph(content, where=where)
    pairs = _pairs(graph)
    weights: dict[int, npt.NDArray[np.float64]] = {}
    for one in {id(layer): layer for pair in pairs for layer in pair}.values():
        for index in [int(index) for index in one.inputs[1:] if index >= 0]:
            values = graph.values(index)
            assert values is not None
            weights[index] = values.astype(np.float64)
    for _ in range(_ROUNDS):
        largest = max((_equalise(graph, weights, *pair) for pair in pairs), default=1.0)
        if largest < _SETTLED:
            break
    for index, changed in weights.items():
        graph.hold(index, changed.astype(np.float32))
    return (graph.content() if pairs else content), len(pairs)


def _pairs(graph: Graph) -> list[Pair]:
    found = []
    for first in graph.graph.operators:
        if not _usable(graph, first) or not _is_homogeneous(first):
            continue
        output = int(first.outputs[0])
        second = graph.only_reader(output)
        while second is not None and graph.operator(second) in _THROUGH and _is_homogeneous(second):
            output = int(second.outputs[0])
            second = graph.only_reader(output)
        if second is None or int(second.inputs[0]) != output or not _usable(graph, second):
            continue
        if _channels_out(graph, first) == _channels_in(graph, second):
            found.append((first, second))
    return found


def _usable(graph: Graph, one: Any) -> bool:
    """Whether a layer's constants are its own real numbers."""
    if graph.operator(one) not in WEIGHTED:
        return False
    constants = [int(index) for index in one.inputs[1:] if index >= 0]
    kinds = [graph.values(index) for index in constants]
    return all(kind is not None and kind.dtype.kind == "f" for kind in kinds) and all(
        graph.readers[index] == 1 for index in constants
    )


def _is_homogeneous(one: Any) -> bool:
    options = one.builtinOptions
    return getattr(options, "fusedActivationFunction", _HOMOGENEOUS[0]) in _HOMOGENEOUS


def _channels_out(graph: Graph, one: Any) -> int:
    shape = graph.tensor(int(one.inputs[1])).shape
    return int(shape[-1] if graph.operator(one) == "DEPTHWISE_CONV_2D" else shape[0])


def _channels_in(graph: Graph, one: Any) -> int:
    shape = graph.tensor(int(one.inputs[1])).shape
    if graph.operator(one) == "DEPTHWISE_CONV_2D" and one.builtinOptions.depthMultiplier != 1:
        return -1
    return int(shape[-1])


def _equalise(graph: Graph, weights: dict[int, npt.NDArray[np.float64]], first: Any, second: Any) -> float:
    """Share the ranges of one pair; gives the largest factor by which a channel was changed."""
    kernel, after = int(first.inputs[1]), int(second.inputs[1])
    # Channels out of a convolution or dense layer stand first, those of a depthwise one, and all channels in, last.
    out_axis = weights[kernel].ndim - 1 if graph.operator(first) == "DEPTHWISE_CONV_2D" else 0
    one = _largest(weights[kernel], out_axis)
    other = _largest(weights[after], weights[after].ndim - 1)
    alive = (one > 0) & (other > 0)
    scale = np.where(alive, np.sqrt(np.where(alive, one / np.where(alive, other, 1.0), 1.0)), 1.0)
    weights[kernel] = weights[kernel] / _along(scale, weights[kernel].ndim, out_axis)
    if len(first.inputs) > 2 and int(first.inputs[2]) >= 0:
        weights[int(first.inputs[2])] = weights[int(first.inputs[2])] / scale
    weights[after] = weights[after] * scale
    return float(np.maximum(scale, 1.0 / scale).max())


def _largest(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    largest: npt.NDArray[np.float64] = np.abs(values).max(
        axis=tuple(number for number in range(values.ndim) if number != axis)
    )
    return largest


def _along(scale: npt.NDArray[np.float64], dimensions: int, axis: int) -> npt.NDArray[np.float64]:
    return scale.reshape([-1 if number == axis else 1 for number in range(dimensions)])
