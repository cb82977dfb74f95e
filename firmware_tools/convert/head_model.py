"""Compiles the trainable head: objective, gradients and optimiser as signatures of one TFLite file.

Rules kept here:
- TFLite builtin operators only, variables as resource variables, a fixed batch (a dynamic one would re-plan memory
  at every change of size).
- No 0-D input in any signature: ai-edge-litert on aarch64 crashes on one. Hyper-parameters have shape [1].
- The standardisation of features is a constant of the file: the variables live in standardised space.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from firmware_tools.convert.objectives import OBJECTIVES
from firmware_tools.convert.optimisers import CORRECTION, OPTIMISERS, PROXIMAL, WEIGHT_DECAY
from firmware_tools.convert.trainable.design import TailDesign
from firmware_tools.convert.trainable.layers import forward
from firmware_tools.convert.trainable.ordering import ordered
from firmware_tools.inspect.model import read_bytes
from protos.errors import ModelError
from protos.model.head_algebra import Array, head_shapes
from protos.model.head_kinds import diffusion
from protos.model.manifest import TrainInput
from protos.model.task import ANOMALY, CLASSIFICATION, DIFFUSION, REGRESSION, task_of


@dataclasses.dataclass(frozen=True, slots=True)
class HeadDesign:
    """What a head is compiled from.

    Attributes:
        mean, scale: float32 [D], of the features.
        classes: K, outputs of the head.
        conditions: classes that a denoiser is told of.
        tail: layers between the embedding and the features, of which some tensors train; None where the embedding is
            what the head reads.
        target_mean, target_scale: float32 [K], of the quantities of a regression; None for other tasks.
    """

    mean: Array
    scale: Array
    classes: int
    hidden_units: int | None
    batch_size: int
    objective: str
    optimiser: str
    target_mean: Array | None = None
    target_scale: Array | None = None
    conditions: int = 0
    tail: TailDesign | None = None

    @property
    def task(self) -> str:
        return task_of(self.objective)

    @property
    def trains(self) -> bool:
        """Whether there are steps: the distance from what is normal has a closed form alone."""
        return self.task != ANOMALY or self.hidden_units is not None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the tree."""
        if self.task == DIFFUSION:
            return diffusion.denoiser_shapes(len(self.mean), self.conditions, self.hidden_units or diffusion.HIDDEN)
        found = head_shapes(len(self.mean), self.classes, self.hidden_units)
        return found if self.tail is None else dict(sorted((found | self.tail.shapes).items()))

    @property
    def given(self) -> int:
        """D, values that the head is given for one example."""
        return len(self.mean) if self.tail is None else math.prod(self.tail.tail.shape)

    @property
    def inputs(self) -> tuple[TrainInput, ...]:
        """Hyper-parameters of the compiled step, in the order: optimiser, pulls, objective."""
        if not self.trains:
            return ()
        if self.task == DIFFUSION:
            # Noise is all the regularisation that a denoiser needs.
            return (*OPTIMISERS[self.optimiser].inputs, PROXIMAL,
                    dataclasses.replace(WEIGHT_DECAY, default=0.0), CORRECTION)  # fmt: skip
        pulls = (*OPTIMISERS[self.optimiser].inputs, PROXIMAL, WEIGHT_DECAY, CORRECTION)
        return pulls if self.task != CLASSIFICATION else (*pulls, *OBJECTIVES[self.objective].inputs)


