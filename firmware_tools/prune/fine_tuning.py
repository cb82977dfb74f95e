"""A pruned model trained on for a while, with the model that it was cut from as its teacher.

Loss of an example, with p the softmax of logits divided by a temperature of 2:

    (1 - a) cross-entropy(label) + a 4 KL(p_teacher || p_student),    a = 0.5 where there is a teacher

(Hinton et al. 2015, arXiv:1503.02531, eq. 4). Adam, a rate that falls to zero along half a cosine, batches of 64.

Few images are soon known by heart. Where they may be shifted, each is moved by some pixels anew every time, and the
teacher is asked about what the student sees (Beyer et al. 2022, arXiv:2106.05237: a consistent teacher).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_BATCH, _TEMPERATURE, _SHARE = 64, 2.0, 0.5


def log_probabilities(outputs: Any, *, probabilities: bool) -> Any:
    """Logarithms of what a classifier says, whether it ends in softmax or in logits; up to a constant an example."""
    import tensorflow as tf

    return tf.math.log(tf.maximum(outputs, 1e-9)) if probabilities else outputs


def cross_entropy(*, probabilities: bool) -> Callable[[Any, Any], Any]:
    """Loss of each example from labels and outputs."""
    import tensorflow as tf

    def loss(labels: Any, outputs: Any) -> Any:
        logits = log_probabilities(outputs, probabilities=probabilities)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)

    return loss


def fine_tune(
    model: Any, teacher: Any | None, x: Any, y: Any, *, probabilities: bool, epochs: int, rate: float, seed: int,
    mirror: bool = False, shift: int = 0, progress: Callable[[str], None],
) -> None:  # fmt: skip
    """Train ``model`` in place.

    Args:
        teacher: of the same outputs, or None.
        x: float32 [N, ...] as the model takes them.
        y: int32 [N].
        mirror: images, [N, H, W, C], are taken left for right as well.
        shift: images are moved by up to so many pixels each way; what comes in from outside is mirrored at the border.
    """
    import keras
    import tensorflow as tf

    if mirror and x.ndim == 4:
        x, y = np.concatenate([x, x[:, :, ::-1]]), np.concatenate([y, y])
    steps = epochs * math.ceil(len(x) / _BATCH)
    optimiser = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, max(1, steps)))
    loss_of = cross_entropy(probabilities=probabilities)
    shift = shift if x.ndim == 4 else 0
    lessons = None if teacher is None or shift else teacher.predict(x, batch_size=256, verbose=0)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any, labels: Any, lesson: Any) -> Any:
        with tf.GradientTape() as tape:
            out = model(batch, training=True)
            loss = tf.reduce_mean(loss_of(labels, out))
            if teacher is not None:
                if lessons is None:
                    lesson = teacher(batch, training=False)
                ours = tf.nn.log_softmax(log_probabilities(out, probabilities=probabilities) / _TEMPERATURE)
                theirs = tf.nn.log_softmax(log_probabilities(lesson, probabilities=probabilities) / _TEMPERATURE)
                distance = tf.reduce_sum(tf.exp(theirs) * (theirs - ours), axis=-1)
                loss = (1 - _SHARE) * loss + _SHARE * _TEMPERATURE**2 * tf.reduce_mean(distance)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    random = np.random.default_rng([seed, 0xF17E])
    for epoch in range(1, epochs + 1):
        order, total = random.permutation(len(x)), 0.0
        for start in range(0, len(x), _BATCH):
            rows = order[start : start + _BATCH]
            lesson = tf.constant(0.0) if lessons is None else tf.constant(lessons[rows])
            seen = shifted(x[rows], shift, random) if shift else x[rows]
            total += float(step(tf.constant(seen), tf.constant(y[rows]), lesson)) * len(rows)
        progress(f"fine-tuning, epoch {epoch} of {epochs}: loss {total / len(x):.3f}")


def shifted(x: Any, most: int, random: np.random.Generator) -> Any:
    """Images [N, H, W, C], each moved by up to ``most`` pixels up or down and left or right."""
    count, height, width = x.shape[:3]
    most = min(most, height - 1, width - 1)
    wide = np.pad(x, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    down, right = random.integers(0, 2 * most + 1, (2, count))
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    return np.ascontiguousarray(wide[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])
