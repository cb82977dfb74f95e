"""Forward distillation into a linear head on a frozen backbone: soft labels on embeddings of the proxy set.

Minimised over W, with x standardised features and a one for the bias, q the soft labels, T their temperature:

    T^2 sum KL(q(x) || softmax(x W / T)) + (n w / 2) tr((W - W_0)^T M (W - W_0)),     M = G / n + its mean diagonal

W_0 is the head before, which knows what devices have seen and the proxy set may lack; w holds on to it. Steps are
those of the bound 1/2 on the curvature of the softmax (Böhning 1992), which cannot overshoot:

    W <- W + (G / 2 + n w M)^-1 [T X^T (q - softmax(X W / T)) - n w M (W - W_0)]

The T^2 of the loss keeps the size of slopes, and the curvature with T is at most the one without (Hinton et al. 2015).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from coordinator.learning.distillation.consensus import check_distributions, probabilities
from protos.errors import ShapeError
from protos.model.head_algebra import Array, Tree

Reals = npt.NDArray[np.float64]

STEPS = 30
HELD = 0.1


def scores_of(head: Mapping[str, Array], x: npt.NDArray[np.floating]) -> Reals:
    """[N, K] scores of a linear head for standardised features [N, D]."""
    found: Reals = np.asarray(x, np.float64) @ head["out_kernel"].astype(np.float64) + head["out_bias"]
    return found


def learn(
    head: Mapping[str, Array], x: npt.NDArray[np.floating], targets: Reals, *, temperature: float = 1.0,
    held: float = HELD, steps: int = STEPS,
) -> Tree:  # fmt: skip
    """The head after distillation, of the same shapes.

    Args:
        head: linear head as it travels, W_0.
        x: [N, D] standardised features of the proxy set.
        targets: [N, K] soft labels at this temperature.
        held: w; 0: the proxy set alone decides.

    Raises:
        ShapeError: a head with a hidden layer, arrays that do not fit it, soft labels that are no distributions, or no
            example.
    """
    if "hidden_kernel" in head:
        raise ShapeError("distillation in closed steps is for linear heads, and this one has a hidden layer")
    if strange := sorted(set(head) - {"out_bias", "out_kernel"}):
        raise ShapeError(f"distillation in closed steps is for heads alone, and {strange[0]} stands before this one")
    start = np.vstack([head["out_kernel"], head["out_bias"][None]]).astype(np.float64)
    wide = np.hstack([np.asarray(x, np.float64), np.ones((len(x), 1))])
    if wide.shape[1] != start.shape[0] or targets.shape != (len(wide), start.shape[1]):
        raise ShapeError(f"features {list(x.shape)} and soft labels {list(targets.shape)} for a head of "
                         f"{len(start) - 1} inputs and {start.shape[1]} classes")  # fmt: skip
    check_distributions(targets, "soft labels")
    if not (0 <= held < np.inf and np.isfinite(wide).all() and np.isfinite(start).all()):
        raise ShapeError(f"held by {held:g}, or features or a head that are not finite", fix="take 0 or more")
    gram, number = wide.T @ wide, len(wide)
    metric = gram / number
    metric = metric + float(np.trace(metric)) / len(metric) * np.eye(len(metric))
    ridge = 1e-6 * float(np.trace(gram)) / len(gram) * np.eye(len(gram))
    solver = np.linalg.inv(0.5 * gram + number * held * metric + ridge)
    found = start.copy()
    for _ in range(steps):
        slope = temperature * wide.T @ (targets - probabilities(wide @ found, temperature))
        found = found + solver @ (slope - number * held * metric @ (found - start))
    return {"out_bias": found[-1].astype(np.float32), "out_kernel": np.ascontiguousarray(found[:-1], np.float32)}
