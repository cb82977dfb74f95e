"""The arithmetic of denoising: its schedule, its sampler on a case with an answer, its distance."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.errors import ModelError, ShapeError
from protos.model.head_kinds import diffusion
from protos.model.head_kinds.denoiser import Denoiser
from protos.model.task import DIFFUSION, MEASURES, task_of


def test_noise_grows_from_almost_none_to_almost_all() -> None:
    kept = diffusion.schedule()
    assert kept.shape == (diffusion.STEPS,)
    assert (np.diff(kept) < 0).all()
    assert kept[0] > 0.999
    assert kept[-1] < 1e-3
    assert task_of("diffusion") == DIFFUSION
    assert DIFFUSION in MEASURES


def test_an_untrained_head_makes_normal_latents_of_variance_one() -> None:
    tree = diffusion.untrained_denoiser(6, 3, 5, seed=2)
    assert {name: value.shape for name, value in tree.items()} == diffusion.denoiser_shapes(6, 3, 5)
    made = diffusion.sample(tree, np.zeros(4000, np.int32), seed=1)
    np.testing.assert_allclose(made.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(np.cov(made.T), np.eye(6), atol=0.08)
    assert np.array_equal(made, diffusion.sample(tree, np.zeros(4000, np.int32), seed=1))


def test_a_head_that_knows_the_noise_of_two_classes_samples_these_classes() -> None:
    """Latents of class c are all at m_c. Then e = (z - sqrt(abar) m_c) / sqrt(1 - abar): at the moments of one abar the
    guess is affine in z and m_c, and the sampler ends at m_c. Checked through the same loop with this guess."""
    middles = np.array([[1.5, -0.5], [-2.0, 1.0]], np.float32)
    kept = diffusion.schedule()

    def exact(tree: object, z: np.ndarray, y: np.ndarray, moments: np.ndarray) -> np.ndarray:
        share = kept[moments][:, None]
        return ((z - np.sqrt(share) * middles[y]) / np.sqrt(1 - share)).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "guess", exact)
        classes = np.array([0, 1, 1], np.int32)
        made = diffusion.sample({"out_bias": np.zeros(2, np.float32)}, classes, seed=0)
    np.testing.assert_allclose(made, middles[classes], atol=1e-3)


def test_latents_and_embeddings_are_each_others_inverse() -> None:
    random = np.random.default_rng(0)
    mean, scale = random.normal(size=4).astype(np.float32), random.uniform(0.5, 3, 4).astype(np.float32)
    x = random.normal(size=(5, 4)).astype(np.float32)
    back = diffusion.embeddings_of(diffusion.latents_of(x, mean, scale), mean, scale)
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-6)


def test_the_distance_is_that_of_two_normal_distributions() -> None:
    random = np.random.default_rng(3)
    mix = random.normal(size=(3, 3))
    one, other = random.normal(size=(4000, 3)) @ mix, random.normal(size=(3000, 3)) * 2 + 1
    s1, s2 = (np.cov(part.T, bias=True) for part in (one, other))
    values, vectors = np.linalg.eig(s1 @ s2)
    assert (values.real > 0).all()
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(s1 + s2) - 2 * np.sqrt(values.real).sum()
    assert diffusion.frechet(one, other) == pytest.approx(expected, rel=1e-9)
    assert diffusion.frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert vectors.shape == (3, 3)


def test_a_denoiser_travels_in_one_file_and_anything_else_is_refused(tmp_path: Path) -> None:
    tree = diffusion.untrained_denoiser(4, 2, 3)
    sent = Denoiser(tree, np.ones(4, np.float32), np.full(4, 2, np.float32), ("a", "b"))
    path = tmp_path / "denoiser.npz"
    path.write_bytes(sent.to_bytes())
    read = Denoiser.from_file(path)
    assert read.classes == ("a", "b")
    assert all(np.array_equal(read.tree[name], value) for name, value in tree.items())
    assert np.array_equal(read.embeddings(np.array([1], np.int32), seed=4),
                          sent.embeddings(np.array([1], np.int32), seed=4))  # fmt: skip
    path.write_bytes(sent.to_bytes()[:-40])
    with pytest.raises(ModelError, match="is no denoiser"):
        Denoiser.from_file(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ModelError, match="is no denoiser"):
        Denoiser.from_file(path)
    with pytest.raises(ModelError, match="is no denoiser"):
        Denoiser.from_file(tmp_path / "nothing.npz")
    cut = {**tree, "out_kernel": tree["out_kernel"][:-1]}
    path.write_bytes(Denoiser(cut, sent.mean, sent.scale, sent.classes).to_bytes())
    with pytest.raises(ShapeError, match="out_kernel"):
        Denoiser.from_file(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: dataclasses.replace(d, scale=d.scale * np.float32(1e-38)), "too large to sample with"),
        (lambda d: dataclasses.replace(d, tree={**d.tree, "out_kernel": d.tree["out_kernel"] + np.float32(1e38)}),
         "too large to sample with"),
    ],
)  # fmt: skip
def test_a_denoiser_whose_numbers_overflow_makes_no_examples(change: Any, said: str) -> None:
    plain = Denoiser(
        diffusion.untrained_denoiser(8, 3, 16), np.zeros(8, np.float32), np.ones(8, np.float32), ("a", "b", "c")
    )
    classes = np.array([0, 1, 2], np.int32)
    assert np.isfinite(plain.embeddings(classes, seed=0)).all()
    with pytest.raises(ModelError, match=said):
        change(plain).embeddings(classes, seed=0)


def test_a_denoiser_of_no_class_is_none(tmp_path: Path) -> None:
    tree = diffusion.untrained_denoiser(8, 0, 16)
    (tmp_path / "d.npz").write_bytes(Denoiser(tree, np.zeros(8, np.float32), np.ones(8, np.float32), ()).to_bytes())
    with pytest.raises(ModelError, match="knows no class"):
        Denoiser.from_file(tmp_path / "d.npz")
