"""The integer backbone: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protos.errors import NonFiniteError, ShapeError
from protos.model.backbone import Backbone, quantise
from protos.model.bundle import Bundle, open_bundle
from protos.model.manifest import BackboneSpec, Preprocessing

pytestmark = pytest.mark.workshop


@pytest.fixture(scope="module")
def bundle(workshop: Path) -> Bundle:
    return open_bundle(workshop / "bundle")


@pytest.fixture(scope="module")
def images(workshop: Path) -> np.ndarray:
    with np.load(workshop / "digits.npz") as archive:
        return np.asarray(archive["x"][:20])


def test_raw_bytes_and_the_same_values_as_floats_give_the_same_embeddings(bundle: Bundle, images: np.ndarray) -> None:
    backbone = Backbone(bundle)
    embeddings = backbone.embed(images)
    assert embeddings.shape == (20, 16)
    assert embeddings.dtype == np.int8
    assert len(np.unique(embeddings, axis=0)) > 10
    np.testing.assert_array_equal(backbone.embed(images.astype(np.float32)), embeddings)
    np.testing.assert_array_equal(backbone.embed(images[..., 0]), embeddings)


def test_dequantised_embeddings_are_steps_from_the_zero_point(bundle: Bundle, images: np.ndarray) -> None:
    backbone = Backbone(bundle)
    q = backbone.embed(images)
    spec = bundle.manifest.backbone
    expected = (q.astype(np.float64) - spec.output_zero_point) * spec.output_scale
    np.testing.assert_allclose(backbone.dequantise(q), expected, rtol=1e-6)
    assert backbone.dequantise(q).dtype == np.float32


def test_an_empty_batch_gives_an_empty_result(bundle: Bundle, images: np.ndarray) -> None:
    assert Backbone(bundle).embed(images[:0]).shape == (0, 16)


def test_examples_that_do_not_fit_are_refused(bundle: Bundle, images: np.ndarray) -> None:
    backbone = Backbone(bundle)
    with pytest.raises(ShapeError, match=r"\[4, 8, 1\], the model takes \[8, 8, 1\]"):
        backbone.embed(images[:, :4])
    with pytest.raises(ShapeError, match="int64"):
        backbone.embed(images.astype(np.int64))
    broken = images.astype(np.float32)
    broken[3, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="example 3"):
        backbone.embed(broken)


def test_the_engine_says_on_what_it_runs(bundle: Bundle) -> None:
    engine = Backbone(bundle).engine
    assert engine.name in ("ai-edge-litert", "tflite-runtime")
    assert engine.delegate in ("xnnpack", "builtin")
    assert engine.version[0].isdigit()


def test_quantising_rounds_half_away_from_zero_and_clips() -> None:
    spec = BackboneSpec("b.tflite", (1,), "int8", 0.5, -10, 2, "int8", 1.0, 0)
    # Steps of 0.5: 0.25 is half a step, away from zero it is one; 0.24 is none.
    values = np.array([0.0, 0.25, -0.25, 0.24, 0.75, 1e6, -1e6], np.float32)
    assert quantise(values, spec, Preprocessing(1.0, 0.0)).tolist() == [-10, -9, -11, -10, -8, 127, -128]


@pytest.mark.parametrize(("dtype", "zero", "offset"), [("uint8", 128, 0), ("uint8", 0, 0), ("int8", -3, -128)])
def test_straight_preprocessing_hands_raw_values_over_unchanged(dtype: str, zero: int, offset: int) -> None:
    scale = float(np.float32(0.0078125 / 3))
    spec = BackboneSpec("b.tflite", (1,), dtype, scale, zero, 2, "int8", 1.0, 0)
    straight = Preprocessing(scale, (offset - zero) * scale)
    np.testing.assert_array_equal(quantise(np.arange(256), spec, straight).astype(int), np.arange(256) + offset)