class _Head(tf.Module):  # type: ignore[misc]
    def __init__(self, design: HeadDesign) -> None:
        super().__init__(name="head")
        self.design = design
        self.mean, self.scale = tf.constant(design.mean), tf.constant(design.scale)
        self.optimiser = OPTIMISERS[design.optimiser]
        self.objective = OBJECTIVES[design.objective] if design.task == CLASSIFICATION else None

        def zeros(name: str) -> dict[str, Any]:
            return {key: tf.Variable(tf.zeros(shape), name=f"{name}_{key}") for key, shape in design.shapes.items()}

        self.tree = zeros("now")
        self.reference = zeros("reference")
        self.correction = zeros("correction")
        self.slots = {slot: zeros(slot) for slot in self.optimiser.slots}
        self.step = tf.Variable(tf.zeros([1]), name="step")

    def features(self, x: Any, tree: Mapping[str, Any], after: Any = 0.0) -> Any:
        """Standardised features [B, D] of what the head is given, and of a zero that is known after something else."""
        design = self.design.tail
        if design is not None:
            real = (tf.cast(x, tf.float32) - (float(design.zero_point) + after)) * design.scale
            moved = {tensor.name: tree[tensor.name] * tensor.gain for tensor in design.trained}
            biases = {tensor.layer: moved[tensor.name] for tensor in design.trained if tensor.name.endswith("_bias")}
            kernels = {tensor.layer: moved[tensor.name] for tensor in design.trained if tensor.name.endswith("_kernel")}
            x = forward(design.tail, tf.reshape(real, [x.shape[0], *design.tail.shape]), biases, kernels)
        return (x - self.mean) * self.scale

    def forward(self, features: Any, tree: Mapping[str, Any]) -> Any:
        value = features
        if "hidden_kernel" in tree:
            value = tf.maximum(tf.matmul(value, tree["hidden_kernel"]) + tree["hidden_bias"], 0.0)
        return tf.matmul(value, tree["out_kernel"]) + tree["out_bias"]

    def logits(self, x: Any) -> Any:
        features = self.features(x, self.tree)
        outputs = self.forward(features, self.tree)
        if self.design.task == REGRESSION:
            return outputs * tf.constant(self.design.target_scale) + tf.constant(self.design.target_mean)
        if self.design.task == ANOMALY and self.design.hidden_units is not None:
            return outputs - features
        return outputs

    def example_losses(self, logits: Any, y: Any) -> Any:
        return -tf.reduce_sum(tf.one_hot(y, self.design.classes) * tf.nn.log_softmax(logits), axis=1)

    def squared_errors(self, features: Any, given: Mapping[str, Any]) -> Any:
        """[B, K]: of standardised quantities, or of the reconstructed features."""
        wanted = features
        if self.design.task == REGRESSION:
            wanted = (given["y"] - tf.constant(self.design.target_mean)) / tf.constant(self.design.target_scale)
        return tf.square(self.forward(features, self.tree) - wanted)

    def train(self, **given: Any) -> dict[str, Any]:
        weight = given["weight"]
        features = None if self.design.tail is not None else self.features(given["x"], self.tree)
        share = weight / tf.maximum(tf.reduce_sum(weight), 1e-6)

        def cross_entropy(logits: Any) -> Any:
            return tf.reduce_sum(self.example_losses(logits, given["y"]) * share)

        def outputs(tree: Mapping[str, Any]) -> Any:
            # What a tail makes of an embedding changes with it.
            return self.forward(self.features(given["x"], tree) if features is None else features, tree)

        names = sorted(self.tree)
        if self.design.tail is not None and self.design.tail.blocks > 1:
            return self.train_in_blocks(given, share, names, self.design.batch_size // self.design.tail.blocks)
        if self.design.task == DIFFUSION:
            # e as the head is told: the mean over examples and coordinates of (e - guess)^2.
            with tf.GradientTape() as tape:
                errors = tf.square(self.noise_guess(self.noised(features, given), given) - given["noise"])
                loss = tf.reduce_sum(tf.reduce_mean(errors, axis=1) * share)
            return self.moved(tape, loss, names, given) | {"loss": tf.reshape(loss, [1])}
        # What an objective may draw by: no operator of TFLite gives random numbers that an order could repeat. The mean
        # of a batch, many times over, has a fractional part that is as good as drawn.
        spread = tf.reduce_mean(tf.cast(given["x"], tf.float32) if features is None else features) * 9973.0
        seen = {**given, "step": self.step + 1.0, "drawn": tf.reshape(spread - tf.floor(spread), [1])}
        with tf.GradientTape() as tape:
            if self.objective is None:
                # A quarter of the sum over outputs curves by |x|^2 / 2 in each of them, which is the most that
                # cross-entropy does: rates that are stable for one are for the other. What is told is the mean.
                loss = 0.25 * tf.reduce_sum(tf.reduce_sum(self.squared_errors(features, given), axis=1) * share)
            else:
                loss = self.objective.loss(outputs, self.tree, cross_entropy, seen)
        self.moved(tape, loss, names, given)
        told = loss if self.objective is not None else loss * (4.0 / self.design.classes)
        return {"loss": tf.reshape(told, [1])}

    def train_in_blocks(self, given: Mapping[str, Any], share: Any, names: list[str], size: int) -> dict[str, Any]:
        """A step that goes over its batch in blocks of so many examples, one after the other.

        The loss is a sum over examples, L = sum_i share_i l_i, and no layer of a tail looks at two of them, so that the
        gradient of the batch is the sum of the blocks' gradients. Only one block's activations are held at a time.
        """
        variables = [self.tree[name] for name in names]
        sums: list[Any] = [tf.zeros_like(variable) for variable in variables]
        told, after = tf.zeros([]), tf.zeros([1])
        for start in range(0, self.design.batch_size, size):
            x, y, part = (value[start : start + size] for value in (given["x"], given["y"], share))
            with tf.GradientTape() as tape:
                logits = self.forward(self.features(x, self.tree, after), self.tree)
                loss = tf.reduce_sum(self.example_losses(logits, y) * part)
            found = tape.gradient(loss, variables)
            sums = [total + gradient for total, gradient in zip(sums, found, strict=True)]
            told += loss
            # Zero, which nobody can know before all gradients of this block are there: operators are ordered by what
            # they need alone, and would else begin all blocks at once.
            firsts = [tf.reshape(total[(slice(0, 1),) * len(total.shape)], [1]) for total in sums]
            after = tf.reduce_sum(tf.minimum(tf.abs(tf.concat(firsts, axis=0)), 0.0), keepdims=True)
        self.move(sums, names, given)
        return {"loss": tf.reshape(told, [1])}

    def moved(self, tape: Any, loss: Any, names: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """One step of the optimiser down this loss."""
        return self.move(tape.gradient(loss, [self.tree[name] for name in names]), names, given)

    def move(self, gradients: list[Any], names: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """One step of the optimiser along these gradients, and the pulls."""
        # The pulls are taken before any variable moves.
        pulled = {name: gradient + self.pull(name, given) for name, gradient in zip(names, gradients, strict=True)}
        step = self.step + 1.0
        self.step.assign(step)
        for name in names:
            slots = {slot: variables[name] for slot, variables in self.slots.items()}
            self.optimiser.apply(self.tree[name], pulled[name], slots, given, step)
        return {}

    def noised(self, features: Any, given: Mapping[str, Any]) -> Any:
        """z_t, [B, D]: see :mod:`protos.model.head_kinds.diffusion`."""
        kept = tf.gather(tf.constant(diffusion.schedule(), tf.float32), given["moment"])[:, None]
        latents = features / diffusion.spread_of(len(self.design.mean))
        return tf.sqrt(kept) * latents + tf.sqrt(1.0 - kept) * given["noise"]

    def noise_guess(self, z: Any, given: Mapping[str, Any]) -> Any:
        """The noise in z, [B, D]."""
        tree, moment = self.tree, given["moment"]
        first = tf.matmul(z, tree["hidden_kernel"]) + tree["hidden_bias"]
        first += tf.matmul(tf.gather(tf.constant(diffusion.waves()), moment), tree["time_kernel"])
        # A product with ones and zeros, since a gather's gradient is no builtin operator.
        first += tf.matmul(tf.one_hot(given["y"], self.design.conditions), tree["class_kernel"])
        second = tf.matmul(tf.maximum(first, 0.0), tree["middle_kernel"]) + tree["middle_bias"]
        kept = tf.gather(tf.constant(diffusion.schedule(), tf.float32), moment)[:, None]
        return tf.sqrt(1.0 - kept) * z + tf.matmul(tf.maximum(second, 0.0), tree["out_kernel"]) + tree["out_bias"]

    def denoise(self, x: Any, y: Any, moment: Any) -> dict[str, Any]:
        return {"logits": self.noise_guess(x, {"y": y, "moment": moment})}

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
    """The .tflite file of a head, with the signatures that :func:`protos.model.head.signatures_of` names.

    Raises:
        ModelError: the file would need operators that are no TFLite builtins, or has a 0-D input.
    """
    head = _Head(design)
    batch, width = design.batch_size, design.given

    def spec(name: str, *shape: int, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    # A tail is given the trunk's integers, a quarter of the memory of real numbers, and kept through the whole step.
    taken = tf.float32 if design.tail is None else tf.as_dtype(design.tail.dtype)
    x, y, weight = spec("x", batch, width, dtype=taken), spec("y", batch, dtype=tf.int32), spec("weight", batch)
    hyper = {tensor.name: spec(tensor.name, 1) for tensor in design.inputs}
    tree = {name: spec(name, *shape) for name, shape in design.shapes.items()}
    examples = {"x": x, "y": y, "weight": weight}
    if design.task == REGRESSION:
        examples["y"] = spec("y", batch, design.classes)
    elif design.task == ANOMALY:
        del examples["y"]
    moment = spec("moment", batch, dtype=tf.int32)
    if design.task == DIFFUSION:
        examples |= {"noise": spec("noise", batch, width), "moment": moment}

    def traced(signature: Any, **tensors: Any) -> Any:
        # None of them branches on a tensor: to rewrite their sources for it is a tenth of the time, for the same graph.
        return tf.function(signature, autograph=False).get_concrete_function(**tensors)

    signatures = {}
    if design.trains:
        signatures["train"] = traced(head.train, **examples, **hyper)
    if design.task == CLASSIFICATION:
        signatures["evaluate"] = traced(head.evaluate, x=x, y=y, weight=weight)
    signatures |= {
        "infer": traced(head.denoise, x=x, y=y, moment=moment) if design.task == DIFFUSION else traced(head.infer, x=x),
        "read": traced(head.read),
        "write": traced(head.write, **tree),
    }
    if design.trains:
        signatures["correct"] = traced(head.correct, **tree)
    with tempfile.TemporaryDirectory(prefix="edgejoule-head-") as folder:
        tf.saved_model.save(head, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        content = bytes(converter.convert())
    if design.tail is not None:
        content = ordered(content, "train")
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
    shapes = [tensor.shape for signature in facts.signatures.values() for tensor in signature.inputs.values()]
    if not all(all(size > 0 for size in np.atleast_1d(shape)) for shape in shapes):
        raise ModelError("has an input of unknown size", where="head.tflite")
