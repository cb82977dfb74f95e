"""Knowledge between models: consensus, selective fusion, soft labels in few bits, and heads that learn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.learning.distillation.consensus import LABEL_SHARE, consensus, entropy, probabilities, selective
from coordinator.learning.distillation.head_student import learn, scores_of
from coordinator.learning.distillation.soft_labels import Cache, dequantise, quantise
from protos.errors import LabelError, ShapeError

_EVEN = np.full(4, 0.25)
_SURE = np.array([0.97, 0.01, 0.01, 0.01])
_LINEAR = {"out_bias": np.zeros(3, np.float32), "out_kernel": np.zeros((4, 3), np.float32)}


def _distributions(count: int, classes: int, seed: int) -> Any:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=count)


def test_who_knows_nothing_of_an_example_has_no_weight_on_it() -> None:
    other = np.array([0.01, 0.97, 0.01, 0.01])
    said = np.stack([np.stack([_SURE, _EVEN, _EVEN]), np.stack([_EVEN, other, _EVEN])])
    found = consensus(said, [10, 1000])
    np.testing.assert_allclose(found[0], _SURE, atol=1e-9)
    np.testing.assert_allclose(found[1], other, atol=1e-9)
    np.testing.assert_allclose(found[2], _EVEN)
    np.testing.assert_allclose(consensus(said, [10, 1000], "equal")[0], (_SURE + _EVEN) / 2)
    np.testing.assert_allclose(consensus(said, [10, 30], "count")[0], (_SURE + 3 * _EVEN) / 4)
    # Equally sure: counts decide.
    np.testing.assert_allclose(consensus(np.stack([[_SURE], [other]]), [1, 3])[0], (_SURE + 3 * other) / 4)


def test_a_consensus_is_a_distribution_and_does_not_depend_on_the_order() -> None:
    said = np.stack([_distributions(50, 7, seed) for seed in range(3)])
    found = consensus(said, [5, 7, 9])
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(found, consensus(said[::-1], [9, 7, 5]))
    assert (found <= said.max(axis=0) + 1e-12).all()
    assert entropy(np.full((1, 7), 1 / 7))[0] == pytest.approx(np.log(7))
    for counts, weight in (([1, 2], "confidence"), ([1, 0, 2], "confidence"), ([1, 2, 3], "loudness")):
        with pytest.raises(ShapeError):
            consensus(said, counts, weight)


def test_selective_fusion_has_its_three_cases() -> None:
    labels = np.array([0, 0, 0, 0])
    wrong = np.array([0.01, 0.97, 0.01, 0.01])
    large = np.stack([_SURE, wrong, wrong, wrong])
    said = np.stack([np.stack([wrong, wrong, _SURE, wrong]), np.stack([wrong, wrong, wrong, wrong])])
    held = np.full((4, 4), np.nan)
    held[1] = [0.7, 0.1, 0.1, 0.1]
    targets, kept = selective(large, said, labels, held)
    hard = np.eye(4)[0]
    np.testing.assert_allclose(targets[0], hard)
    np.testing.assert_allclose(targets[1], LABEL_SHARE * hard + (1 - LABEL_SHARE) * held[1])
    np.testing.assert_allclose(targets[2], LABEL_SHARE * hard + (1 - LABEL_SHARE) * _SURE)
    np.testing.assert_allclose(targets[3], hard)
    np.testing.assert_allclose(kept[0], _SURE)
    assert np.isnan(kept[2]).all()
    assert np.isnan(held[0]).all(), "what was given is not changed"
    with pytest.raises(ShapeError, match="small models"):
        selective(large, said[:, :2], labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_soft_labels_in_few_bits_are_distributions_and_near(bits: int) -> None:
    p = _distributions(200, 10, 3)
    numbers = quantise(p, bits)
    assert (numbers.sum(axis=1) == (1 << bits) - 1).all()
    assert (numbers >= 0).all()
    assert np.abs(dequantise(numbers) - p).max() <= 1 / ((1 << bits) - 1)
    if bits == 1:
        np.testing.assert_array_equal(numbers.argmax(axis=1), p.argmax(axis=1))
    # What is on the grid stays.
    np.testing.assert_array_equal(quantise(dequantise(numbers), bits), numbers)


def test_what_is_no_distribution_is_refused() -> None:
    for p, bits in ((_distributions(3, 4, 0), 0), (_distributions(3, 4, 0), 17), (np.full((2, 4), 0.3), 4),
                    (np.array([[np.nan, 1.0]]), 4), (np.array([[1.5, -0.5]]), 4)):  # fmt: skip
        with pytest.raises(ShapeError):
            quantise(p, bits)


def test_a_cache_sends_what_has_changed_and_says_what_the_other_side_holds() -> None:
    p = _distributions(80, 10, 5)
    cache = Cache(bits=8, tolerance=0.05)
    first = cache.update(p)
    assert (cache.sent, cache.bytes_sent) == (80, 10 + 80 * 9)
    np.testing.assert_array_equal(cache.update(p), first)
    assert (cache.sent, cache.bytes_sent) == (80, 20 + 80 * 9)
    moved = p.copy()
    moved[3] = np.roll(p[3], 1)
    moved[4] = 0.99 * p[4] + 0.001
    held = cache.update(moved)
    assert cache.sent == 81
    np.testing.assert_allclose(held[3], moved[3], atol=1 / 255)
    np.testing.assert_array_equal(held[4], first[4])
    assert (0.5 * np.abs(held - moved).sum(axis=1)).max() <= 0.05 + 10 / 255
    votes = Cache(bits=1)
    votes.update(p)
    assert votes.bytes_sent == 10 + 40


def test_a_head_learns_what_soft_labels_say_and_holds_on_to_what_it_was() -> None:
    random = np.random.default_rng(7)
    x = random.normal(size=(400, 12)).astype(np.float32)
    truth = {
        "out_bias": random.normal(size=5).astype(np.float32),
        "out_kernel": random.normal(size=(12, 5)).astype("f4"),
    }
    start = {"out_bias": np.zeros(5, np.float32), "out_kernel": np.zeros((12, 5), np.float32)}
    targets = probabilities(scores_of(truth, x), 2.0)
    tx = random.normal(size=(500, 12)).astype(np.float32)
    told = probabilities(scores_of(truth, tx), 2.0)

    def off(head: Any) -> float:
        return float(np.abs(probabilities(scores_of(head, tx), 2.0) - told).sum(axis=1).mean())

    free = learn(start, x, targets, temperature=2.0, held=0.0, steps=200)
    some = learn(start, x, targets, temperature=2.0, held=0.1)
    most = learn(start, x, targets, temperature=2.0, held=1e4)
    assert off(free) < 0.01
    assert off(free) < off(some) < off(most)
    np.testing.assert_allclose(most["out_kernel"], 0.0, atol=1e-2)
    again = learn(truth, x, targets, temperature=2.0)
    np.testing.assert_allclose(again["out_kernel"], truth["out_kernel"], atol=1e-4)
    assert again["out_kernel"].dtype == np.float32
    for head, features, labels in (({**start, "hidden_kernel": x}, x, targets), (start, x[:, :3], targets),
                                   (start, x, targets[:9])):  # fmt: skip
        with pytest.raises(ShapeError):
            learn(head, features, labels)


def test_entropy_and_confidence_are_those_of_their_formulas() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])
    in_nats = [-(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1)), np.log(2)]
    np.testing.assert_allclose(entropy(p), in_nats)
    # Two models, one example, three classes: each has ln 3 - H times its examples to say.
    said = p[:, None, :]
    say = np.array([4.0, 3.0]) * (np.log(3) - np.array(in_nats))
    np.testing.assert_allclose(consensus(said, [4, 3]), [say @ p / say.sum()])
    # With nine classes an even distribution over all has nothing to say, and over three of them ln 3.
    wide = np.stack([np.full((1, 9), 1 / 9), np.eye(9)[:3].mean(axis=0)[None]])
    np.testing.assert_allclose(consensus(wide, [1, 1]), wide[1], atol=1e-12)


def test_models_that_are_right_share_by_what_they_are_sure_of_where_examples_and_classes_differ_in_number() -> None:
    labels = np.array([0, 1])
    said = np.array([
        [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]],
        [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1]],
    ])  # fmt: skip
    large = np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    targets, _ = selective(large, said, labels)
    power = np.exp(1.0 / entropy(said[:, 0]))
    both = power @ said[:, 0] / power.sum()
    np.testing.assert_allclose(targets[0], LABEL_SHARE * np.eye(3)[0] + (1 - LABEL_SHARE) * both)
    np.testing.assert_allclose(targets[1], LABEL_SHARE * np.eye(3)[1] + (1 - LABEL_SHARE) * said[0, 1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p, y: probabilities(np.zeros((2, 3)), 0.0), "a temperature of 0"),
        (lambda p, y: probabilities(np.zeros((2, 3)), np.nan), "a temperature of nan"),
        (lambda p, y: probabilities(np.full((2, 3), np.nan)), "not finite"),
        (lambda p, y: consensus(np.stack([p, p * np.nan]), [1, 1]), "no distributions"),
        (lambda p, y: consensus(np.stack([p, 3 * p]), [1, 1]), "no distributions"),
        (lambda p, y: consensus(p[None, :0], [1]), "no distributions"),
        (lambda p, y: consensus(np.stack([p, p]), [1, np.inf]), "counts"),
        (lambda p, y: selective(p, p[None], y - 1), "labels of the proxy set"),
        (lambda p, y: selective(p, p[None], y + 2), "labels of the proxy set"),
        (lambda p, y: selective(p, p[None], y.astype(np.float64)), "labels of the proxy set"),
        (lambda p, y: selective(p * np.nan, p[None], y), "no distributions"),
        (lambda p, y: selective(p, p[None], y, p[:1]), "what was kept"),
        (lambda p, y: learn(_LINEAR, np.zeros((2, 4)), p * np.nan), "no distributions"),
        (lambda p, y: learn(_LINEAR, np.zeros((0, 4)), p[:0]), "no distributions"),
        (lambda p, y: learn(_LINEAR, np.full((2, 4), np.inf), p), "not finite"),
        (lambda p, y: learn(_LINEAR, np.zeros((2, 4)), p, held=-1.0), "held by -1"),
    ],
)
def test_what_would_end_in_a_head_of_nan_or_in_another_class_is_refused(call: Any, said: str) -> None:
    p, y = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), np.array([0, 2])
    with pytest.raises((ShapeError, LabelError), match=said):
        call(p, y)
