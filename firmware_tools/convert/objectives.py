"""Training objectives that can be compiled into a head, one row each.

A row is a function of TensorFlow operations from which the converter takes the gradients, so a new objective needs
no code on the device. What it may use is what TFLite has as builtin operators: ReLU is written as ``maximum``
(ReluGrad is none), and rounding carries its gradient straight through.

An objective sees:
    forward: maps a tree of variables or tensors to logits [B, C] of the current batch;
    tree: the variables of the head;
    cross_entropy: maps logits to the weighted mean cross-entropy of the batch, nats;
    inputs: its own hyper-parameters by name, float32 [1] each; and beside them ``step``, the count of steps since the
        head was written, and ``drawn``, a number in 0..1 that differs from batch to batch: both float32 [1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from protos.model.manifest import TrainInput
from protos.plugins import Plugin, Table, guarded, wrong

Tensors = Mapping[str, Any]
Loss = Callable[[Callable[[Tensors], Any], Tensors, Callable[[Any], Any], Tensors], Any]

# Kurtosis of the uniform distribution, the one that a uniform quantiser serves best.
KURTOSIS_TARGET = 1.8


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """A row of the table: what is minimised, and the inputs of its own.

    ``uniform_start``: hidden kernels start uniformly distributed, not normally.
    """

    loss: Loss
    meaning: str
    inputs: tuple[TrainInput, ...] = ()
    uniform_start: bool = False


def _kernels(tree: Tensors) -> list[str]:
    return [name for name in sorted(tree) if name.endswith("_kernel")]


def cross_entropy(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Mean cross-entropy of softmax."""
    return cross_entropy(forward(tree))


