"""Optimisers that can be compiled into a head, one row each.

An optimiser names its state per tensor (variables of the tensor's shape, zeroed by ``write``) and maps a gradient to
a step. ``step`` is the count of steps since ``write``, 1 at the first, float32 [1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from protos.model.manifest import CORRECTION as CORRECTION_NAME
from protos.model.manifest import TrainInput

_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True, slots=True)
class Optimiser:
    """A row of the table.

    ``apply(variable, gradient, slots, inputs, step)`` assigns the new value of ``variable`` and of its ``slots``.
    """

    slots: tuple[str, ...]
    apply: Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any], Any], None]
    meaning: str
    inputs: tuple[TrainInput, ...]


def _sgd(variable: Any, gradient: Any, slots: Mapping[str, Any], inputs: Mapping[str, Any], step: Any) -> None:
    velocity = inputs["momentum"] * slots["velocity"] + gradient
    slots["velocity"].assign(velocity)
    variable.assign_sub(inputs["rate"] * velocity)


def _adam(variable: Any, gradient: Any, slots: Mapping[str, Any], inputs: Mapping[str, Any], step: Any) -> None:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1."""
    beta1, beta2 = inputs["beta1"], inputs["beta2"]
    first = beta1 * slots["first"] + (1.0 - beta1) * gradient
    second = beta2 * slots["second"] + (1.0 - beta2) * tf.square(gradient)
    slots["first"].assign(first)
    slots["second"].assign(second)
    unbiased_first = first / (1.0 - tf.pow(beta1, step))
    unbiased_second = second / (1.0 - tf.pow(beta2, step))
    variable.assign_sub(inputs["rate"] * unbiased_first / (tf.sqrt(unbiased_second) + _EPSILON))


OPTIMISERS: dict[str, Optimiser] = {
    "sgd": Optimiser(
        ("velocity",),
        _sgd,
        "stochastic gradient descent with heavy-ball momentum",
        (
            TrainInput("rate", 0.1, 0.0, 100.0, "learning rate"),
            TrainInput("momentum", 0.0, 0.0, 0.9999, "heavy-ball momentum; 0 is plain gradient descent"),
        ),
    ),
    "adam": Optimiser(
        ("first", "second"),
        _adam,
        "Adam",
        (
            TrainInput("rate", 0.003, 0.0, 100.0, "learning rate"),
            TrainInput("beta1", 0.9, 0.0, 0.9999, "decay of the mean of gradients"),
            TrainInput("beta2", 0.999, 0.0, 0.999999, "decay of the mean of squared gradients"),
        ),
    ),
}

PROXIMAL = TrainInput("proximal_mu", 0.0, 0.0, 1e3, "pull towards the head as written: mu of FedProx, arXiv:1812.06127")
CORRECTION = TrainInput(
    CORRECTION_NAME,
    0.0,
    0.0,
    1.0,
    "1 adds what `correct` was given to each gradient: c - c_i of SCAFFOLD, arXiv:1910.06378",
)
WEIGHT_DECAY = TrainInput(
    "weight_decay",
    0.01,
    0.0,
    10.0,
    "L2 penalty on kernels; small shards overfit a head without it",
)
