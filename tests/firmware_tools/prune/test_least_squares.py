"""Scores by least squares, and the last layer fitted anew, against what plain algebra and scikit-learn say."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_tools.prune.last_layer import _fitted
from firmware_tools.prune.least_squares import Reals, _Reader


def _best(square: Reals, weights: Reals, out: list[int]) -> tuple[float, Reals]:
    """The least tr((W - V)^T H (W - V)) over V without these rows, and that V: the normal equations of what is left."""
    rest = np.setdiff1d(np.arange(len(weights)), out)
    fitted = np.zeros_like(weights)
    fitted[rest] = np.linalg.solve(square[np.ix_(rest, rest)], square[rest] @ weights)
    off = weights - fitted
    return float(np.trace(off.T @ square @ off)), fitted


def test_an_error_is_what_the_best_fit_of_the_rest_leaves_one_channel_after_the_other() -> None:
    random = np.random.default_rng(4)
    a = random.normal(size=(400, 12)) @ random.normal(size=(12, 12))
    square, weights = a.T @ a / len(a), random.normal(size=(12, 5))
    # Channel k has the columns k, k + 4 and k + 8, as places of a patch lie.
    columns = {k: np.array([k, k + 4, k + 8]) for k in range(4)}
    reader = _Reader(np.linalg.inv(square), weights.copy(), dict(columns), {}, 2.0)
    for channel in range(4):
        assert reader.error(channel) == pytest.approx(_best(square, weights, list(columns[channel]))[0] / 2.0)
    reader.drop(2)
    first, fitted = _best(square, weights, list(columns[2]))
    rest = np.setdiff1d(np.arange(12), columns[2])
    np.testing.assert_allclose(reader.weights[rest], fitted[rest], rtol=1e-6, atol=1e-9)
    # What both leave together is what the first left and what the second adds.
    both, _ = _best(square, weights, [*columns[2], *columns[0]])
    assert reader.error(0) == pytest.approx((both - first) / 2.0)


def test_the_last_layer_is_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    random = np.random.default_rng(5)
    y = random.integers(0, 3, 300)
    x = random.normal(size=(300, 6)) + 0.8 * np.eye(3, 6)[y]
    wide = np.hstack([x, np.ones((300, 1))])
    ours = _fitted(wide, np.eye(3)[y], 1e-2)
    # Its bias is penalised here as the weights are; scikit-learn: the sum of losses times C.
    theirs = LogisticRegression(C=1 / (1e-2 * 300), fit_intercept=False, max_iter=2000, tol=1e-10).fit(wide, y)
    np.testing.assert_allclose(ours.T, theirs.coef_, atol=2e-3)
