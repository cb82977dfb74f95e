"""Arithmetic of head trees: names and shapes, starting values, and the standardisation of features.

A head is one or two affine layers. It is trained on *standardised* features ``(x - mean) * scale``: every feature has
the same deviation, and the squared length of a feature vector is 64 on average whatever its width, since that length
bounds the rate at which gradient descent is stable. So one learning rate suits every backbone. The tree always travels
in that space. A deployed model wants plain weights on plain embeddings; the two forms describe the same function:

    standardised:  z = ((x - mean) * scale) @ K' + b'
    plain:         z = x @ K + b      with  K = scale[:, None] * K',  b = b' - (mean * scale) @ K'

Only the layer that reads the embedding is concerned: ``hidden_kernel``/``hidden_bias`` when there is a hidden
layer, else ``out_kernel``/``out_bias``. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protos.errors import NonFiniteError, ShapeError

Array = npt.NDArray[np.float32]
Tree = dict[str, Array]

# A feature that hardly moves on the calibration data would be blown up without bound when divided by its own
# deviation, and one that is dead there would divide by zero. No deviation counts as less than this share of the
# root mean square deviation over all features.
DEVIATION_FLOOR = 0.1
MEAN_SQUARE_LENGTH = 64.0


def head_shapes(width: int, classes: int, hidden_units: int | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tree of a head, sorted by name.

    >>> head_shapes(64, 10)
    {'out_bias': (10,), 'out_kernel': (64, 10)}
    """
    if hidden_units is None:
        return {"out_bias": (classes,), "out_kernel": (width, classes)}
    return {
        "hidden_bias": (hidden_units,),
        "hidden_kernel": (width, hidden_units),
        "out_bias": (classes,),
        "out_kernel": (hidden_units, classes),
    }


def check_tree(
    tree: Mapping[str, npt.ArrayLike],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    where: str | None = None,
    finite: bool = True,
) -> Tree:
    """The tree as contiguous float32 arrays, sorted by name.

    Raises:
        ShapeError: a tensor is missing, is not of this head, has another shape, or holds no real numbers.
        NonFiniteError: a tensor holds NaN or infinity, and ``finite`` is asked for.
    """
    missing, strange = sorted(set(shapes) - set(tree)), sorted(set(tree) - set(shapes))
    if missing or strange:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown tensors {', '.join(strange)}"
        raise ShapeError(f"the head {what}; its tensors are {', '.join(sorted(shapes))}", where=where)
    checked: Tree = {}
    for name in sorted(shapes):
        value = np.asarray(tree[name])
        if value.dtype.kind not in "fiu":
            raise ShapeError(f"tensor {name} holds {value.dtype}, not real numbers", where=where)
        if value.shape != tuple(shapes[name]):
            raise ShapeError(
                f"tensor {name} has shape {list(value.shape)}, the head needs {list(shapes[name])}", where=where
            )
        checked[name] = np.ascontiguousarray(value, np.float32)
        if finite and not np.isfinite(checked[name]).all():
            raise NonFiniteError(f"tensor {name} holds NaN or infinity", where=where)
    return checked


def fold_targets(tree: Mapping[str, npt.ArrayLike], mean: npt.ArrayLike, scale: npt.ArrayLike) -> Tree:
    """The head whose outputs are those of ``tree`` times ``scale`` plus ``mean``, [K] each: quantities in their own
    units from standardised ones."""
    gain = np.asarray(scale, np.float64)
    new = {**tree, "out_kernel": np.asarray(tree["out_kernel"], np.float64) * gain}
    new["out_bias"] = np.asarray(tree["out_bias"], np.float64) * gain + np.asarray(mean, np.float64)
    return {name: np.array(new[name], np.float32) for name in sorted(new)}


def outputs_of(tree: Mapping[str, Array], features: npt.ArrayLike, *, residual: bool) -> Array:
    """Outputs of a head on features of its own space; of one that reconstructs them, less the features themselves.

    Args:
        features: real [N, D].
        residual: whether it reconstructs: an anomaly head with a hidden layer.

    Returns:
        float32 [N, K].
    """
    outputs = logits_of(tree, features)
    return outputs - np.asarray(features, np.float32) if residual else outputs


def _first_layer(tree: Mapping[str, npt.ArrayLike]) -> tuple[str, str]:
    return ("hidden_kernel", "hidden_bias") if "hidden_kernel" in tree else ("out_kernel", "out_bias")


def _rewritten(tree: Mapping[str, npt.ArrayLike], kernel: npt.ArrayLike, bias: npt.ArrayLike) -> Tree:
    kernel_name, bias_name = _first_layer(tree)
    new: dict[str, npt.ArrayLike] = {**tree, kernel_name: kernel, bias_name: bias}
    return {name: np.array(new[name], np.float32) for name in sorted(new)}


