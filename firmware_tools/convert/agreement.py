"""How far an integer backbone is from its float original, on real examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protos.errors import CheckFailed
from protos.model.head_algebra import Array, Tree, logits_of


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Cosine between float and dequantised embeddings: mean and minimum over ``examples`` examples."""

    cosine_mean: float
    cosine_min: float
    examples: int


def cosine_agreement(float_embeddings: Array, int8_embeddings: Array) -> Agreement:
    """Cosine per example of two [N, D] arrays. Two zero vectors agree fully, a zero and another not at all."""
    a, b = float_embeddings.astype(np.float64), int8_embeddings.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = lengths[0] * lengths[1]
    cosine = (a * b).sum(axis=1) / np.where(product > 0, product, 1.0)
    cosine = np.where(product > 0, cosine, (lengths[0] == lengths[1]).astype(np.float64))
    return Agreement(float(cosine.mean()), float(cosine.min()), len(a))


def require(agreement: Agreement, minimum: float, *, where: str) -> None:
    """Raise `CheckFailed` when the mean cosine is under the minimum, or is no number."""
    if not agreement.cosine_mean >= minimum:
        raise CheckFailed(
            f"int8 embeddings agree only {agreement.cosine_mean:.8g} with the float ones (mean cosine over "
            f"{agreement.examples} examples), under --min-agreement {minimum}",
            where=where,
            fix="calibrate with more varied examples, check --preprocess, try --activations int16 or "
            "--qat DATA, or cut at another layer",
        )


def plain_accuracy(tree: Tree, embeddings: Array, labels: npt.NDArray[np.int32]) -> float:
    """Share of right answers of a plain head on float embeddings."""
    return float((logits_of(tree, embeddings).argmax(axis=1) == labels).mean())


def guessing(labels: npt.NDArray[np.int32]) -> float:
    """Share of right answers of whoever always names the most frequent class, and twice its standard error for luck."""
    chance = float(np.bincount(labels).max()) / len(labels)
    return chance + 2.0 * math.sqrt(chance * (1.0 - chance) / len(labels))


# A model that takes every class for one other is right in another order where it then gains so much.
_GAIN = 0.1


def other_order(
    tree: Tree, embeddings: Array, labels: npt.NDArray[np.int32], names: Sequence[str]
) -> tuple[float, list[str]] | None:
    """The names in the order that a plain head seems to know them in, and its share of right answers then.

    Folders are numbered as their names sort, and 10 sorts before 2: a model that was trained on numbers has them in
    their own order.

    Returns:
        None where the order is right already, or no other one is much better; every class must be there.
    """
    guesses = logits_of(tree, embeddings).argmax(axis=1)
    count = len(names)
    seen = np.zeros((count, count), np.int64)
    np.add.at(seen, (labels, guesses), 1)
    place = seen.argmax(axis=1)  # of each class, where the head has it
    if sorted(place) != list(range(count)) or not seen.any(axis=1).all():
        return None
    share = float(seen[np.arange(count), place].sum()) / len(labels)
    if share - float((guesses == labels).mean()) <= _GAIN or share <= guessing(labels):
        return None
    return share, [names[int(label)] for label in np.argsort(place)]
