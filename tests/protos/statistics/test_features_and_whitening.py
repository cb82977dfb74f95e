"""Which numbers are summed, and the coordinates that steps are made in."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from protos.errors import ShapeError, UpdateError
from protos.statistics.features import FeatureMap, centre_of, shift_for, signs
from protos.statistics.whitening import MAX_RANK, basis_of, received
from protos.update.tensors import EncodedTensor


def test_signs_are_the_same_on_every_machine_and_with_every_library() -> None:
    drawn = signs(7, 33, 5)
    assert sorted(set(drawn.ravel().tolist())) == [-1, 1]
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "b361e3697d7ab960"
    assert not np.array_equal(drawn, signs(8, 33, 5))
    with pytest.raises(ShapeError, match="not exact any more"):
        signs(0, 40_000, 2)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_projection_is_what_whole_numbers_give(dtype: type) -> None:
    random = np.random.default_rng(1)
    info = np.iinfo(dtype)
    x = random.integers(info.min, info.max + 1, (40, 90)).astype(dtype)
    centre = centre_of(random.normal(0, 1, 90).astype(np.float32), 0.1, 3)
    features = FeatureMap(3, project=11, shift=6, seed=5)
    exact = (x.astype(np.int64) - centre) @ signs(5, 90, 11).astype(np.int64)
    np.testing.assert_array_equal(features.of(x, centre), np.clip((exact + 32) >> 6, -127, 127))


def test_a_head_on_projected_numbers_is_one_on_embeddings_but_for_the_rounding() -> None:
    random = np.random.default_rng(2)
    x = random.integers(-60, 60, (30, 64)).astype(np.int8)
    centre = centre_of(np.zeros(64, np.float32), 0.5, -4)
    shift = shift_for(np.full(64, 15.0), 0.5)
    features = FeatureMap(-4, project=20, shift=shift, seed=1)
    kernel, bias = random.normal(size=(20, 3)), random.normal(size=3)
    plain, moved = features.plain(kernel, bias, centre, 0.5)
    found = (x.astype(np.float64) + 4) * 0.5 @ plain + moved
    wanted = features.of(x, centre).astype(np.float64) @ kernel + bias
    assert np.abs(found - wanted).max() < 0.5 * np.abs(kernel).sum(axis=0).max() + 1e-9
    # Without a projection it is the same head to the last digits.
    kernel, bias = random.normal(size=(64, 3)), random.normal(size=3)
    plain, moved = FeatureMap(-4).plain(kernel, bias, centre, 0.5)
    np.testing.assert_allclose((x.astype(np.float64) + 4) * 0.5 @ plain + moved, (x + 4.0) @ kernel + bias)


@pytest.mark.parametrize("width", [12, MAX_RANK + 40])
def test_in_its_basis_data_vary_alike_in_every_direction_and_a_head_is_the_same_head(width: int) -> None:
    random = np.random.default_rng(3)
    mixing = random.normal(size=(width, width)) * np.exp(random.normal(0, 2, width))
    x = random.normal(size=(4000, width)) @ mixing.T / width + random.normal(size=width)
    basis = basis_of(x.mean(axis=0), np.cov(x.T, bias=True))
    w = basis.features(x)
    assert (w**2).sum(axis=1).mean() == pytest.approx(64.0, rel=0.02)
    before, after = (np.linalg.cond(np.cov(array.T, bias=True)) for array in (x, w))
    assert after < before / 5
    head = {
        "out_bias": random.normal(size=3).astype(np.float32),
        "out_kernel": random.normal(size=(width, 3)).astype(np.float32),
    }
    turned = basis.into(head)
    scores = x @ head["out_kernel"] + head["out_bias"]
    np.testing.assert_allclose(w @ turned["out_kernel"] + turned["out_bias"], scores, atol=2e-3 * np.abs(scores).max())
    again = basis.back(turned)
    for name, value in head.items():
        np.testing.assert_allclose(again[name], value, atol=2e-3 * float(np.abs(value).max()))
    sent = received(basis.tensors(), width)
    assert sent.version == basis.version
    np.testing.assert_allclose(sent.features(x[:5]), w[:5], rtol=1e-6)


def test_a_basis_that_cannot_be_undone_is_refused() -> None:
    good = {tensor.name: tensor for tensor in basis_of(np.zeros(4), np.eye(4)).tensors()}
    zero = EncodedTensor("gains", (5,), type(good["gains"].values)(bytes(20)))
    for tensors in ((*good.values(), zero), (good["middle"], good["vectors"], zero), (good["gains"],), ()):
        with pytest.raises(UpdateError):
            received(tuple(tensors), 4)
    with pytest.raises(UpdateError, match="features of width 3"):
        received(tuple(good.values()), 3)
