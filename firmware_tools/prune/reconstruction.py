"""Weights that are left, fitted to what the whole layer gave: least squares, layer by layer, from input to output.

With rows A of the pruned layer's inputs (patches, for a convolution) over some examples and places, and Z what the
whole model's layer gives there before its activation, in the channels that are left:

    W = W_cut + (A^T A + lambda I)^-1 A^T (Z - A W_cut),    lambda = 1e-3 of the mean of the diagonal

a bias among the weights where the layer has one. A is taken from the model whose earlier layers were fitted already, so
each layer also makes up for what those before it could not (as in He, Zhang, Sun 2017, arXiv:1707.06168, section
3.2.2). What batch normalisation knows of a channel stays true, since the channel stays what it was. No label is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from firmware_tools.prune.channels import Channels

_ROWS = 20_000
_SHRINKAGE = 1e-3


def reconstruct(model: Any, small: Any, channels: Channels, gone: set[int], x: Any, *, seed: int = 0) -> int:
    """Fit the layers of ``small``, which ``without`` made of ``model``, in place; returns how many.

    Args:
        x: float32 [N, ...] examples as the model takes them.
    """
    import keras

    fitted = 0
    random = np.random.default_rng([seed, 0x4F])
    for use in channels.uses:
        layer = small.get_layer(use.layer)
        kind = type(layer).__name__
        if use.kind != "dense" or kind not in ("Conv2D", "Dense") or channels.mask(use.read, gone).all():
            continue
        whole = model.get_layer(use.layer)
        places = int(np.prod(whole.output.shape[1:-1]))
        examples = x[random.permutation(len(x))[: max(32, 2 * _ROWS // max(1, places))]]
        ours = keras.Model(small.inputs, layer.input).predict(examples, batch_size=64, verbose=0)
        theirs = keras.Model(model.inputs, whole.input).predict(examples, batch_size=64, verbose=0)
        rows = np.sort(random.permutation(len(examples) * places)[:_ROWS])
        a, b = patches(layer, ours)[rows], patches(whole, theirs)[rows]
        made = channels.mask(use.made, gone)
        wanted = b @ matrix_of(whole)[:, made]
        cut = matrix_of(layer)
        square = a.T @ a
        square += _SHRINKAGE * float(np.trace(square)) / len(square) * np.eye(len(square))
        matrix = cut + np.linalg.solve(square, a.T @ (wanted - a @ cut))
        _put(layer, matrix)
        fitted += 1
    return fitted


def patches(layer: Any, values: Any) -> Any:
    """What the layer multiplies with its weights, float64 [N * places, weights]; a last one for its bias."""
    if type(layer).__name__ == "Dense":
        flat = values.reshape(-1, values.shape[-1])
    else:
        import tensorflow as tf

        flat = tf.image.extract_patches(
            values, [1, *layer.kernel_size, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1],
            layer.padding.upper(),
        ).numpy()  # fmt: skip
        flat = flat.reshape(-1, flat.shape[-1])
    flat = flat.astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))]) if layer.use_bias else flat


def matrix_of(layer: Any) -> Any:
    """Its kernel as float64 [weights, outputs], in the order of :func:`patches`."""
    kernel, *bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
    flat = kernel.reshape(-1, kernel.shape[-1])
    return np.vstack([flat, bias[0][None]]) if bias else flat


def _put(layer: Any, matrix: Any) -> None:
    kernel, *bias = layer.get_weights()
    size = kernel.size // kernel.shape[-1]
    layer.set_weights([matrix[:size].reshape(kernel.shape), *([matrix[size]] if bias else [])])
