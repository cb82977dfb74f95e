"""Local steps of the head: batches in an order drawn from the seed, until they are done or not allowed any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from protos.orders import StopReason
from protos.update.codecs import generator

Rows = npt.NDArray[np.int64]


@runtime_checkable
class DrawsNoise(Protocol):
    """A head whose steps draw."""

    def draw_from(self, random: np.random.Generator) -> None:
        """Where it draws from."""
        ...


class Trainable(Protocol):
    """The part of a head that training needs."""

    batch_size: int

    def train_step(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        weight: npt.NDArray[np.float32] | None = None,
        **inputs: float,
    ) -> float:
        """One step; returns the loss before it."""
        ...


@dataclass(frozen=True)
class Trained:
    """What came of it. Losses are means over the first and the last pass (or half, when there is less than two)."""

    steps: int
    stop_reason: StopReason
    loss_first: float | None
    loss_last: float | None


def batches(count: int, size: int, random: np.random.Generator) -> Iterator[Rows]:
    """Row numbers of one batch after another, without end: full passes, each in an order of its own.

    The last batch of a pass may be smaller; the head masks what is missing.

    >>> [len(rows) for rows, _ in zip(batches(5, 2, np.random.default_rng(0)), range(4))]
    [2, 2, 1, 2]
    """
    while True:
        order = random.permutation(count).astype(np.int64)
        for start in range(0, count, size):
            yield order[start : start + size]


def balanced_weights(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Weights with which every class that is there has the same say, float32 [N], 1 in the mean.

    An example of class c weighs N / (K n_c), with n_c examples of its class and K classes that have any.

    >>> balanced_weights(np.array([0, 0, 0, 2], np.int32)).tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    present, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float32] = (len(labels) / (len(present) * counts[place])).astype(np.float32)
    return weights


def train(
    head: Trainable,
    embeddings: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    dequantise: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    *,
    steps: int,
    inputs: Mapping[str, float],
    seed: int,
    purpose: tuple[str | int, ...],
    allowed: Callable[[], StopReason | None],
    weights: npt.NDArray[np.float32] | None = None,
) -> Trained:
    """Do up to ``steps`` steps on quantised embeddings [N, D] (they may be memory-mapped) and labels int32 [N], or
    float32 [N, K] of quantities.

    Args:
        dequantise: embeddings as stored to what the head takes: float32, or as they are.
        inputs: of the train signature; what is missing takes the bundle's default.
        purpose: with ``seed``, all that the order of examples depends on.
        allowed: asked before each step; None to go on.
        weights: float32 [N], share of each example in the mean loss of its batch; None: alike.
    """
    losses: list[float] = []
    # Heads that draw noise draw it from a sequence of its own, the same for the same order.
    if isinstance(head, DrawsNoise):
        head.draw_from(generator(seed, "noise", *purpose))
    stop_reason = StopReason.COMPLETED
    for rows in batches(len(labels), head.batch_size, generator(seed, "batches", *purpose)):
        if len(losses) >= steps:
            break
        refused = allowed()
        if refused is not None:
            stop_reason = refused
            break
        share = None if weights is None else weights[rows]
        losses.append(head.train_step(dequantise(embeddings[rows]), labels[rows], share, **inputs))
    passes = -(-len(labels) // head.batch_size)
    window = max(1, min(passes, len(losses) // 2))
    first = float(np.mean(losses[:window])) if losses else None
    last = float(np.mean(losses[-window:])) if losses else None
    return Trained(len(losses), stop_reason, first, last)