def fold_standardisation(tree: Mapping[str, npt.ArrayLike], mean: npt.ArrayLike, scale: npt.ArrayLike) -> Tree:
    """The same head for plain embeddings: what an exported model holds. Nothing is shared with ``tree``.

    Args:
        tree: head in standardised space.
        mean: float32 [D], what is subtracted from the embedding.
        scale: float32 [D], what the difference is multiplied with.

    >>> tree = {"out_kernel": np.array([[2.0], [3.0]]), "out_bias": np.array([1.0])}
    >>> plain = fold_standardisation(tree, mean=[10.0, 0.0], scale=[0.5, 1.0])
    >>> plain["out_kernel"].ravel().tolist(), plain["out_bias"].tolist()
    ([1.0, 3.0], [-9.0])
    """
    kernel_name, bias_name = _first_layer(tree)
    kernel, bias = np.asarray(tree[kernel_name], np.float64), np.asarray(tree[bias_name], np.float64)
    middle, factor = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
    plain = factor[:, None] * kernel
    return _rewritten(tree, plain, bias - middle @ plain)


def apply_standardisation(tree: Mapping[str, npt.ArrayLike], mean: npt.ArrayLike, scale: npt.ArrayLike) -> Tree:
    """The inverse of `fold_standardisation`: a plain head moved into standardised space, same function.

    Args:
        tree: head for plain embeddings.
        mean: float32 [D].
        scale: float32 [D], no zeros.
    """
    kernel_name, bias_name = _first_layer(tree)
    kernel, bias = np.asarray(tree[kernel_name], np.float64), np.asarray(tree[bias_name], np.float64)
    middle, factor = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
    return _rewritten(tree, kernel / factor[:, None], bias + middle @ kernel)


def standardisation_of(embeddings: npt.ArrayLike) -> tuple[Array, Array]:
    """Mean and scale of calibration embeddings, for ``(x - mean) * scale``.

    Args:
        embeddings: real [N, D], N >= 1, in the units that the head will see.

    Returns:
        mean and scale, both float32 [D]; ``scale`` is finite and positive whatever the features do: a dead
        feature, or one of far less than the usual spread, gets the floor of `DEVIATION_FLOOR`.

    >>> mean, scale = standardisation_of([[0.0, 5.0], [2.0, 9.0]])  # deviations 1 and 2, sqrt(64 / 2) = 5.657
    >>> mean.tolist(), [round(float(one), 3) for one in scale]
    ([1.0, 7.0], [5.657, 2.828])
    """
    values = np.asarray(embeddings, np.float64)
    deviation = values.std(axis=0)
    usual = float(np.sqrt(np.mean(deviation**2)))
    floor = DEVIATION_FLOOR * usual if usual > 0 else 1.0
    spread = math.sqrt(MEAN_SQUARE_LENGTH / values.shape[1])
    return values.mean(axis=0).astype(np.float32), (spread / np.maximum(deviation, floor)).astype(np.float32)


def standardised_deviation(scale: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The deviation of each feature on calibration data, float64 [D], in units of the embedding, from the scale that
    :func:`standardisation_of` made of it; of features under the floor, the floor."""
    factor = np.asarray(scale, np.float64)
    deviation: npt.NDArray[np.float64] = math.sqrt(MEAN_SQUARE_LENGTH / factor.size) / factor
    return deviation


def untrained_head(
    width: int, classes: int, hidden_units: int | None = None, *, seed: int = 0, uniform: bool = False
) -> Tree:
    """A head before any training, in standardised space.

    The last layer is zero, so that every class starts equally likely; a hidden layer starts from He's normal
    initialisation (He et al. 2015, arXiv:1502.01852, eq. 10) for features of mean square length 64 (so its variance is
    2/64, not 2/width), drawn from ``seed``; or from the uniform distribution of the same variance, which a grid of few
    levels serves best: it has no tails for the range to cover.
    """
    tree: Tree = {
        name: np.zeros(shape, np.float32) for name, shape in head_shapes(width, classes, hidden_units).items()
    }
    if hidden_units is not None:
        random = np.random.default_rng([seed, 0x4EAD])
        size = (width, hidden_units)
        draw = random.uniform(-math.sqrt(3), math.sqrt(3), size) if uniform else random.standard_normal(size)
        tree["hidden_kernel"] = (draw * math.sqrt(2.0 / MEAN_SQUARE_LENGTH)).astype(np.float32)
    return tree


def logits_of(tree: Mapping[str, Array], features: npt.ArrayLike) -> Array:
    """Class scores of a head on features of its own space (numpy reference of the compiled head).

    Args:
        tree: the head.
        features: real [N, D]: standardised features for a travelling tree, embeddings for a folded one.

    Returns:
        float32 [N, C].
    """
    value = np.asarray(features, np.float32)
    if "hidden_kernel" in tree:
        value = np.maximum(value @ tree["hidden_kernel"] + tree["hidden_bias"], 0)
    result: Array = value @ tree["out_kernel"] + tree["out_bias"]
    return result
