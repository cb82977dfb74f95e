"""A head that knows the classes in another order than the data's is told, with the order."""

from __future__ import annotations

import numpy as np

from firmware_tools.convert.agreement import other_order

NAMES = ("0", "1", "10", "2")
TREE = {"out_kernel": np.eye(4, dtype=np.float32), "out_bias": np.zeros(4, np.float32)}


def embeddings_of(guesses: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.eye(4, dtype=np.float32)[guesses]


def test_folders_that_sort_as_text_are_told_in_the_order_of_the_model() -> None:
    labels = np.tile(np.arange(4, dtype=np.int32), 10)
    # The model's third class is what the data call 2, and its fourth what they call 10.
    guesses = np.array([0, 1, 3, 2])[labels]
    guesses[0] = 3
    found = other_order(TREE, embeddings_of(guesses.tolist()), labels, NAMES)
    assert found == (39 / 40, ["0", "1", "2", "10"])


def test_a_head_in_the_right_order_or_one_that_guesses_is_not_told() -> None:
    labels = np.tile(np.arange(4, dtype=np.int32), 10)
    assert other_order(TREE, embeddings_of(labels.tolist()), labels, NAMES) is None
    assert other_order(TREE, embeddings_of([1] * 40), labels, NAMES) is None
    mixed = np.random.default_rng(0).integers(0, 4, 40)
    assert other_order(TREE, embeddings_of(mixed.tolist()), labels, NAMES) is None
    # A class that is not among the examples has no place.
    few = labels[labels < 3]
    assert other_order(TREE, embeddings_of(np.array([1, 0, 2])[few].tolist()), few, NAMES) is None
