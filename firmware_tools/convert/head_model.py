"""Compiles the trainable head: objective, gradients and optimiser as signatures of one TFLite file.

Rules kept here:
- TFLite builtin operators only, variables as resource variables, a fixed batch (a dynamic one would re-plan memory
  at every change of size).
- No 0-D input in any signature: ai-edge-litert on aarch64 crashes on one. Hyper-parameters have shape [1].
- The standardisation of features is a constant of the file: the variables live in standardised space.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from firmware_tools.convert.objectives import OBJECTIVES
from firmware_tools.convert.optimisers import CORRECTION, OPTIMISERS, PROXIMAL, WEIGHT_DECAY
from firmware_tools.inspect.model import read_bytes
from protos.errors import ModelError
from protos.model.head_algebra import Array, head_shapes
from protos.model.manifest import TrainInput


@dataclasses.dataclass(frozen=True, slots=True)
class HeadDesign:
    """What a head is compiled from. ``mean`` and ``scale`` are float32 [D]."""

    mean: Array
    scale: Array
    classes: int
    hidden_units: int | None
    batch_size: int
    objective: str
    optimiser: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the tree."""
        return head_shapes(len(self.mean), self.classes, self.hidden_units)

    @property
    def inputs(self) -> tuple[TrainInput, ...]:
        """Hyper-parameters of the compiled step, in the order: optimiser, pulls, objective."""
        pulls = (PROXIMAL, WEIGHT_DECAY, CORRECTION)
        return (*OPTIMISERS[self.optimiser].inputs, *pulls, *OBJECTIVES[self.objective].inputs)


class _Head(tf.Module):  # type: ignore[misc]
    def __init__(self, design: HeadDesign) -> None:
        super().__init__(name="head")
        self.design = design
        self.mean, self.scale = tf.constant(design.mean), tf.constant(design.scale)
        self.optimiser = OPTIMISERS[design.optimiser]
        self.objective = OBJECTIVES[design.objective]

        def zeros(name: str) -> dict[str, Any]:
            return {key: tf.Variable(tf.zeros(shape), name=f"{name}_{key}") for key, shape in design.shapes.items()}

        self.tree = zeros("now")
        self.reference = zeros("reference")
        self.correction = zeros("correction")
        self.slots = {slot: zeros(slot) for slot in self.optimiser.slots}
        self.step = tf.Variable(tf.zeros([1]), name="step")

    def forward(self, features: Any, tree: Mapping[str, Any]) -> Any:
        value = features
        if "hidden_kernel" in tree:
            value = tf.maximum(tf.matmul(value, tree["hidden_kernel"]) + tree["hidden_bias"], 0.0)
        return tf.matmul(value, tree["out_kernel"]) + tree["out_bias"]

    def logits(self, x: Any) -> Any:
        return self.forward((x - self.mean) * self.scale, self.tree)

    def example_losses(self, logits: Any, y: Any) -> Any:
        return -tf.reduce_sum(tf.one_hot(y, self.design.classes) * tf.nn.log_softmax(logits), axis=1)

    def train(self, **given: Any) -> dict[str, Any]:
        y, weight = given["y"], given["weight"]
        features = (given["x"] - self.mean) * self.scale
        share = weight / tf.maximum(tf.reduce_sum(weight), 1e-6)

        def cross_entropy(logits: Any) -> Any:
            return tf.reduce_sum(self.example_losses(logits, y) * share)

        names = sorted(self.tree)
        with tf.GradientTape() as tape:
            loss = self.objective.loss(lambda tree: self.forward(features, tree), self.tree, cross_entropy, given)
        gradients = tape.gradient(loss, [self.tree[name] for name in names])
        # The pulls are taken before any variable moves.
        pulled = {name: gradient + self.pull(name, given) for name, gradient in zip(names, gradients, strict=True)}
        step = self.step + 1.0
        self.step.assign(step)
        for name in names:
            slots = {slot: variables[name] for slot, variables in self.slots.items()}
            self.optimiser.apply(self.tree[name], pulled[name], slots, given, step)
        return {"loss": tf.reshape(loss, [1])}

    def pull(self, name: str, given: Mapping[str, Any]) -> Any:
        """Gradient of the penalties, distance from the head as written and size of the kernels; and the correction.

        The tree is in the space of standardised features, where one decay suits every backbone.
        """
        pull = given[PROXIMAL.name] * (self.tree[name] - self.reference[name])
        pull += given[CORRECTION.name] * self.correction[name]
        return pull + given[WEIGHT_DECAY.name] * self.tree[name] if name.endswith("_kernel") else pull

    def evaluate(self, x: Any, y: Any, weight: Any) -> dict[str, Any]:
        logits = self.logits(x)
        right = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), y), tf.float32)
        return {
            "loss_sum": tf.reshape(tf.reduce_sum(self.example_losses(logits, y) * weight), [1]),
            "correct": tf.reshape(tf.reduce_sum(right * weight), [1]),
        }

    def infer(self, x: Any) -> dict[str, Any]:
        return {"logits": self.logits(x)}

    def read(self) -> dict[str, Any]:
        return {name: variable.read_value() for name, variable in self.tree.items()}

    def write(self, **tree: Any) -> dict[str, Any]:
        for name, value in tree.items():
            self.tree[name].assign(value)
            self.reference[name].assign(value)
            self.correction[name].assign(tf.zeros_like(value))
            for variables in self.slots.values():
                variables[name].assign(tf.zeros_like(value))
        self.step.assign(tf.zeros([1]))
        # A signature must return something; the count of tensors says that all were set.
        return {"tensors": tf.constant([len(tree)], tf.int32)}

    def correct(self, **tree: Any) -> dict[str, Any]:
        for name, value in tree.items():
            self.correction[name].assign(value)
        return {"tensors": tf.constant([len(tree)], tf.int32)}