def kure(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Cross-entropy plus the squared distance of each kernel's kurtosis from that of a uniform distribution.

    Shkolnik et al. 2020, "Robust Quantization: One Model to Rule Them All", arXiv:2002.07686, eq. 10-11. The tensors
    are those that travel (standardised space), since these are what an update codec quantises.
    """
    return cross_entropy(forward(tree)) + inputs["kurtosis_weight"] * _kurtosis_distance(tree)


def _kurtosis_distance(tree: Tensors) -> Any:
    """Mean over kernels of (kurtosis - 1.8)^2."""
    penalties = []
    for name in _kernels(tree):
        centred = tree[name] - tf.reduce_mean(tree[name])
        variance = tf.reduce_mean(tf.square(centred))
        # The gradient of kurtosis grows as 1/deviation: under a deviation of 0.01 (a head that starts at zero) the
        # floor keeps it from throwing the weights far out.
        kurtosis = tf.reduce_mean(tf.square(tf.square(centred))) / tf.maximum(tf.square(variance), 1e-8)
        penalties.append(tf.square(kurtosis - KURTOSIS_TARGET))
    return tf.add_n(penalties) / float(len(penalties))


def kure_scaled(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """The same with each kernel's penalty in proportion to its squared length; see ``_kurtosis_penalty``."""
    return cross_entropy(forward(tree)) + inputs["kurtosis_weight"] * _kurtosis_penalty(tree)


def _kurtosis_penalty(tree: Tensors) -> Any:
    """Mean over kernels of (kurtosis - 1.8)^2, each times its own squared length, which is taken as a constant.

    Kurtosis does not depend on the scale, so its gradient is 4 (z^3 - kurtosis z - skewness) / (N deviation)
    for z = (w - mean) / deviation: it throws a kernel that starts at zero far out, and hardly moves a large one. Times
    N variance it is in proportion to the kernel, and one coefficient suits heads of every size.
    """
    penalties = []
    for name in _kernels(tree):
        centred = tree[name] - tf.reduce_mean(tree[name])
        variance = tf.reduce_mean(tf.square(centred))
        kurtosis = tf.reduce_mean(tf.square(tf.square(centred))) / tf.maximum(tf.square(variance), 1e-12)
        length = float(np.prod(tree[name].shape)) * tf.stop_gradient(variance)
        penalties.append(length * tf.square(kurtosis - KURTOSIS_TARGET))
    return tf.add_n(penalties) / float(len(penalties))


def qat(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Cross-entropy of the head with its kernels rounded to a symmetric grid; the gradient passes straight through.

    Straight-through estimator: Bengio et al. 2013, arXiv:1308.3432. Grid: max |w| / (2^(bits-1) - 1) per tensor.
    """
    levels = tf.pow(2.0, inputs["weight_bits"] - 1.0) - 1.0
    rounded = dict(tree)
    for name in _kernels(tree):
        kernel = tf.convert_to_tensor(tree[name])
        step = tf.maximum(tf.reduce_max(tf.abs(kernel)), 1e-12) / levels
        rounded[name] = kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)
    return cross_entropy(forward(rounded))


def apqn(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Cross-entropy of kernels with additive pseudo-quantisation noise: w + (step / 2) u, u uniform on -1..1.

    The noise has the variance of rounding to a min-max grid of so many bits, and lets gradients through, those of the
    range too. Defossez et al. 2021 (DiffQ), arXiv:2104.09987, eq. 4; step = (max w - min w) / (2^bits - 1), of the
    tensor. Bits are drawn anew for each step.
    """
    levels = tf.pow(2.0, _bits(inputs)) - 1.0
    noisy = dict(tree)
    for salt, name in enumerate(_kernels(tree)):
        kernel = tf.convert_to_tensor(tree[name])
        step = (tf.reduce_max(kernel) - tf.reduce_min(kernel)) / levels
        noisy[name] = kernel + 0.5 * step * _noise(kernel.shape, salt, inputs)
    return cross_entropy(forward(noisy)) + inputs["kurtosis_weight"] * _kurtosis_penalty(tree)


def mqat(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Cross-entropy of kernels rounded to a min-max grid whose bits are drawn anew for each step; straight-through.

    One pass forward and one back whatever the widths, as in Gupta et al. 2023, arXiv:2206.10844 (multi-bit QAT). With
    the lowest and the highest width equal it is plain quantisation-aware training on that grid. A share of the steps
    leaves the kernels as they are.
    """
    rounding = tf.cast(_fraction(inputs["drawn"] * 31.0 + inputs["step"] * 0.7548776662) >= inputs["full_share"],
                       tf.float32)  # fmt: skip
    return cross_entropy(forward(_rounded(tree, _bits(inputs), rounding)))


def _rounded(tree: Tensors, bits: Any, share: Any = 1.0) -> dict[str, Any]:
    """The tree with its kernels on the min-max grid of so many bits; that share of the way there."""
    levels = tf.pow(2.0, bits) - 1.0
    rounded = dict(tree)
    for name in _kernels(tree):
        kernel = tf.convert_to_tensor(tree[name])
        low = tf.reduce_min(kernel)
        step = tf.maximum(tf.reduce_max(kernel) - low, 1e-12) / levels
        place = (kernel - low) / step
        # The rounded kernel is kernel + step * (round(place) - place). The bracket has no gradient, the step has: the
        # range narrows where it makes the loss larger (as step sizes do in Esser et al. 2020, LSQ, arXiv:1902.08153).
        rounded[name] = kernel + share * step * tf.stop_gradient(tf.round(place) - place)
    return rounded


def paired(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """Cross-entropy of the kernels as they are, and of the rounded ones, in one step: (CE(w) + r CE(Q(w))) / (1 + r).

    Rounding alone (:func:`mqat`) trains the head that a few bits leave, and the whole one goes where it is not looked
    at; here each step looks at both. Q is the min-max grid of a width drawn for each step, with mqat's gradient.

    Hidden kernels start uniform, and kure's regulariser keeps them so: most of what 2 bits lose of a normal start is
    its tails, which the range must cover. With both weights 0 it is cross-entropy from that start.
    """
    share = inputs["rounded_weight"]
    plain = cross_entropy(forward(tree))
    both = (plain + share * cross_entropy(forward(_rounded(tree, _bits(inputs))))) / (1.0 + share)
    return both + inputs["kurtosis_weight"] * _kurtosis_distance(tree)


def _fraction(value: Any) -> Any:
    return value - tf.floor(value)


def _bits(inputs: Tensors) -> Any:
    """A whole number of bits between the lowest and the highest, each as likely, drawn by step and batch."""
    low, high = inputs["bits_low"], tf.maximum(inputs["bits_high"], inputs["bits_low"])
    drawn = _fraction(inputs["drawn"] + inputs["step"] * 0.6180339887)
    return tf.minimum(tf.round(low) + tf.floor(drawn * (tf.round(high) - tf.round(low) + 1.0)), tf.round(high))


def _noise(shape: Any, salt: int, inputs: Tensors) -> Any:
    """Uniform on -1..1, [*shape]: for each coordinate the sequence frac(a k + b + drawn) over steps k, whose values
    fill the interval evenly when ``a`` is irrational (Weyl 1916). ``a`` and ``b`` are constants of the coordinate, so
    that coordinates do not move together; TFLite's own random operators keep a state that no order could set."""
    random = np.random.default_rng([0xA9, salt])
    a, b = (tf.constant(random.uniform(size=shape), tf.float32) for _ in range(2))
    return 2.0 * _fraction(a * inputs["step"] + b + inputs["drawn"]) - 1.0


_WIDTHS = (
    TrainInput("bits_low", 2.0, 1.0, 16.0, "lowest width drawn, bits"),
    TrainInput("bits_high", 8.0, 1.0, 16.0, "highest width drawn, bits; under the lowest it is the lowest"),
)

BUILT_IN: dict[str, Objective] = {
    "cross_entropy": Objective(cross_entropy, "softmax cross-entropy"),
    "kure": Objective(
        kure,
        "cross-entropy and a kurtosis regulariser for quantisation-robust weights",
        (TrainInput("kurtosis_weight", 0.01, 0.0, 1e3, "coefficient of the kurtosis regulariser, target 1.8"),),
    ),
    "kure_scaled": Objective(
        kure_scaled,
        "the same, in proportion to the size of the weights, so that one coefficient suits every head",
        (TrainInput("kurtosis_weight", 0.001, 0.0, 1e3, "coefficient of the scaled regulariser, target 1.8"),),
    ),
    "qat": Objective(
        qat,
        "cross-entropy of straight-through quantised weights",
        (TrainInput("weight_bits", 4.0, 2.0, 16.0, "bits of the weight grid in the forward pass"),),
    ),
    "apqn": Objective(
        apqn,
        "cross-entropy of weights with the noise that rounding would make",
        (*_WIDTHS, TrainInput("kurtosis_weight", 0.0, 0.0, 1e3, "of kure_scaled's regulariser, beside the noise")),
    ),
    "mqat": Objective(
        mqat,
        "cross-entropy of weights rounded to a width that is drawn for each step",
        (*_WIDTHS, TrainInput("full_share", 0.25, 0.0, 1.0, "share of the steps whose weights are not rounded")),
    ),
    "paired": Objective(
        paired,
        "cross-entropy of weights as they are and of rounded ones, both in each step",
        (
            _WIDTHS[0],
            dataclasses.replace(_WIDTHS[1], default=2.0),
            TrainInput("rounded_weight", 0.7, 0.0, 100.0, "weight of the rounded head's loss"),
            TrainInput("kurtosis_weight", 0.003, 0.0, 1e3, "of kure's regulariser, beside both"),
        ),
        uniform_start=True,
    ),
}


def _adopt(plugin: Plugin, offered: object) -> Objective:
    """An objective of an installed package."""
    if not isinstance(offered, Objective) or not all(isinstance(tensor, TrainInput) for tensor in offered.inputs):
        raise wrong(plugin, f"is {type(offered).__name__}, not an Objective with TrainInput as inputs")
    return dataclasses.replace(offered, loss=guarded(plugin, offered.loss, "build its loss"))


OBJECTIVES: Table[Objective] = Table("objectives", BUILT_IN, _adopt)
"""Ours, and behind them those of installed packages."""
