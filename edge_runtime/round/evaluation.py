"""How good a head is on this board's own held-out examples: counts, loss, accuracy, by class.

Loss is the mean cross-entropy ``log sum_c exp z_c - z_y`` in nats, summed in float64 over blocks; logits are those of
``protos/model/head_algebra.py`` on standardised features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.round.inputs.embeddings import EmbeddingCache
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.model.head_algebra import logits_of
from protos.model.task import CLASSIFICATION
from protos.orders import HeadEvaluation
from protos.update import trees
from protos.update.trees import Tree


@dataclass(frozen=True)
class HeldOut:
    """The held-out examples of a board, for one bundle.

    Attributes:
        labels: int32 [N].
        cache: their embeddings, as far as they are there.
    """

    labels: npt.NDArray[np.int32]
    cache: EmbeddingCache

    def evaluate(self, head: Tree, bundle: Bundle, compiled: Head | None = None) -> HeadEvaluation | None:
        """Of a head in standardised space; None as long as embeddings lack, and of heads that are no classifiers.

        Args:
            compiled: see :func:`evaluate`.
        """
        if bundle.manifest.task != CLASSIFICATION or not self.cache.complete:
            return None
        return evaluate(head, bundle, self.cache.view(), self.labels, compiled)


_BLOCK = 1024
# A head that diverged may be certain of the wrong class; a message has no infinity.
_MOST_LOSS = 1e6


def evaluate(
    head: Tree,
    bundle: Bundle,
    embeddings: npt.NDArray[Any],
    labels: npt.NDArray[np.int32],
    compiled: Head | None = None,
) -> HeadEvaluation:
    """Evaluate a head.

    Args:
        head: in standardised space.
        embeddings: int8 or uint8 [N, D] as the backbone gives them, N >= 1; they may be memory-mapped.
        labels: int32 [N].
        compiled: the bundle's head file, open already and idle: lent, so that layers in front of the head need no
            second interpreter with an arena of its own. It holds afterwards what it held.
    """
    if bundle.manifest.head.tail is None:
        return _evaluated(head, bundle, embeddings, labels, _plain(head, bundle))
    # Layers before the head are in the compiled file alone.
    lent = Head(bundle) if compiled is None else compiled
    before = lent.read()
    lent.write(head)
    try:
        return _evaluated(head, bundle, embeddings, labels, lent.infer)
    finally:
        lent.write(before)


def _evaluated(
    head: Tree,
    bundle: Bundle,
    embeddings: npt.NDArray[Any],
    labels: npt.NDArray[np.int32],
    logits: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]],
) -> HeadEvaluation:
    classes = len(bundle.manifest.classes)
    of, right, loss = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0.0
    for start in range(0, len(labels), _BLOCK):
        y = labels[start : start + _BLOCK]
        z = logits(embeddings[start : start + _BLOCK]).astype(np.float64)
        top = z.max(axis=1)
        loss += float(np.sum(top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(y)), y]))
        of += np.bincount(y, minlength=classes)
        right += np.bincount(y[z.argmax(axis=1) == y], minlength=classes)
    mean_loss = loss / len(labels)
    return HeadEvaluation(
        trees.version(head),
        len(labels),
        int(right.sum()),
        min(mean_loss, _MOST_LOSS) if np.isfinite(mean_loss) else _MOST_LOSS,
        tuple(map(int, of)),
        tuple(map(int, right)),
    )


def _plain(head: Tree, bundle: Bundle) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """From embeddings as the backbone gives them to class scores."""
    spec = bundle.manifest.backbone
    mean, scale = bundle.feature_affine()

    def plain(quantised: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        real = (quantised.astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
        return logits_of(head, (real - mean) * scale)

    return plain
