"""Training objectives that can be compiled into a head, one row each.

A row is a function of TensorFlow operations from which the converter takes the gradients, so a new objective needs
no code on the device. What it may use is what TFLite has as builtin operators: ReLU is written as ``maximum``
(ReluGrad is none), and rounding carries its gradient straight through.

An objective sees:
    forward: maps a tree of variables or tensors to logits [B, C] of the current batch;
    tree: the variables of the head;
    cross_entropy: maps logits to the weighted mean cross-entropy of the batch, nats;
    inputs: its own hyper-parameters by name, float32 [1] each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from protos.model.manifest import TrainInput
from protos.plugins import Plugin, Table, guarded, wrong

Tensors = Mapping[str, Any]
Loss = Callable[[Callable[[Tensors], Any], Tensors, Callable[[Any], Any], Tensors], Any]

# Kurtosis of the uniform distribution, the one that a uniform quantiser serves best.
KURTOSIS_TARGET = 1.8


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """A row of the table: what is minimised, and the inputs of its own."""

    loss: Loss
    meaning: str
    inputs: tuple[TrainInput, ...] = ()


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
    penalties = []
    for name in _kernels(tree):
        centred = tree[name] - tf.reduce_mean(tree[name])
        variance = tf.reduce_mean(tf.square(centred))
        # The gradient of kurtosis grows as 1/deviation: under a deviation of 0.01 (a head that starts at zero) the
        # floor keeps it from throwing the weights far out.
        kurtosis = tf.reduce_mean(tf.square(tf.square(centred))) / tf.maximum(tf.square(variance), 1e-8)
        penalties.append(tf.square(kurtosis - KURTOSIS_TARGET))
    return cross_entropy(forward(tree)) + inputs["kurtosis_weight"] * tf.add_n(penalties) / float(len(penalties))


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


BUILT_IN: dict[str, Objective] = {
    "cross_entropy": Objective(cross_entropy, "softmax cross-entropy"),
    "kure": Objective(
        kure,
        "cross-entropy and a kurtosis regulariser for quantisation-robust weights",
        (TrainInput("kurtosis_weight", 0.01, 0.0, 1e3, "coefficient of the kurtosis regulariser, target 1.8"),),
    ),
    "qat": Objective(
        qat,
        "cross-entropy of straight-through quantised weights",
        (TrainInput("weight_bits", 4.0, 2.0, 16.0, "bits of the weight grid in the forward pass"),),
    ),
}


def _adopt(plugin: Plugin, offered: object) -> Objective:
    """An objective of an installed package."""
    if not isinstance(offered, Objective) or not all(isinstance(one, TrainInput) for one in offered.inputs):
        raise wrong(plugin, f"is {type(offered).__name__}, not an Objective with TrainInput as inputs")
    return dataclasses.replace(offered, loss=guarded(plugin, offered.loss, "build its loss"))


OBJECTIVES: Table[Objective] = Table("objectives", BUILT_IN, _adopt)
"""Ours, and behind them those of installed packages."""
