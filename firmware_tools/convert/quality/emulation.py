"""An integer .tflite computed in real numbers that TensorFlow can differentiate: each tensor rounded as the file says.

The scale s and zero point z of every activation are those of the file, so what is trained here is what it will compute:

    q(x) = s (round(clip(x / s, low - z, high - z))),    dq/dx = 1 inside the range, 0 outside

(the straight-through estimator: Bengio et al. 2013, arXiv:1308.3432; in this form Jacob et al., CVPR 2018, section 3).
Weights are symmetric codes of 8 bits, one scale a channel (or one a tensor, where the file has one), taken anew from
the largest weight at every step: s_c = max|w_c| / 127. A bias is a multiple of s_in s_c.

What is trained are weights and biases in units of their range, so that one learning rate fits all layers: a weight as
w / max|w_c| at the start, a bias as b / (128 s_out).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from firmware_tools.convert.quality.graph import WEIGHTED, Graph
from protos.errors import ModelError

_BIAS_LIMIT = 2.0**30
_TINY = 1e-12
_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE: None,
    schema.ActivationFunctionType.RELU: tf.nn.relu,
    schema.ActivationFunctionType.RELU6: tf.nn.relu6,
    schema.ActivationFunctionType.RELU_N1_TO_1: lambda x: tf.clip_by_value(x, -1.0, 1.0),
    schema.ActivationFunctionType.TANH: tf.tanh,
}
_PADDING = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}
_SHAPED = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_RANGES = {"int8": (-128, 127), "int16": (-32768, 32767)}


class Emulation:
    """The file as a function of real numbers with variables.

    Args:
        integer: int8 .tflite of one input and one output, for a batch of 1.
        real: the float32 .tflite that it was made of: where its operators have the same names, training starts at
            their weights, else at the codes of the integer file.

    Raises:
        ModelError: an operator that is not known here, or that mixes the examples of a batch.
    """

    def __init__(self, integer: bytes, real: bytes, *, where: str) -> None:
        self.graph, self._where, self._content = Graph(integer, where=where), where, integer
        self._constants: dict[int, Any] = {}
        self._layers: list[_Layer] = []
        floats = Graph(real, where=where)
        named = {floats.name(int(operator.outputs[0])): operator for operator in floats.graph.operators}
        # What is no number of the model, such as a shape that a RESHAPE is told, is in the shapes of the file already.
        alive = [
            operator
            for operator in self.graph.graph.operators
            if self.graph.type_of(int(operator.outputs[0])) in _RANGES
        ]
        self._steps = [self._step(one, floats, named) for one in alive]
        self._source, self._target = int(self.graph.graph.inputs[0]), int(self.graph.graph.outputs[0])

    @property
    def variables(self) -> list[Any]:
        """What is trained."""
        return [variable for layer in self._layers for variable in layer.variables]

    def __call__(self, x: Any) -> Any:
        """Dequantised outputs, float32 [n, D], of what the file takes in real numbers, float32 [n, ...]."""
        values = {self._source: self._rounded(x, self._source)}
        for inputs, output, compute in self._steps:
            taken = [values[index] if index in values else self._constant(index) for index in inputs]
            values[output] = self._rounded(compute(*taken), output)
        return tf.reshape(values[self._target], [tf.shape(x)[0], -1])

    def written(self) -> bytes:
        """The integer file with the codes of the trained weights and biases; all else is as it was."""
        graph = Graph(self._content, where=self._where)
        for layer in self._layers:
            layer.write(graph)
        return graph.content()

    def _rounded(self, value: Any, tensor: int) -> Any:
        how, kind = self.graph.tensor(tensor).quantization, self.graph.type_of(tensor)
        if kind not in _RANGES:
            return value
        scale, zero = float(how.scale[0]), int(how.zeroPoint[0])
        low, high = _RANGES[kind]
        inside = tf.clip_by_value(value, (low - zero) * scale, (high - zero) * scale)
        return inside + tf.stop_gradient(tf.round(inside / scale) * scale - inside)

    def _constant(self, tensor: int) -> Any:
        """A constant in real numbers where it has a scale, else as it is."""
        if tensor not in self._constants:
            self._constants[tensor] = self.graph.reals(tensor)
        return self._constants[tensor]

    def _step(self, one: Any, floats: Graph, named: dict[str, Any]) -> tuple[list[int], int, Callable[..., Any]]:
        kind, output = self.graph.operator(one), int(one.outputs[0])
        inputs = [int(index) for index in one.inputs if index >= 0]
        inputs = inputs[:1] if kind in _SHAPED else inputs
        alive = [index for index in inputs if self.graph.values(index) is None]
        for index in (*alive, output):
            shape = self.graph.tensor(index).shape
            if shape is None or not len(shape) or int(shape[0]) != 1:
                raise self._unknown(f"{kind} ({self.graph.name(output)}) has a tensor of shape {_text(shape)}")
        if kind in WEIGHTED:
            if len(alive) != 1 or alive[0] != inputs[0]:
                raise self._unknown(f"the weights of {kind} ({self.graph.name(output)}) are no constants")
            layer = _Layer(self.graph, one, kind, floats, named.get(self.graph.name(output)))
            if (reason := layer.refused) is not None:
                raise self._unknown(f"{kind} ({self.graph.name(output)}) {reason}")
            self._layers.append(layer)
            return alive, output, layer
        made = _OPERATORS.get(kind)
        if made is None:
            raise self._unknown(f"{kind} ({self.graph.name(output)}) is not known to fine-tuning")
        compute = made(one.builtinOptions, [int(size) for size in self.graph.tensor(output).shape])
        return inputs, output, _then(compute, getattr(one.builtinOptions, "fusedActivationFunction", 0))

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"cannot be fine-tuned as integers: {what}", where=self._where,
            fix="leave --qat out, or --cut before it; --equalise and --bias-correction need no training",
        )  # fmt: skip


class _Layer:
    """A layer with weights: its two variables, and how it computes with their rounded values."""

    def __init__(self, graph: Graph, one: Any, kind: str, floats: Graph, twin: Any) -> None:
        self.kind, self.options = kind, one.builtinOptions
        self.weights, self.bias = int(one.inputs[1]), int(one.inputs[2]) if len(one.inputs) > 2 else -1
        self.output_shape = [int(size) for size in graph.tensor(int(one.outputs[0])).shape]
        self.refused: str | None = None
        weights, bias = graph.reals(self.weights), graph.reals(self.bias) if self.bias >= 0 else None
        how = graph.tensor(self.weights).quantization
        self.per_channel = how.scale is not None and len(how.scale) > 1
        self.axis = int(how.quantizedDimension) if self.per_channel else 0
        scale = float(graph.tensor(int(one.inputs[0])).quantization.scale[0])
        self.input_scale = scale
        if kind == "CONV_2D" and weights.shape[3] != int(graph.tensor(int(one.inputs[0])).shape[3]):
            self.refused = "works on groups of channels"
            return
        if kind == "DEPTHWISE_CONV_2D" and self.options.strideH != self.options.strideW:
            self.refused = "has strides that differ"
            return
        if twin is not None and floats.operator(twin) == kind:
            # Where the names fit, the float weights themselves, and not what is left of them as codes.
            found = floats.values(int(twin.inputs[1]))
            if found is not None and found.dtype.kind == "f" and found.shape == weights.shape:
                weights = found
            at = int(twin.inputs[2]) if len(twin.inputs) > 2 else -1
            found = floats.values(at) if at >= 0 else None
            if bias is not None and found is not None and found.dtype.kind == "f" and found.shape == bias.shape:
                bias = found
        self._shape = [-1 if self.per_channel and axis == self.axis else 1 for axis in range(weights.ndim)]
        others = tuple(axis for axis in range(weights.ndim) if not self.per_channel or axis != self.axis)
        self._others = others
        self.unit = np.maximum(np.abs(weights).max(axis=others, keepdims=True), _TINY).astype(np.float32)
        self.relative = tf.Variable((weights / self.unit).astype(np.float32))
        self.bias_unit = 128.0 * float(graph.tensor(int(one.outputs[0])).quantization.scale[0])
        self.relative_bias = None if bias is None else tf.Variable((bias / self.bias_unit).astype(np.float32))

    @property
    def variables(self) -> list[Any]:
        return [self.relative] if self.relative_bias is None else [self.relative, self.relative_bias]

    def __call__(self, x: Any) -> Any:
        weights = self.relative * self.unit
        scale = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(weights), self._others, keepdims=True), _TINY) / 127.0)
        weights += tf.stop_gradient(tf.round(weights / scale) * scale - weights)
        options = self.options
        if self.kind == "FULLY_CONNECTED":
            value = tf.matmul(tf.reshape(x, [-1, weights.shape[1]]), weights, transpose_b=True)
        else:
            strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
            padding = _PADDING[options.padding]
            if self.kind == "CONV_2D":
                kernel = tf.transpose(weights, [1, 2, 3, 0])
                value = tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)
            else:
                kernel = tf.reshape(weights, [*weights.shape[1:3], x.shape[3], -1])
                value = tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), padding, dilations=dilations)
        if self.relative_bias is not None:
            unit = tf.reshape(scale, [-1]) * self.input_scale
            bias = self.relative_bias * self.bias_unit
            value += bias + tf.stop_gradient(tf.round(bias / unit) * unit - bias)
        if self.kind == "FULLY_CONNECTED":
            value = tf.reshape(value, [-1, *self.output_shape[1:]])
        activation = _ACTIVATIONS[options.fusedActivationFunction]
        return value if activation is None else activation(value)

    def write(self, graph: Graph) -> None:
        """The codes of the weights and their scales, and those of the bias, into the file."""
        weights = (self.relative.numpy() * self.unit).astype(np.float32)
        scale = np.maximum(np.abs(weights).max(axis=self._others, keepdims=True), _TINY) / np.float32(127.0)
        graph.hold(self.weights, np.clip(np.rint(weights / scale), -127, 127).astype(np.int8))
        how = graph.tensor(self.weights).quantization
        how.scale = scale.reshape(-1).astype(np.float32)
        if self.relative_bias is None:
            return
        unit = np.float32(self.input_scale) * how.scale
        bias = self.relative_bias.numpy().astype(np.float64) * self.bias_unit / unit.astype(np.float64)
        graph.hold(self.bias, np.clip(np.rint(bias), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32))
        graph.tensor(self.bias).quantization.scale = unit if len(unit) == len(bias) else unit[:1]


def _then(compute: Callable[..., Any], fused: int) -> Callable[..., Any]:
    activation = _ACTIVATIONS.get(fused)
    return compute if activation is None else lambda *values: activation(compute(*values))


def _text(shape: Any) -> str:
    return "unknown" if shape is None else str([int(size) for size in shape])


def _reshaped(options: Any, shape: list[int]) -> Callable[..., Any]:
    return lambda x, *_: tf.reshape(x, [-1, *shape[1:]])


def _pool(kind: Callable[..., Any]) -> Callable[..., Any]:
    def made(options: Any, shape: list[int]) -> Callable[..., Any]:
        window, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
        return lambda x: kind(x, window, strides, _PADDING[options.padding])

    return made


def _reduced(kind: Callable[..., Any]) -> Callable[..., Any]:
    def made(options: Any, shape: list[int]) -> Callable[..., Any]:
        return lambda x, axes: kind(x, [int(axis) for axis in np.ravel(axes)], keepdims=options.keepDims)

    return made


def _plain(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda options, shape: kind


def _padded(options: Any, shape: list[int]) -> Callable[..., Any]:
    def compute(x: Any, amounts: npt.NDArray[Any], value: Any = 0.0) -> Any:
        return tf.pad(x, amounts.astype(np.int32), constant_values=float(np.ravel(value)[0]))

    return compute


_OPERATORS: dict[str, Callable[[Any, list[int]], Callable[..., Any]]] = {
    "ADD": _plain(tf.add),
    "SUB": _plain(tf.subtract),
    "MUL": _plain(tf.multiply),
    "MAXIMUM": _plain(tf.maximum),
    "MINIMUM": _plain(tf.minimum),
    "SQUARED_DIFFERENCE": _plain(tf.math.squared_difference),
    "RSQRT": _plain(lambda x: tf.math.rsqrt(tf.maximum(x, 1e-9))),
    "ABS": _plain(tf.abs),
    "RELU": _plain(tf.nn.relu),
    "RELU6": _plain(tf.nn.relu6),
    "LOGISTIC": _plain(tf.sigmoid),
    "TANH": _plain(tf.tanh),
    "HARD_SWISH": _plain(lambda x: x * tf.nn.relu6(x + 3.0) / 6.0),
    "GELU": lambda options, shape: lambda x: tf.nn.gelu(x, approximate=bool(options.approximate)),
    "LEAKY_RELU": lambda options, shape: lambda x: tf.nn.leaky_relu(x, options.alpha),
    "SOFTMAX": lambda options, shape: lambda x: tf.nn.softmax(x * options.beta),
    "QUANTIZE": _plain(tf.identity),
    "RESHAPE": _reshaped,
    "SQUEEZE": _reshaped,
    "EXPAND_DIMS": _reshaped,
    "AVERAGE_POOL_2D": _pool(tf.nn.avg_pool2d),
    "MAX_POOL_2D": _pool(tf.nn.max_pool2d),
    "MEAN": _reduced(tf.reduce_mean),
    "SUM": _reduced(tf.reduce_sum),
    "REDUCE_MAX": _reduced(tf.reduce_max),
    "PAD": _padded,
    "PADV2": _padded,
    "TRANSPOSE": _plain(lambda x, order: tf.transpose(x, [int(one) for one in order])),
    "CONCATENATION": lambda options, shape: lambda *values: tf.concat(values, options.axis),
    "BATCH_MATMUL": lambda options, shape: (
        lambda a, b: tf.matmul(a, b, transpose_a=bool(options.adjX), transpose_b=bool(options.adjY))
    ),
}