def compile_head(design: HeadDesign) -> bytes:
    """The .tflite file of a head, with signatures train, evaluate, infer, read, write and correct.

    Raises:
        ModelError: the file would need operators that are no TFLite builtins, or has a 0-D input.
    """
    head = _Head(design)
    batch, width = design.batch_size, len(design.mean)

    def spec(name: str, *shape: int, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    x, y, weight = spec("x", batch, width), spec("y", batch, dtype=tf.int32), spec("weight", batch)
    hyper = {one.name: spec(one.name, 1) for one in design.inputs}
    tree = {name: spec(name, *shape) for name, shape in design.shapes.items()}
    signatures = {
        "train": tf.function(head.train).get_concrete_function(x=x, y=y, weight=weight, **hyper),
        "evaluate": tf.function(head.evaluate).get_concrete_function(x=x, y=y, weight=weight),
        "infer": tf.function(head.infer).get_concrete_function(x=x),
        "read": tf.function(head.read).get_concrete_function(),
        "write": tf.function(head.write).get_concrete_function(**tree),
        "correct": tf.function(head.correct).get_concrete_function(**tree),
    }
    with tempfile.TemporaryDirectory(prefix="edgejoule-head-") as folder:
        tf.saved_model.save(head, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        content = bytes(converter.convert())
    check_head(content)
    return content


def check_head(content: bytes) -> None:
    """Assert the rules of this room on a finished file."""
    facts = read_bytes(content, where="head.tflite")
    if scalars := facts.zero_dimensional_inputs():
        raise ModelError(
            f"has 0-D inputs ({', '.join(scalars)}), on which the aarch64 runtime crashes", where="head.tflite"
        )
    custom = sorted(name for name in facts.operator_counts() if name.startswith(("CUSTOM", "Flex")))
    if custom:
        raise ModelError(f"needs operators outside the TFLite builtins: {', '.join(custom)}", where="head.tflite")
    shapes = [tensor.shape for one in facts.signatures.values() for tensor in one.inputs.values()]
    if not all(all(size > 0 for size in np.atleast_1d(shape)) for shape in shapes):
        raise ModelError("has an input of unknown size", where="head.tflite")
