"""A real Keras model that learns from soft labels, and from another's features."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from protos.errors import ModelError, ShapeError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs TensorFlow")
_K = 4


def _model(units: int, seed: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(units, 3, strides=2, activation="relu", name="seen"), layers.Flatten(),
        layers.Dense(units, activation="relu", name="features"), layers.Dense(_K),
    ])  # fmt: skip


def _examples(count: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    y = random.integers(0, _K, count)
    x = random.normal(size=(count, 8, 8, 1)).astype(np.float32)
    for number in range(_K):
        x[y == number, 2 * number : 2 * number + 2] += 1.5
    return x, y


def test_a_model_learns_what_soft_labels_say_and_features_help() -> None:
    from firmware_tools.distill.keras_student import features_of, learn

    x, y = _examples(512, 1)
    tx, ty = _examples(400, 2)
    soft = 0.9 * np.eye(_K)[y] + 0.1 / _K
    teacher = _model(16, 3)
    assert learn(teacher, x, soft, epochs=8, rate=5e-3) < 0.3
    told = teacher.predict(x, verbose=0)
    told = np.exp(told / 2) / np.exp(told / 2).sum(axis=1, keepdims=True)
    features = features_of(teacher, "features", x)
    assert features.shape == (512, 16)
    assert float((features**2).mean()) == pytest.approx(1.0, abs=1e-5)
    assert features_of(teacher, "seen", x).shape == (512, 16)
    student = _model(8, 4)
    before = [weight.copy() for weight in student.get_weights()]
    chance = float((student.predict(tx, verbose=0).argmax(axis=1) == ty).mean())
    learn(student, x, told, epochs=12, temperature=2.0, rate=1e-2, layer="features", features=features)
    right = float((student.predict(tx, verbose=0).argmax(axis=1) == ty).mean())
    assert right > chance + 0.3
    # The same seed gives the same model.
    student.set_weights(before)
    first = learn(student, x[:128], told[:128], epochs=1, layer="features", features=features[:128], seed=5)
    student.set_weights(before)
    assert learn(student, x[:128], told[:128], epochs=1, layer="features", features=features[:128], seed=5) == first
    student.set_weights(before)
    assert learn(student, x[:128], told[:128], epochs=1, seed=5) < first, "the features are a term of the loss"


def test_what_does_not_fit_is_said() -> None:
    from firmware_tools.distill.keras_student import features_of, learn

    x, y = _examples(16, 1)
    model, soft = _model(4, 0), np.eye(_K)[y]
    with pytest.raises(ModelError, match="no layer 'last'"):
        features_of(model, "last", x)
    with pytest.raises(ShapeError, match="16 examples, 3 soft labels"):
        learn(model, x, soft[:3], epochs=1)
    for wrong in (soft[:, :1], np.hstack([soft, soft]), soft * np.nan, 2 * soft, -soft):
        with pytest.raises(ShapeError, match="no distributions"):
            learn(model, x, wrong, epochs=1)
    with pytest.raises(ShapeError, match="no layer that learns"):
        learn(model, x, soft, epochs=1, features=np.zeros((16, 4), np.float32))
