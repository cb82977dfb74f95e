"""Weights of an integer backbone trained on with the float model as their teacher (quantisation-aware fine-tuning).

What the integer file computes is emulated in real numbers (:mod:`firmware_tools.convert.quality.emulation`) and its
weights move until it gives what the float model gives. The head behind it need not know. Loss over a batch, with e the
float embeddings, q those of the integers, and p the softmax of the model's own last layer on them, where there is one:

    sum |q - e|^2 / E|e|^2  +  a KL(p_e || p_q)  +  (1 - a) cross-entropy(p_q, label),    a = 1/2

(Hinton et al. 2015, arXiv:1503.02531, eq. 4; for few bits Mishra and Marr 2018, arXiv:1711.05852.) Adam, with a rate
that falls to zero along half a cosine; of the weights in units of their range, so that a step of 1e-4 is an eightieth
of a code.

Examples that were not trained on judge: what does not come nearer to the float model there, by the file itself, is not
kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from firmware_tools.convert.quality.emulation import Emulation
from protos.datafiles.stored import Rows, taken
from protos.errors import ModelError
from protos.model.head_algebra import Array, Tree, logits_of

BATCH = 32
# Of the examples, these judge: a tenth, but no more than say enough.
_JUDGING_SHARE, _MOST_JUDGES = 0.1, 512
# The emulation may differ from the file by this share of the energy of the embeddings, and not by more than so often
# what integers lose: else what is trained is another model.
_FAITHFUL, _FAITHFUL_SHARE = 1e-3, 0.5
_SHARE = 0.5
_LINES = 10


@dataclass(frozen=True, slots=True)
class TuningData:
    """What is trained on.

    Attributes:
        inputs: raw examples [N, ...], in memory or in their file; read in batches.
        real: raw examples to what the integer backbone takes in real numbers, float32.
        teach: raw examples to float embeddings, float32 [n, D].
        tail: the model's own last layer, or None.
        labels: int32 [N], of the classes of the tail; read where there is one.
        steps: how many.
        rate: learning rate, in ranges of weights.
        seed: for the order of the examples.
    """

    inputs: Rows
    real: Callable[[npt.NDArray[Any]], Array]
    teach: Callable[[npt.NDArray[Any]], Array]
    tail: Tree | None
    labels: npt.NDArray[np.int32]
    steps: int
    rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """The file, and its loss on the judging examples before and after."""

    content: bytes
    before: float
    after: float
    trained_on: int
    judged_on: int


def fine_tuned(
    real: bytes,
    integer: bytes,
    data: TuningData,
    embed: Callable[[bytes, npt.NDArray[Any]], Array],
    progress: Callable[[str], None],
    *,
    where: str,
) -> Tuned:
    """Train, and judge by the file itself.

    Args:
        real: float32 .tflite.
        integer: int8 .tflite made of it.
        embed: dequantised embeddings of raw examples by a file.

    Raises:
        ModelError: an operator that is not known here, or the emulation differs from the file.
    """
    emulation = Emulation(integer, real, where=where)
    order = np.random.default_rng([data.seed, 0x9A7]).permutation(len(data.inputs))
    judges = min(_MOST_JUDGES, max(1, round(_JUDGING_SHARE * len(order))))
    held, rows = np.sort(order[:judges]), order[judges:]
    judged = taken(data.inputs, held)
    wanted = data.teach(judged)
    energy = max(float(np.square(wanted).sum(axis=1).mean()), 1e-30)

    def loss_of(found: Array) -> float:
        error = float(np.square(found - wanted).sum(axis=1).mean()) / energy
        return error + (0.0 if data.tail is None else _told(data.tail, wanted, found, data.labels[held]))

    before = embed(integer, judged)
    _require_faithful(emulation, integer, data, judged, before, float(np.square(before - wanted).sum()), embed, where)
    _train(emulation, data, rows, energy, progress)
    content = emulation.written()
    return Tuned(content, loss_of(before), loss_of(embed(content, judged)), len(rows), judges)


def _told(tail: Tree, wanted: Array, found: Array, labels: npt.NDArray[np.int32]) -> float:
    """What the last layer says: a KL + (1 - a) cross-entropy, mean over the examples, nats."""
    one, other = (_log_softmax(logits_of(tail, values)) for values in (wanted, found))
    divergence = float((np.exp(one) * (one - other)).sum(axis=1).mean())
    return _SHARE * divergence - (1.0 - _SHARE) * float(other[np.arange(len(labels)), labels].mean())


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def _require_faithful(
    emulation: Emulation, integer: bytes, data: TuningData, judged: npt.NDArray[Any], given: Array, lost: float,
    embed: Callable[[bytes, npt.NDArray[Any]], Array], where: str,
) -> None:  # fmt: skip
    """The emulation computes what the file with its weights computes.

    Its own codes are written first: those of the file may have other scales, where layers were equalised.
    """
    some = judged[:BATCH]
    own = embed(emulation.written(), some)
    found = np.asarray(emulation(tf.constant(data.real(some))))
    off = float(np.square(found - own).sum())
    allowed = max(
        _FAITHFUL * float(np.square(given[: len(some)]).sum()), _FAITHFUL_SHARE * lost * len(some) / len(judged)
    )
    if not off <= allowed:
        raise ModelError(
            f"cannot be fine-tuned as integers: computed in real numbers it is {off / max(allowed, 1e-30):.1f} times "
            "as far from its own integer file as it may be", where=where,
            fix="leave --qat out; --equalise and --bias-correction need no training",
        )  # fmt: skip


def _batches(rows: npt.NDArray[Any], steps: int, seed: int) -> Iterator[npt.NDArray[Any]]:
    """``steps`` batches of rows: all in a new order, again and again."""
    rng, size, left = np.random.default_rng([seed, 0xBA7]), min(BATCH, len(rows)), rows[:0]
    for _ in range(steps):
        if len(left) < size:
            left = rng.permutation(rows)
        yield np.sort(left[:size])
        left = left[size:]


def _train(
    emulation: Emulation, data: TuningData, rows: npt.NDArray[Any], energy: float, progress: Callable[[str], None]
) -> None:
    variables = emulation.variables
    slots = [(tf.Variable(tf.zeros_like(variable)), tf.Variable(tf.zeros_like(variable))) for variable in variables]
    tail = None if data.tail is None else {name: tf.constant(value) for name, value in data.tail.items()}

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any, wanted: Any, labels: Any, rate: Any, number: Any) -> Any:
        with tf.GradientTape() as tape:
            found = emulation(x)
            loss = tf.reduce_mean(tf.reduce_sum(tf.square(found - wanted), axis=1)) / energy
            if tail is not None:
                says = tf.nn.softmax(_logits(tail, wanted))
                logits = _logits(tail, found)
                loss += _SHARE * tf.reduce_mean(
                    tf.nn.softmax_cross_entropy_with_logits(says, logits)
                    - tf.nn.softmax_cross_entropy_with_logits(says, _logits(tail, wanted))
                )
                right = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss += (1.0 - _SHARE) * tf.reduce_mean(right)
        # Adam: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1 with its last line in the efficient order.
        size = rate * tf.sqrt(1.0 - tf.pow(0.999, number)) / (1.0 - tf.pow(0.9, number))
        for variable, gradient, (mean, square) in zip(variables, tape.gradient(loss, variables), slots, strict=True):
            mean.assign(0.9 * mean + 0.1 * gradient)
            square.assign(0.999 * square + 0.001 * tf.square(gradient))
            variable.assign_sub(size * mean / (tf.sqrt(square) + 1e-8))
        return loss

    shown, losses = max(1, data.steps // _LINES), []
    for number, batch in enumerate(_batches(rows, data.steps, data.seed)):
        raw = taken(data.inputs, batch)
        rate = data.rate * 0.5 * (1.0 + math.cos(math.pi * number / data.steps))
        values = (data.real(raw), data.teach(raw), data.labels[batch], np.float32(rate), np.float32(number + 1))
        losses.append(float(step(*(tf.constant(value) for value in values))))
        if (number + 1) % shown == 0:
            progress(f"fine-tuning as integers: step {number + 1} of {data.steps}, loss {np.mean(losses):.4g}")
            losses = []


def _logits(tail: dict[str, Any], embeddings: Any) -> Any:
    if "hidden_kernel" in tail:
        embeddings = tf.nn.relu(tf.matmul(embeddings, tail["hidden_kernel"]) + tail["hidden_bias"])
    return tf.matmul(embeddings, tail["out_kernel"]) + tail["out_bias"]
