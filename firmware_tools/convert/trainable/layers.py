"""Layers of a tail in TensorFlow, forward and back, with gradients that need TFLite's builtin operators alone.

TensorFlow's own gradients of convolutions and of ReLU are no builtins, so each layer brings its own:

- With respect to its input a convolution's gradient is a convolution again: the gradient of the output, with s - 1
  zeros between its values for a stride of s, convolved with the kernel turned by 180 degrees and, of a full one, its
  channels swapped (Dumoulin and Visin 2016, arXiv:1603.07285, section 4).
- With respect to a 1 x 1 kernel it is x^T g, a product of matrices over examples and places. Of a larger kernel it is
  one such product for each of its places.
- Of a ReLU only the sign of what went in is needed, a byte for each value and not four (of a bias alone, nothing else
  of the forward pass is kept at all: Cai, Gan, Zhu, Han: "TinyTL", NeurIPS 2020, arXiv:2007.11622, section 3.1).

Only what a later gradient needs is caught by it, so that the memory of everything else is free again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from firmware_tools.convert.trainable.graph import (
    ADD,
    AVERAGE,
    CONV,
    DENSE,
    DEPTHWISE,
    LARGEST,
    MEAN,
    MUL,
    PAD,
    RELU,
    RELU6,
    RESHAPE,
    SUB,
    Layer,
    Tail,
)


def forward(tail: Tail, x: Any, biases: Mapping[int, Any], kernels: Mapping[int, Any]) -> Any:
    """Features [B, width] of activations at the cut.

    Args:
        x: float32 [B, *tail.shape].
        biases: by the layer's number, what is added to its own bias, float32 [out]; a layer that is not there has a
            bias that stays, and nothing is kept for it.
        kernels: the same of kernels, in the shape of the layer's own.
    """
    known = {tail.source: x}
    for layer in tail.layers:
        inputs = [known[index] for index in layer.inputs]
        known[layer.output] = _run(layer, inputs, biases.get(layer.output), kernels.get(layer.output))
    last = known[tail.layers[-1].output]
    return tf.reshape(last, [x.shape[0], tail.width])


def one_layer(layer: Layer, inputs: list[Any]) -> Any:
    """The output of one layer as the network has it."""
    return _run(layer, inputs, None, None)


def _run(layer: Layer, inputs: list[Any], bias: Any, kernel: Any) -> Any:
    kind, x = layer.kind, inputs[0]
    if kind in (CONV, DEPTHWISE, DENSE):
        return _affine(layer, x, bias, kernel)
    if kind in (RELU, RELU6):
        return _activated(layer.activation, x)
    if kind == ADD and layer.constant is None:
        return _activated(layer.activation, inputs[0] + inputs[1])
    if kind in (ADD, SUB, MUL):
        value = tf.constant(layer.constant)
        moved = {ADD: lambda: x + value, SUB: lambda: x - value, MUL: lambda: x * value}[kind]()
        return _activated(layer.activation, moved)
    if kind == MEAN:
        return tf.reshape(_mean(x), [x.shape[0], *layer.shape])
    if kind in (AVERAGE, LARGEST):
        return _activated(layer.activation, _pooled(layer, x))
    if kind == RESHAPE:
        return tf.reshape(x, [x.shape[0], *layer.shape])
    assert kind == PAD
    return tf.pad(x, layer.padding)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _mean(x: Any) -> Any:
    """Over height and width."""
    batch, height, width, channels = x.shape.as_list()

    def back(gradient: Any) -> Any:
        shared = tf.reshape(gradient, [batch, 1, 1, channels]) * (1.0 / (height * width))
        return shared * tf.ones([1, height, width, 1])

    return tf.reduce_mean(x, axis=[1, 2]), back


def _pooled(layer: Layer, x: Any) -> Any:
    """Windows side by side. Of the largest value, all that are as large get the gradient (TensorFlow's gives it to the
    first; behind a ReLU they are zeros, and zeros pass nothing on)."""
    high, wide = layer.stride

    def wider(value: Any) -> Any:
        """Each value over its window, zeros where no window reaches."""
        batch, height, width, channels = value.shape.as_list()
        value = tf.reshape(value, [batch, height, 1, width * channels]) * tf.ones([1, 1, high, 1])
        value = tf.reshape(value, [batch * height * high, width, 1, channels]) * tf.ones([1, 1, wide, 1])
        value = tf.reshape(value, [batch, height * high, width * wide, channels])
        rows, columns = layer.given[0][0] - height * high, layer.given[0][1] - width * wide
        return tf.pad(value, [[0, 0], [0, rows], [0, columns], [0, 0]]) if rows or columns else value

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(value: Any) -> Any:
        if layer.kind == AVERAGE:
            return tf.nn.avg_pool2d(value, layer.stride, layer.stride, "VALID"), lambda g: wider(g / (high * wide))
        y = tf.nn.max_pool2d(value, layer.stride, layer.stride, "VALID")
        mask = tf.equal(value, wider(y))
        return y, lambda g: _through(mask, wider(g))

    return run(x)


def _mask(activation: str, y: Any) -> Any:
    """Where the gradient passes, of the output of an activation: bool."""
    passes = tf.greater(y, 0.0)
    return tf.logical_and(passes, tf.less(y, 6.0)) if activation == "RELU6" else passes


def _squashed(activation: str, z: Any) -> Any:
    if activation == "NONE":
        return z
    # ReluGrad is no builtin, and these are fused into the layer in front as RELU and RELU6.
    return tf.nn.relu(z) if activation == "RELU" else tf.nn.relu6(z)


def _through(mask: Any, gradient: Any) -> Any:
    return gradient if mask is None else tf.where(mask, gradient, tf.zeros([1] * len(gradient.shape)))


def _activated(activation: str, z: Any) -> Any:
    if activation == "NONE":
        return z

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(value: Any) -> Any:
        y = _squashed(activation, value)
        mask = _mask(activation, y)
        return y, lambda gradient: _through(mask, gradient)

    return run(z)


def _affine(layer: Layer, x: Any, bias: Any, kernel: Any) -> Any:
    """Convolution or product, bias and activation."""
    own = tf.constant(np.zeros(layer.kernel.shape[-1], np.float32) if layer.bias is None else layer.bias)  # type: ignore[union-attr]
    if layer.kind == DEPTHWISE and layer.bias is None:
        own = tf.constant(np.zeros(layer.shape[-1], np.float32))
    weights = tf.constant(layer.kernel)
    trained = [one for one in (bias, kernel) if one is not None]

    def body(value: Any, *moved: Any) -> Any:
        rest = list(moved)
        full_bias = own if bias is None else own + rest.pop(0)
        full_kernel = weights if kernel is None else weights + rest.pop(0)
        z = _product(layer, value, full_kernel) + full_bias
        y = _squashed(layer.activation, z)
        mask = None if layer.activation == "NONE" else _mask(layer.activation, y)
        # Caught only where the kernel trains: else the input's memory is free as soon as it was used.
        kept = value if kernel is not None else None

        def back(gradient: Any) -> Any:
            passed = _through(mask, gradient)
            found = [_input_gradient(layer, passed, full_kernel, value.shape)]
            if bias is not None:
                found.append(tf.reduce_sum(passed, axis=list(range(len(passed.shape) - 1))))
            if kernel is not None:
                found.append(_kernel_gradient(layer, kept, passed))
            return found if len(found) > 1 else found[0]

        return y, back

    return tf.custom_gradient(body)(x, *trained)


def _product(layer: Layer, x: Any, kernel: Any) -> Any:
    if layer.kind == DENSE:
        return tf.matmul(tf.reshape(x, [x.shape[0], -1]), kernel)
    strides = [1, *layer.stride, 1]
    if layer.kind == DEPTHWISE:
        return tf.nn.depthwise_conv2d(x, kernel, strides, layer.padding)
    return tf.nn.conv2d(x, kernel, strides, layer.padding)


def _before(layer: Layer, axis: int) -> int:
    """Rows of zeros that the padding puts in front, as TensorFlow counts them."""
    if layer.padding == "VALID":
        return 0
    assert layer.kernel is not None
    size, kernel, stride = layer.given[0][axis], layer.kernel.shape[axis], layer.stride[axis]
    before: int = max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2
    return before


def _input_gradient(layer: Layer, g: Any, kernel: Any, shape: Any) -> Any:
    """Of the input, [B, H, W, in], by the gradient of the output, [B, h, w, out]."""
    if layer.kind == DENSE:
        return tf.reshape(tf.matmul(g, kernel, transpose_b=True), shape)
    turned = tf.reverse(kernel, [0, 1]) if max(kernel.shape[:2]) > 1 else kernel
    turned = turned if layer.kind == DEPTHWISE else tf.transpose(turned, [0, 1, 3, 2])
    sizes, (high, wide) = layer.given[0], layer.stride
    pads = []
    for axis, stride in ((0, high), (1, wide)):
        before = kernel.shape[axis] - 1 - _before(layer, axis)
        spread = g.shape[axis + 1] * stride
        # The convolution that follows is to give as many rows as the layer took.
        pads.append((before, sizes[axis] + kernel.shape[axis] - 1 - before - spread))
    value = _spread(g, high, wide)
    value = _cut_or_padded(value, pads)
    if layer.kind == DEPTHWISE:
        return tf.nn.depthwise_conv2d(value, turned, [1, 1, 1, 1], "VALID")
    return tf.nn.conv2d(value, turned, 1, "VALID")


def _spread(g: Any, high: int, wide: int) -> Any:
    """``s - 1`` zeros behind each value, in both directions."""
    batch, height, width, channels = g.shape.as_list()
    if high > 1:
        g = tf.pad(tf.reshape(g, [batch, height, 1, width * channels]), [[0, 0], [0, 0], [0, high - 1], [0, 0]])
        g = tf.reshape(g, [batch, height * high, width, channels])
    if wide > 1:
        g = tf.pad(tf.reshape(g, [batch * height * high, width, 1, channels]), [[0, 0], [0, 0], [0, wide - 1], [0, 0]])
        g = tf.reshape(g, [batch, height * high, width * wide, channels])
    return g


def _cut_or_padded(value: Any, pads: list[tuple[int, int]]) -> Any:
    """Zeros around height and width; where there are fewer than none, rows go."""
    if any(one < 0 for pair in pads for one in pair):
        begin = [0, *(max(0, -pair[0]) for pair in pads), 0]
        sizes = value.shape.as_list()
        for axis, (before, after) in enumerate(pads, 1):
            sizes[axis] -= max(0, -before) + max(0, -after)
        value = tf.slice(value, begin, sizes)
    rows = [[0, 0], *([max(0, a), max(0, b)] for a, b in pads), [0, 0]]
    return tf.pad(value, rows) if any(map(any, rows)) else value


def _kernel_gradient(layer: Layer, x: Any, g: Any) -> Any:
    """Of the kernel: for each of its places, x there, times the gradient, over all examples and places."""
    assert layer.kernel is not None
    if layer.kind == DENSE:
        return tf.matmul(tf.reshape(x, [x.shape[0], -1]), g, transpose_a=True)
    rows, columns = layer.kernel.shape[:2]
    batch, height, width, channels = g.shape.as_list()
    pads = []
    for axis, (count, kernel, stride) in enumerate(
        ((height, rows, layer.stride[0]), (width, columns, layer.stride[1]))
    ):
        before = _before(layer, axis)
        pads.append((before, (count - 1) * stride + kernel - layer.given[0][axis] - before))
    padded = _cut_or_padded(x, pads)
    found = []
    for row in range(rows):
        for column in range(columns):
            below, right = row + (height - 1) * layer.stride[0] + 1, column + (width - 1) * layer.stride[1] + 1
            seen = tf.strided_slice(
                padded, [0, row, column, 0], [batch, below, right, x.shape[3]], [1, *layer.stride, 1]
            )
            if layer.kind == DEPTHWISE:
                found.append(tf.reshape(tf.reduce_sum(seen * g, axis=[0, 1, 2]), [1, channels, 1]))
            else:
                flat = tf.reshape(seen, [-1, x.shape[3]]), tf.reshape(g, [-1, channels])
                found.append(tf.matmul(*flat, transpose_a=True)[None])
    return tf.reshape(tf.concat(found, axis=0), layer.kernel.shape)
