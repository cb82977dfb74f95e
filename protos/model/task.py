"""What a head is for, and the measures that it is judged by. numpy only.

A head gives K numbers for an embedding. What they mean is the task, and follows from the objective that the head was
compiled with:

    classification  scores of K classes; the greatest wins                            accuracy
    regression      K quantities in their own units                                   RMSE and R2
    anomaly         K deviations; their mean square is the score of an example        AUC
    diffusion       the noise in a latent (`protos/model/head_kinds/diffusion.py`)    R2: the share that is explained

Deviations are whitened embeddings (Mahalanobis, the distance from what is normal counted in its own spread: Lee, Lee,
Lee, Shin: "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018); or, of a head with a hidden layer, what is left of an embedding when its reconstruction is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSIFICATION, REGRESSION, ANOMALY, DIFFUSION = "classification", "regression", "anomaly", "diffusion"
NORMAL = 0
"""The label of an example in which nothing is wrong."""
MEASURES = {CLASSIFICATION: "accuracy", REGRESSION: "R2", ANOMALY: "AUC", DIFFUSION: "R2"}
"""By task, what heads are ranked by: a share of right answers, of explained variance, of pairs in their right order."""

Reals = npt.NDArray[np.float64]


def task_of(objective: str) -> str:
    """The task of heads with this objective; those of installed packages are classifiers.

    >>> task_of("regression"), task_of("kure")
    ('regression', 'classification')
    """
    return objective if objective in (REGRESSION, ANOMALY, DIFFUSION) else CLASSIFICATION


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good the outputs of a regression or of an anomaly head are.

    Attributes:
        loss: mean squared error over all outputs, in their own units; of anomalies, the mean score of normal examples.
        score: R2, the mean over outputs; or AUC. None where the examples cannot tell: AUC needs normal examples and
            anomalies.
        rmse: root mean squared error of each output, in its own unit; empty for anomalies.
    """

    loss: float
    score: float | None
    rmse: tuple[float, ...] = ()


def judged_quantities(outputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Judgement:
    """RMSE_k = sqrt(mean (z_k - y_k)^2), and R2 = mean over k of 1 - RMSE_k^2 / variance of y_k.

    An output that is constant over the examples counts 1 where it is met exactly, and else 0.

    Args:
        outputs, targets: [N, K], N >= 1.

    >>> found = judged_quantities(np.array([[1.0], [3.0]]), np.array([[0.0], [4.0]]))
    >>> found.loss, found.score, found.rmse
    (1.0, 0.75, (1.0,))
    """
    wanted = targets.astype(np.float64)
    squared = np.square(outputs.astype(np.float64) - wanted).mean(axis=0)
    variance = wanted.var(axis=0)
    flat = variance <= 0
    share = np.where(flat, (squared <= 0).astype(np.float64), 1.0 - squared / np.where(flat, 1.0, variance))
    return Judgement(float(squared.mean()), float(share.mean()), tuple(np.sqrt(squared).tolist()))


def scores_of(outputs: npt.NDArray[Any]) -> Reals:
    """Anomaly scores [N] of deviations [N, K]: their mean squares. About 1 for normal examples, if whitened."""
    scores: Reals = np.square(outputs.astype(np.float64)).mean(axis=1)
    return scores


def judged_scores(scores: Reals, labels: npt.NDArray[Any]) -> Judgement:
    """AUC of anomaly scores, and the mean score of normal examples (NaN where there is none).

    Args:
        scores: [N]; labels: [N], :data:`NORMAL` or anything else.
    """
    normal = labels == NORMAL
    loss = float(scores[normal].mean()) if normal.any() else float("nan")
    return Judgement(loss, auc(scores[normal], scores[~normal]))


def auc(normal: Reals, anomalies: Reals) -> float | None:
    """The chance that an anomaly scores higher than a normal example, ties counted half; None without both.

    The Mann-Whitney statistic over ranks: (sum of the ranks of anomalies - m (m + 1) / 2) / (m n).

    >>> auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    n, m = len(normal), len(anomalies)
    if not n or not m:
        return None
    _, place, count = np.unique(np.concatenate([anomalies, normal]), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks = (last - (count - 1) / 2.0)[place.reshape(-1)]
    return float((ranks[:m].sum() - m * (m + 1) / 2.0) / (m * n))


def whitened_head(middle: Reals, covariance: Reals, shrinkage: float) -> tuple[Reals, Reals]:
    """Kernel [D, D] and bias [D] whose outputs have the squared length (z - middle)^T R^-1 (z - middle).

    R = S + shrinkage * tr(S) / D * I = V diag(v) V^T, kernel V diag(1 / sqrt(v)), bias -middle kernel. The mean of
    their squares is the Mahalanobis distance over D.

    Args:
        middle: [D]; covariance: S, [D, D]; of the embeddings of normal examples.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, 0.0)
    mean_value = float(values.mean())
    # Embeddings that never vary have nothing to be divided by.
    shrunk = values + shrinkage * (mean_value if mean_value > 0 else 1.0)
    kernel: Reals = vectors / np.sqrt(shrunk)[None, :]
    return kernel, -middle @ kernel
