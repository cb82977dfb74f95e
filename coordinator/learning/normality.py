"""What is normal, from exact statistics alone: the head whose outputs measure the distance from it.

With the count n, sum s and Gram matrix G of normal embeddings, m = s / n and S = G / n - m m^T; the head whitens by
R = S + lambda tr(S) / D I (:func:`protos.model.task.whitened_head`), and the mean square of its outputs is the
Mahalanobis distance over D. Anomalies have no part in it.

How much to shrink is chosen by held-out data that hold anomalies too (AUC), or by leaving devices out: of the Gaussians
of all others, the one under which what those left out have is most likely,

    -log p = (tr(R^-1 Z) / n_out + log det R) / 2,   Z the scatter of those left out about the others' mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from coordinator.learning.closed_form import ALONE, SHRINKAGES, LinearHead, grouped
from protos.errors import EmptyShardError, NonFiniteError
from protos.model.task import whitened_head
from protos.statistics.moments import Moments, total

Reals = npt.NDArray[np.float64]
NAME = "distance"


def solve_distance(
    parts: Sequence[Moments],
    *,
    shrinkage: float | None = None,
    order: Callable[[Reals, Reals], float | None] | None = None,
) -> LinearHead:
    """The head of the sum of all parts, in units of the embeddings' last digit.

    Args:
        parts: one for each device, each of one class.
        shrinkage: lambda; None: chosen.
        order: AUC of a kernel and a bias on held-out data, None where they cannot tell: the best wins, of equal ones
            the most shrunk. None: devices are left out.

    Raises:
        EmptyShardError: there is no example.
        NonFiniteError: the shrinkage is too small for them.
    """
    whole = total(list(parts), parts[0].classes, parts[0].width) if parts else None
    if whole is None or not whole.examples:
        raise EmptyShardError("no device has a normal example", fix="start devices that have some: label 0")
    middle, covariance = _moments(whole)
    found: tuple[tuple[float, float], ...] = ()
    chosen = "given"
    if shrinkage is None and order is not None:
        looked = [
            (each_shrinkage, order(*whitened_head(middle, covariance, each_shrinkage))) for each_shrinkage in SHRINKAGES
        ]
        found = tuple((one, 1.0 - auc) for one, auc in looked if auc is not None)
        if found:
            shrinkage, chosen = min(found, key=lambda pair: (pair[1], -pair[0]))[0], "chosen by held-out data"
    if shrinkage is None:
        groups = grouped(parts)
        found = _left_out(groups) if len(groups) > 1 else ()
        shrinkage = min(found, key=lambda pair: pair[1])[0] if found else ALONE
        chosen = "chosen by leaving out devices" if found else "taken, since one device alone cannot be left out"
    kernel, bias = whitened_head(middle, covariance, shrinkage)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise NonFiniteError("the closed form has no finite solution", fix="set train.shrinkage to 0.1 or more")
    return LinearHead(kernel, bias, shrinkage, found, 1.0, NAME, chosen, (middle, covariance))


def _moments(part: Moments) -> tuple[Reals, Reals]:
    """Mean [D] and covariance [D, D]."""
    n = float(part.examples)
    middle = part.sums.sum(axis=0) / n
    covariance: Reals = part.square() / n - np.outer(middle, middle)
    return middle, covariance


def _left_out(groups: Sequence[Moments]) -> tuple[tuple[float, float], ...]:
    """By shrinkage, the mean negative log-likelihood of an example that was left out, but for a constant."""
    whole = total(list(groups), groups[0].classes, groups[0].width)
    lost = np.zeros(len(SHRINKAGES))
    for out in groups:
        rest = whole - out
        middle, covariance = _moments(rest)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        values = np.maximum(values, 0.0)
        crossed = np.outer(out.sums.sum(axis=0), middle)
        scatter = out.square() - crossed - crossed.T + out.examples * np.outer(middle, middle)
        spread = np.einsum("ij,ij->j", vectors, scatter @ vectors) / out.examples
        mean_value = float(values.mean())
        for at, shrinkage in enumerate(SHRINKAGES):
            shrunk = values + shrinkage * (mean_value if mean_value > 0 else 1.0)
            lost[at] += out.examples / whole.examples * 0.5 * float((spread / shrunk + np.log(shrunk)).sum())
    return tuple(zip(SHRINKAGES, lost.tolist(), strict=True))
