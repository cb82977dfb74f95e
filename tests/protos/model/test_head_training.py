"""The compiled head against plain arithmetic, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protos.errors import LabelError, ShapeError, UsageError
from protos.model.bundle import Bundle, open_bundle
from protos.model.engine import open_interpreter
from protos.model.head import Head
from protos.model.head_algebra import logits_of

pytestmark = pytest.mark.workshop


@pytest.fixture(scope="module")
def bundle(workshop: Path) -> Bundle:
    return open_bundle(workshop / "bundle")


@pytest.fixture
def head(bundle: Bundle) -> Head:
    return Head(bundle)


def _batch(count: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(2.0, 3.0, (count, 16)).astype(np.float32), rng.integers(0, 10, count).astype(np.int32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def _gradients(tree: dict, z: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[dict, float]:
    chance = _softmax(logits_of(tree, z).astype(np.float64))
    loss = float((-np.log(chance[np.arange(len(y)), y]) * weight).sum() / weight.sum())
    chance[np.arange(len(y)), y] -= 1
    chance *= (weight / weight.sum())[:, None]
    return {"out_kernel": z.T @ chance, "out_bias": chance.sum(axis=0)}, loss


def test_steps_follow_momentum_pull_and_decay_of_plain_arithmetic(bundle: Bundle, head: Head) -> None:
    mean, scale = bundle.feature_affine()
    start = bundle.initial_head()
    tree, velocity = dict(start), {name: np.zeros_like(array) for name, array in start.items()}
    for step in range(6):
        x, y = _batch(seed=step)
        weight = np.random.default_rng(step).uniform(0, 2, 32).astype(np.float32)
        slopes, expected = _gradients(tree, (x - mean) * scale, y, weight)
        loss = head.train_step(x, y, weight, rate=0.05, momentum=0.8, proximal_mu=0.3, weight_decay=0.1)
        assert loss == pytest.approx(expected, rel=1e-4)
        for name in tree:
            decay = 0.1 * tree[name] if name.endswith("_kernel") else 0.0
            velocity[name] = 0.8 * velocity[name] + slopes[name] + 0.3 * (tree[name] - start[name]) + decay
            tree[name] = (tree[name] - 0.05 * velocity[name]).astype(np.float32)
    for name, value in head.read().items():
        np.testing.assert_allclose(value, tree[name], rtol=2e-3, atol=2e-4)


def test_a_masked_example_changes_nothing(bundle: Bundle, head: Head) -> None:
    x, y = _batch()
    head.train_step(x[:20], y[:20], rate=0.1)
    short = head.read()
    head.write(bundle.initial_head())
    weight = np.zeros(32, np.float32)
    weight[:20] = 1
    head.train_step(x, y, weight, rate=0.1)
    for name, value in head.read().items():
        np.testing.assert_allclose(value, short[name], atol=1e-6)


def test_an_all_masked_batch_leaves_a_fresh_head_as_it_is(head: Head) -> None:
    before = head.read()
    x, y = _batch()
    assert head.train_step(x, y, np.zeros(32, np.float32), weight_decay=0.0) == 0.0
    for name, value in head.read().items():
        np.testing.assert_array_equal(value, before[name])


def test_writing_clears_the_optimiser_and_the_proximal_reference(workshop: Path) -> None:
    for name in ("bundle", "adam_hidden"):
        bundle = open_bundle(workshop / name)
        used, fresh = Head(bundle), Head(bundle)
        for seed in range(5):
            used.train_step(*_batch(seed=seed), rate=0.2)
        used.write(bundle.initial_head())
        for seed in range(3):
            used.train_step(*_batch(seed=seed), proximal_mu=0.5)
            fresh.train_step(*_batch(seed=seed), proximal_mu=0.5)
        for key, value in used.read().items():
            np.testing.assert_array_equal(value, fresh.read()[key])


def test_a_head_starts_at_the_values_of_its_bundle(bundle: Bundle, head: Head) -> None:
    for name, value in bundle.initial_head().items():
        np.testing.assert_array_equal(head.read()[name], value)


def test_what_is_read_does_not_move_with_later_training(head: Head) -> None:
    before = head.read()
    kept = {name: array.copy() for name, array in before.items()}
    head.train_step(*_batch(), rate=1.0)
    for name, value in before.items():
        np.testing.assert_array_equal(value, kept[name])
    assert any((head.read()[name] != kept[name]).any() for name in kept)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_any_number_of_examples_is_scored_and_evaluated_exactly(bundle: Bundle, head: Head, count: int) -> None:
    x, y = _batch(count)
    mean, scale = bundle.feature_affine()
    expected = logits_of(bundle.initial_head(), (x - mean) * scale)
    logits = head.infer(x)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    result = head.evaluate(x, y)
    assert result.count == count
    assert result.accuracy == pytest.approx((logits.argmax(axis=1) == y).mean())
    chance = _softmax(logits.astype(np.float64))
    assert result.loss == pytest.approx(-np.log(chance[np.arange(count), y]).mean(), rel=1e-3)


def test_training_with_adam_and_a_hidden_layer_lowers_the_loss(workshop: Path) -> None:
    head = Head(open_bundle(workshop / "adam_hidden"))
    x, y = _batch()
    losses = [head.train_step(x, y, rate=0.02) for _ in range(200)]
    assert losses[0] == pytest.approx(np.log(10), rel=1e-3)
    assert losses[-1] < 0.3


def test_inputs_that_the_head_does_not_have_are_answered_with_the_nearest(head: Head) -> None:
    x, y = _batch()
    with pytest.raises(UsageError, match="did you mean 'momentum'"):
        head.train_step(x, y, momentun=0.5)
    with pytest.raises(UsageError, match=r"rate = -1.* outside 0\.\.100"):
        head.train_step(x, y, rate=-1.0)
    with pytest.raises(UsageError, match="outside"):
        head.train_step(x, y, rate=float("nan"))


def test_batches_and_labels_that_do_not_fit_are_refused(head: Head) -> None:
    x, y = _batch(40)
    with pytest.raises(ShapeError):
        head.train_step(x, y)
    with pytest.raises(ShapeError):
        head.train_step(x[:8, :5], y[:8])
    with pytest.raises(ShapeError):
        head.train_step(x[:8], y[:7])
    with pytest.raises(LabelError, match=r"-1\.\.10"):
        head.evaluate(x[:2], np.array([-1, 10]))
    with pytest.raises(ShapeError):
        head.evaluate(x[:0], y[:0])
    with pytest.raises(ShapeError):
        head.write({"out_bias": np.zeros(10)})


@pytest.mark.parametrize("name", ["bundle", "adam_hidden"])
def test_no_signature_has_a_scalar_input(workshop: Path, name: str) -> None:
    # ai-edge-litert on aarch64 crashes on a 0-D input, and x86-64 never shows it.
    interpreter = open_interpreter(workshop / name / "head.tflite")
    signatures = interpreter.get_signature_list()
    assert set(signatures) == {"train", "evaluate", "infer", "read", "write", "correct"}
    for signature in signatures:
        for key, tensor in interpreter.get_signature_runner(signature).get_input_details().items():
            assert len(tensor["shape"]) >= 1, f"{signature}.{key}"
