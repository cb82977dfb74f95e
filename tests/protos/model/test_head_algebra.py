"""Arithmetic of head trees: standardising and folding describe one function."""

from __future__ import annotations

import numpy as np
import pytest

from protos.errors import NonFiniteError, ShapeError
from protos.model.head_algebra import (
    apply_standardisation,
    check_tree,
    fold_standardisation,
    head_shapes,
    logits_of,
    standardisation_of,
    untrained_head,
)


def _random_tree(width: int, classes: int, hidden: int | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in head_shapes(width, classes, hidden).items()
    }


@pytest.mark.parametrize("hidden", [None, 5])
def test_a_folded_head_gives_the_same_scores_on_plain_embeddings(hidden: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (40, 12)).astype(np.float32)
    mean, scale = standardisation_of(x)
    tree = _random_tree(12, 4, hidden)
    expected = logits_of(tree, (x - mean) * scale)
    np.testing.assert_allclose(logits_of(fold_standardisation(tree, mean, scale), x), expected, atol=2e-4)


@pytest.mark.parametrize("hidden", [None, 5])
def test_standardising_and_folding_are_inverse(hidden: int | None) -> None:
    rng = np.random.default_rng(1)
    mean, scale = rng.normal(size=12), rng.uniform(0.1, 10.0, 12)
    tree = _random_tree(12, 4, hidden)
    back = fold_standardisation(apply_standardisation(tree, mean, scale), mean, scale)
    assert list(back) == sorted(tree)
    for name, value in tree.items():
        np.testing.assert_allclose(back[name], value, atol=1e-5)
        assert back[name].dtype == np.float32
        assert not np.shares_memory(back[name], value)


@pytest.mark.parametrize("width", [4, 64, 1024])
def test_standardised_features_have_a_mean_square_length_of_64_whatever_their_width(width: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(5.0, 1.0, (200, width)) * rng.uniform(0.5, 2.0, width)
    mean, scale = standardisation_of(x)
    z = (x - mean) * scale
    assert (z**2).sum(axis=1).mean() == pytest.approx(64.0, rel=1e-4)


def test_dead_and_nearly_dead_features_are_not_blown_up() -> None:
    x = np.zeros((50, 8))
    x[:, 0] = np.linspace(-1, 1, 50)
    x[:, 1] = 7.0
    x[:, 2] = 1e-9 * np.arange(50)
    _, scale = standardisation_of(x)
    assert np.isfinite(scale).all()
    # The floor: a tenth of the root mean square deviation over all 8 features, which is x[:, 0]'s divided by sqrt(8).
    assert (scale <= scale[0] * 10 * np.sqrt(8) * 1.001).all()
    _, all_dead = standardisation_of(np.full((5, 8), 3.0))
    assert np.isfinite(all_dead).all()


def test_an_untrained_head_is_undecided_and_the_same_for_the_same_seed() -> None:
    tree = untrained_head(32, 5, 7, seed=11)
    assert not tree["out_kernel"].any()
    assert not tree["out_bias"].any()
    assert tree["hidden_kernel"].any()
    np.testing.assert_array_equal(tree["hidden_kernel"], untrained_head(32, 5, 7, seed=11)["hidden_kernel"])
    assert (tree["hidden_kernel"] != untrained_head(32, 5, 7, seed=12)["hidden_kernel"]).any()
    assert {name: array.shape for name, array in tree.items()} == head_shapes(32, 5, 7)


def test_a_hidden_layer_starts_with_activations_of_unit_size() -> None:
    x = np.random.default_rng(4).normal(size=(400, 500))
    mean, scale = standardisation_of(x)
    tree = untrained_head(500, 2, 300, seed=0)
    hidden = np.maximum((x - mean) * scale @ tree["hidden_kernel"], 0)
    assert (hidden**2).mean() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"out_bias": None}, ShapeError, "lacks out_bias"),
        ({"extra": np.zeros(2)}, ShapeError, "unknown tensors extra"),
        ({"out_bias": np.zeros(5)}, ShapeError, r"\[5\]"),
        ({"out_bias": np.array(["a"] * 4)}, ShapeError, "not real numbers"),
        ({"out_bias": np.array([0, np.nan, 0, 0])}, NonFiniteError, "out_bias"),
    ],
)
def test_a_tree_that_is_not_of_this_head_is_refused(change: dict, error: type[Exception], says: str) -> None:
    tree = {**_random_tree(12, 4, None), **change}
    tree = {name: value for name, value in tree.items() if value is not None}
    with pytest.raises(error, match=says):
        check_tree(tree, head_shapes(12, 4))
