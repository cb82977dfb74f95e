"""From raw examples to scores of the classes, by the model at work: backbone and head, one version from end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.model.current import Model
from protos.errors import ShapeError
from protos.model.backbone import Backbone
from protos.model.head import Head
from protos.model.head_algebra import Tree, logits_of
from protos.model.task import CLASSIFICATION, REGRESSION, scores_of

__all__ = ["Prediction", "Predictor", "probabilities"]


@dataclass(frozen=True)
class Prediction:
    """Scores of some examples.

    Attributes:
        version: of the head that made all of them.
        classes: names, in the order of the scores.
        scores: float32 [N, C], probabilities of the classes (softmax of the head's outputs); of a regression its
            quantities, of an anomaly model one score for each example.
    """

    version: str
    classes: tuple[str, ...]
    scores: npt.NDArray[np.float32]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """The best classes of each example, the best first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[at], float(row[at])) for at in best] for row, best in zip(self.scores, order, strict=True)
        ]


class Predictor:
    """One model, loaded. It never changes: another head is another predictor, which may share the backbone.

    Args:
        model: on disk.
        threads: CPU threads of the backbone.
        backbone: of the same bundle, loaded before.

    Raises:
        ModelError: the backbone does not load.
    """

    def __init__(self, model: Model, *, threads: int = 1, backbone: Backbone | None = None) -> None:
        self.model = model
        self.backbone = backbone or Backbone(model.bundle, threads=threads)
        self._mean, self._scale = model.bundle.feature_affine()
        self._head: Tree = dict(model.head)
        self._task = model.bundle.manifest.task
        # Quantities and deviations have units and forms that the compiled head knows, and so have layers before it.
        plain = self._task == CLASSIFICATION and model.bundle.manifest.head.tail is None
        self._compiled = None if plain else Head(model.bundle)
        if self._compiled is not None:
            self._compiled.write(model.head)

    @property
    def version(self) -> str:
        """Of the head."""
        return self.model.about.version

    def with_head(self, model: Model) -> Predictor | None:
        """The same backbone under another head; None where the bundle is another."""
        if model.bundle.bundle_id != self.model.bundle.bundle_id:
            return None
        return Predictor(model, backbone=self.backbone)

    def predict(self, x: npt.NDArray[Any]) -> Prediction:
        """Scores of raw examples.

        Args:
            x: uint8 or floating [N, *input_shape], before preprocessing; dimensions of 1 may lack or be too many.

        Raises:
            ShapeError: examples of another shape or type. NonFiniteError: NaN or infinity in them.
        """
        raw = fitted(x, self.model.bundle.manifest.backbone.input_shape)
        codes = self.backbone.embed(raw)
        if self._compiled is not None and self._compiled.takes_integers:
            return Prediction(self.version, self.model.classes, probabilities(self._compiled.infer(codes)))
        embeddings = self.backbone.dequantise(codes)
        if self._compiled is None:
            logits = logits_of(self._head, (embeddings - self._mean) * self._scale)
            return Prediction(self.version, self.model.classes, probabilities(logits))
        outputs = self._compiled.infer(embeddings)
        if self._task == REGRESSION:
            return Prediction(self.version, self.model.classes, outputs)
        return Prediction(self.version, ("anomaly",), scores_of(outputs)[:, None].astype(np.float32))


def fitted(x: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Raw examples [N, ...] as [N, *shape], where only dimensions of 1 differ.

    Raises:
        ShapeError: any other difference.
    """
    given = tuple(x.shape[1:])
    if [one for one in given if one != 1] != [size for size in shape if size != 1]:
        raise ShapeError(f"examples have shape {list(given)}, the model takes {list(shape)}")
    return x.reshape(len(x), *shape)


def probabilities(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """``exp(z - max z) / sum exp(z - max z)`` along the last axis, in float64.

    >>> probabilities([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    z = np.asarray(logits, np.float64)
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    shares: npt.NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares
