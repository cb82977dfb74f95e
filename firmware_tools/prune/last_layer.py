"""The last dense layer fitted anew to examples: a classifier of what the layers before it give, which stay as they are.

Where a model meets images of another kind than those that it was trained on, most of what it loses it loses here, and
most comes back without a step through the layers before. Minimised over W, with x standardised features and a one:

    mean of cross-entropy(softmax(x W), y) + (p / 2) tr(W^T W)

in steps of the bound 1/2 on the curvature of the softmax (Böhning 1992), which cannot overshoot:

    W <- W + (G / 2 + p I)^-1 [X^T (one-hot(y) - softmax(X W)) / n - p W],    G = X^T X / n

p is the one of three that serves a fifth of the examples best; the layer is then fitted to all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import ModelError

Reals = npt.NDArray[np.float64]

PENALTIES = (1e-1, 1e-2, 1e-3)
_STEPS = 200


def refit(model: Any, x: Any, y: Any, *, where: str, seed: int = 0) -> float:
    """Fit the last layer in place; returns the penalty that was chosen.

    Args:
        x: float32 [N, ...] as the model takes them.
        y: int32 [N].

    Raises:
        ModelError: the model does not end in a dense layer, with or without softmax.
    """
    import keras

    layer = _last(model, where)
    part = keras.Model(model.inputs, layer.input)
    features = np.asarray(part.predict(x, batch_size=256, verbose=0), np.float64)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = 1.0 / np.maximum(spread, 1e-3 * max(float(spread.mean()), 1e-12))
    wide = np.hstack([(features - mean) * scale, np.ones((len(features), 1))])
    hard = np.eye(int(layer.units))[y]
    order = np.random.default_rng([seed, 0x1A57]).permutation(len(y))
    held, rest = order[: len(y) // 5], order[len(y) // 5 :]
    losses = {penalty: _loss(wide[held] @ _fitted(wide[rest], hard[rest], penalty), hard[held])
              for penalty in PENALTIES} if len(held) else {PENALTIES[0]: 0.0}  # fmt: skip
    best = min(losses, key=lambda penalty: losses[penalty])
    found = _fitted(wide, hard, best)
    kernel = found[:-1] * scale[:, None]
    layer.set_weights([kernel.astype(np.float32), (found[-1] - mean @ kernel).astype(np.float32)])
    return best


def _last(model: Any, where: str) -> Any:
    layers = [layer for layer in model.layers if type(layer).__name__ != "Dropout"]
    while layers and (
        type(layers[-1]).__name__ == "Softmax"
        or (type(layers[-1]).__name__ == "Activation" and layers[-1].activation.__name__ in ("softmax", "linear"))
    ):
        layers.pop()
    last: Any = layers[-1] if layers else None
    if (
        type(last).__name__ != "Dense"
        or last.activation.__name__ not in ("linear", "softmax")
        or len(last.output.shape) != 2
        or not last.use_bias
    ):
        raise ModelError("does not end in a dense layer with a bias that could be fitted", where=where,
                         fix="leave --refit out")  # fmt: skip
    return last


def _fitted(x: Reals, hard: Reals, penalty: float) -> Reals:
    gram = x.T @ x / len(x)
    solver = np.linalg.inv(0.5 * gram + penalty * np.eye(len(gram)))
    found = np.zeros((x.shape[1], hard.shape[1]))
    for _ in range(_STEPS):
        found = found + solver @ (x.T @ (hard - _softmax(x @ found)) / len(x) - penalty * found)
    return found


def _softmax(scores: Reals) -> Reals:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Reals = raised / raised.sum(axis=1, keepdims=True)
    return found


def _loss(scores: Reals, hard: Reals) -> float:
    return -float(np.log(np.maximum((_softmax(scores) * hard).sum(axis=1), 1e-12)).mean())
