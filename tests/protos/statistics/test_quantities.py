"""Quantities as digits in the sums of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protos.errors import LabelError, ShapeError, UpdateError
from protos.statistics.coding import decode, encode
from protos.statistics.moments import Moments, moments_of
from protos.statistics.quantities import DIGITS, POINT, digits_of, quantity_moments

MEAN, SCALE = np.array([101325.0, 0.4], np.float32), np.array([900.0, 0.02], np.float32)


def drawn(dtype: Any, count: int = 700) -> tuple[Any, Any]:
    random = np.random.default_rng(2)
    info = np.iinfo(dtype)
    embeddings = random.integers(info.min, info.max + 1, (count, 5)).astype(dtype)
    labels = random.normal(size=(count, 2)) * SCALE * 3 + MEAN
    labels[0] = MEAN + 500 * SCALE
    labels[1] = MEAN - 500 * SCALE
    return embeddings, labels.astype(np.float32)


def summed(embeddings: Any, labels: Any, offset: int) -> Moments:
    digits = digits_of(labels, MEAN, SCALE, embeddings.dtype, offset)
    return moments_of(np.concatenate([embeddings, digits], axis=1), np.zeros(len(labels), np.int32), 1, offset)


@pytest.mark.parametrize(
    ("dtype", "offset"), [(np.int8, -128), (np.int8, 0), (np.int8, 127), (np.uint8, 0), (np.uint8, 255)]
)
def test_sums_of_digits_give_the_moments_of_quantities(dtype: Any, offset: int) -> None:
    embeddings, labels = drawn(dtype)
    moments = summed(embeddings, labels, offset)
    found = quantity_moments(moments, 2, np.dtype(dtype), offset)
    fixed = np.rint((labels.astype(float) - MEAN.astype(float)) / SCALE.astype(float) * 2.0**POINT) / 2.0**POINT
    z = embeddings.astype(float) - offset
    joint = np.cov(np.concatenate([z, fixed], axis=1).T, bias=True)
    assert found.examples == len(labels)
    np.testing.assert_allclose(found.middle, z.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.target, fixed.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.covariance, joint[:5, :5], rtol=1e-9)
    np.testing.assert_allclose(found.crossed, joint[:5, 5:], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.spread, joint[5:, 5:], rtol=1e-9, atol=1e-9)
    moved = found.about(np.ones(5), np.full(2, 0.5))
    np.testing.assert_allclose(moved.crossed, (z - 1).T @ (fixed - 0.5) / len(z), rtol=1e-9, atol=1e-9)
    # They travel as other sums do, and what goes leaves the bits that there would be without it.
    assert decode(encode(moments, offset), classes=1, width=5 + DIGITS * 2, offset=offset) == moments
    assert moments - summed(embeddings[:90], labels[:90], offset) == summed(embeddings[90:], labels[90:], offset)


def test_a_quantity_in_another_unit_is_refused_by_its_example() -> None:
    labels = np.tile(MEAN, (3, 1))
    labels[2, 1] = 40.0
    with pytest.raises(LabelError, match=r"quantity 1 of example 2 is 40, more than 508 standard deviations") as caught:
        digits_of(labels, MEAN, SCALE, np.dtype(np.int8), 3)
    assert "unit" in str(caught.value.fix)
    labels[2, 1] = np.nan
    with pytest.raises(LabelError):
        digits_of(labels, MEAN, SCALE, np.dtype(np.int8), 3)
    with pytest.raises(ShapeError):
        digits_of(labels[:, :1], MEAN, SCALE, np.dtype(np.int8), 3)


def test_sums_of_no_example_at_all_are_sums() -> None:
    """A device whose joules end before its first embedding sends that it has seen nothing."""
    embeddings, labels = drawn(np.int8, 20)
    nothing, whole = summed(embeddings[:0], labels[:0], 0), summed(embeddings, labels, 0)
    assert nothing.examples == 0
    assert nothing + whole == whole


def test_what_was_never_added_is_not_subtracted() -> None:
    embeddings, labels = drawn(np.int8, 20)
    with pytest.raises(UpdateError, match="never added"):
        summed(embeddings[:10], labels[:10], 0) - summed(embeddings, labels, 0)
