"""Regressions and anomalies: measures, data, manifests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protos.datafiles import dataset
from protos.errors import DataError, LabelError, NonFiniteError, ShapeError
from protos.model.head_algebra import apply_standardisation, fold_standardisation, fold_targets, logits_of
from protos.model.task import auc, judged_quantities, judged_scores, scores_of, whitened_head


def test_auc_counts_pairs_in_their_right_order_and_ties_half() -> None:
    random = np.random.default_rng(0)
    normal, odd = random.integers(0, 9, 40).astype(float), random.integers(3, 12, 25).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in odd for b in normal]
    assert auc(normal, odd) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc(normal, odd[:0]) is None


def test_a_constant_quantity_is_met_or_not() -> None:
    wanted = np.array([[2.0, 1.0], [2.0, 3.0]])
    assert judged_quantities(wanted, wanted).score == 1.0
    missed = judged_quantities(wanted + np.array([1.0, 0.0]), wanted)
    assert (missed.score, missed.rmse) == (0.5, (1.0, 0.0))


def test_scores_of_normal_examples_alone_have_a_loss_and_no_auc() -> None:
    found = judged_scores(np.array([1.0, 3.0]), np.zeros(2, np.int32))
    assert (found.loss, found.score) == (2.0, None)


def test_a_whitened_head_measures_the_mahalanobis_distance() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(300, 5)) @ random.normal(size=(5, 5)) + 3.0
    middle, covariance = values.mean(axis=0), np.cov(values.T, bias=True)
    kernel, bias = whitened_head(middle, covariance, 0.01)
    shrunk = covariance + 0.01 * np.trace(covariance) / 5 * np.eye(5)
    centred = values - middle
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(shrunk), centred) / 5
    np.testing.assert_allclose(scores_of(values @ kernel + bias), expected, rtol=1e-9)


def test_targets_and_features_are_folded_into_one_plain_head() -> None:
    random = np.random.default_rng(2)
    tree = {"out_kernel": random.normal(size=(4, 2)), "out_bias": random.normal(size=2)}
    mean, scale = random.normal(size=4), random.uniform(0.5, 2, 4)
    x = random.normal(size=(6, 4))
    plain = fold_standardisation(fold_targets(tree, [101325.0, 0.4], [900.0, 0.02]), mean, scale)
    expected = (((x - mean) * scale) @ tree["out_kernel"] + tree["out_bias"]) * [900.0, 0.02] + [101325.0, 0.4]
    np.testing.assert_allclose(logits_of(plain, x), expected, rtol=1e-4)
    back = apply_standardisation(fold_targets(plain, [-101325.0 / 900.0, -0.4 / 0.02], [1 / 900.0, 50.0]), mean, scale)
    np.testing.assert_allclose(back["out_kernel"], tree["out_kernel"], rtol=1e-4)


def _file(folder: Path, y: object) -> Path:
    np.savez(folder / "data.npz", x=np.zeros((4, 3), np.float32), y=np.array(y))
    return folder / "data.npz"


@pytest.mark.parametrize("y", [[1.5, 2.0, 3.0, -4.0], [[1], [2], [3], [4]], [[1.0, 2.0]] * 4])
def test_quantities_are_read_as_a_table_of_real_numbers(tmp_path: Path, y: object) -> None:
    data = dataset.load(_file(tmp_path, y), quantities=0)
    assert data.y.dtype == np.float32
    assert data.y.shape == (4, np.array(y).reshape(4, -1).shape[1])
    dataset.check(data, (3,), data.y.shape[1])
    dataset.save(data, tmp_path / "again.npz")
    np.testing.assert_array_equal(dataset.load(tmp_path / "again.npz", quantities=0).y, data.y)


def test_labels_that_are_no_quantities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="at example 2"):
        dataset.load(_file(tmp_path, [1.0, 2.0, np.nan, 4.0]), quantities=1)
    with pytest.raises(ShapeError, match=r"store the quantities as y \[N, 2\]"):
        dataset.load(_file(tmp_path, [1.0, 2.0, 3.0, 4.0]), quantities=2)
    with pytest.raises(LabelError, match="store real numbers"):
        dataset.load(_file(tmp_path, list("abcd")), quantities=1)
    with pytest.raises(LabelError, match="another unit"):
        dataset.load(_file(tmp_path, [1.0, 2.0, 3.0, 1e300]), quantities=1)
    with pytest.raises(DataError, match="a regression needs quantities"):
        dataset.load(tmp_path, quantities=1)


def test_a_tolerant_device_sets_a_quantity_aside_that_is_no_number(tmp_path: Path) -> None:
    data = dataset.load(_file(tmp_path, [1.0, 2.0, np.inf, 4.0]), quantities=1, tolerant=True)
    kept = dataset.screened(data, 1)
    assert (len(kept), kept.set_aside[0].count) == (3, 1)
