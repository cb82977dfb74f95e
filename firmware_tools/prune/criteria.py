"""How much a channel matters, by criterion: the larger the score, the more is lost with it.

l1      the sum of the absolute weights of its filter (Li et al. 2017, arXiv:1608.08710; FL-PQSU takes it too). It needs
        no data, and says nothing across layers.
taylor  the squared change of the loss when the channel is set to zero, to first order: (sum over places of activation
        times gradient)^2, mean over examples (Molchanov et al. 2019, arXiv:1906.10771, eq. 8, with a gate for each
        channel). One scale for all layers.
least_squares   what no other channel could make up for in the layers that read it: `least_squares.py`.

What falls together is scored together: scores of filters that a residual add joins are summed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from firmware_tools.prune.channels import Channels

CRITERIA = ("taylor", "least_squares", "l1")
_BATCH = 64


def l1(model: Any, channels: Channels) -> dict[int, float]:
    """Score of each root."""
    sums: dict[str, Any] = {}
    found: dict[int, float] = {}
    for root, members in channels.members().items():
        for layer, index in members:
            if layer not in sums:
                kernel = np.asarray(model.get_layer(layer).get_weights()[0], np.float64)
                sums[layer] = np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(axis=0)
            found[root] = found.get(root, 0.0) + float(sums[layer][index])
    return found


def taylor(model: Any, channels: Channels, x: Any, y: Any, loss: Any) -> dict[int, float]:
    """Score of each root.

    Args:
        x: float32 [N, ...] as the model takes them.
        y: int32 [N].
        loss: maps labels and outputs to the loss of each example [B].
    """
    import keras
    import tensorflow as tf

    names = list(dict.fromkeys(layer for layer, _ in channels.maker.values()))
    tapped = keras.Model(model.inputs, [*(model.get_layer(name).output for name in names), model.outputs[0]])
    sums = {name: np.zeros(model.get_layer(name).output.shape[-1]) for name in names}

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def gates(batch: Any, labels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            *middle, out = tapped(batch, training=False)
            total = tf.reduce_sum(loss(labels, out))
        slopes = tape.gradient(total, middle, unconnected_gradients="zero")
        scores = []
        for value, slope in zip(middle, slopes, strict=True):
            product = value * slope
            gate = tf.reduce_sum(product, axis=list(range(1, len(product.shape) - 1)))
            scores.append(tf.reduce_sum(tf.square(gate), axis=0))
        return scores

    for start in range(0, len(x), _BATCH):
        piece = slice(start, start + _BATCH)
        for name, score in zip(names, gates(tf.constant(x[piece]), tf.constant(y[piece])), strict=True):
            sums[name] += score.numpy()
    return {
        root: sum(float(sums[layer][index]) for layer, index in members) / len(x)
        for root, members in channels.members().items()
    }
