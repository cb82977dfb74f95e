"""A Keras classifier that learns from soft labels, and from the features of another model where it is given any.

Loss of an example, with q its soft label at temperature T and z the model's logits:

    T^2 KL(q || softmax(z / T)) + b ||g(h_student) - h_teacher||^2 / width

(Hinton et al. 2015, arXiv:1503.02531; the second term is that of FitNets, Romero et al. 2015, arXiv:1412.6550). h is
what a layer gives, averaged over places; g is a linear map that is learned along and thrown away, so any two layers fit
each other; the teacher's features are divided by their root mean square. Adam, half a cosine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protos.errors import ModelError, ShapeError

_BATCH = 64


def features_of(model: Any, layer: str, x: Any) -> Any:
    """float32 [N, W]: what a layer gives, averaged over places, divided by its root mean square.

    Raises:
        ModelError: no such layer.
    """
    given = _cut(model, layer).predict(x, batch_size=256, verbose=0)
    flat = given.reshape(len(x), -1, given.shape[-1]).mean(axis=1)
    return (flat / max(float(np.sqrt((flat**2).mean())), 1e-9)).astype(np.float32)


def learn(
    model: Any, x: Any, targets: Any, *, epochs: int, temperature: float = 1.0, rate: float = 1e-3, seed: int = 0,
    layer: str | None = None, features: Any | None = None, features_weight: float = 0.1,
) -> float:  # fmt: skip
    """Train a model of one input and one output of logits, in place; returns the last epoch's mean loss.

    Args:
        x: float32 [N, ...] as the model takes them.
        targets: [N, K] distributions at this temperature; one-hot for labels.
        layer: of the model, whose output is to predict ``features``.
        features: float32 [N, W], as :func:`features_of` gives them of the teacher.

    Raises:
        ModelError: no such layer, or it ends in softmax.
        ShapeError: arrays do not fit each other, or ``targets`` are no distributions.
    """
    import keras
    import tensorflow as tf

    if len(x) != len(targets) or (features is not None and len(features) != len(x)):
        raise ShapeError(f"{len(x)} examples, {len(targets)} soft labels")
    targets, last = np.asarray(targets, np.float32), model.layers[-1]
    wide = (len(x), int(model.outputs[0].shape[-1]))
    sums = targets.sum(axis=-1)
    if targets.shape != wide or not len(x) or not (targets >= 0).all() or not np.allclose(sums, 1.0, atol=1e-3):
        raise ShapeError(f"soft labels of shape {list(targets.shape)} for a model that gives {list(wide)}, or they are "
                         "no distributions")  # fmt: skip
    if getattr(getattr(last, "activation", None), "__name__", "") == "softmax" or type(last).__name__ == "Softmax":
        raise ModelError("ends in softmax, and a student gives logits", fix="leave the softmax out of it")
    out, variables, g = model, list(model.trainable_variables), None
    if features is not None:
        if layer is None:
            raise ShapeError("features to learn from, and no layer that learns them")
        out = keras.Model(model.inputs, [model.outputs[0], _layer(model, layer).output])
        width = int(_layer(model, layer).output.shape[-1])
        start = np.random.default_rng([seed, 0x6]).normal(size=(width, features.shape[1])) / math.sqrt(width)
        g = tf.Variable(start.astype(np.float32))
    optimiser = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * math.ceil(len(x) / _BATCH)))
    )
    if g is not None:
        variables.append(g)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any, lesson: Any, middle: Any) -> Any:
        with tf.GradientTape() as tape:
            given = out(batch, training=True)
            logits = given if g is None else given[0]
            ours = tf.nn.log_softmax(logits / temperature)
            told = tf.math.log(tf.maximum(lesson, 1e-9))
            loss = temperature**2 * tf.reduce_mean(tf.reduce_sum(lesson * (told - ours), axis=-1))
            if g is not None:
                shape = tf.shape(given[1])
                flat = tf.reduce_mean(tf.reshape(given[1], [shape[0], -1, given[1].shape[-1]]), axis=1)
                loss += features_weight * tf.reduce_mean((tf.matmul(flat, g) - middle) ** 2)
        slopes = tape.gradient(loss, variables)
        optimiser.apply_gradients(zip(slopes, variables, strict=True))
        return loss

    random, total = np.random.default_rng([seed, 0xD157]), math.nan
    for _ in range(epochs):
        order, total = random.permutation(len(x)), 0.0
        for start_at in range(0, len(x), _BATCH):
            rows = order[start_at : start_at + _BATCH]
            middle = tf.constant(0.0) if features is None else tf.constant(features[rows])
            total += float(step(tf.constant(x[rows]), tf.constant(targets[rows]), middle)) * len(rows) / len(x)
    return total


def _layer(model: Any, name: str) -> Any:
    known = [layer.name for layer in model.layers]
    if name not in known:
        raise ModelError(f"has no layer {name!r}", fix=f"one of {', '.join(known)}")
    return model.get_layer(name)


def _cut(model: Any, name: str) -> Any:
    import keras

    return keras.Model(model.inputs, _layer(model, name).output)
