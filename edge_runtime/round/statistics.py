"""Statistics of the local examples: one pass over embeddings that are there, no step, no head."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.model.bundle import Bundle
from protos.statistics.coding import MAX_TRAVELLING
from protos.statistics.features import FeatureMap, centre_of
from protos.statistics.moments import Moments, moments_of, total
from protos.statistics.quantities import digits_of

# Rows that are projected at once.
_BLOCK = 1024


def check_features(features: FeatureMap, bundle: Bundle) -> None:
    """Refuse what this bundle's embeddings cannot be summed by.

    Raises:
        UpdateError: the order does not fit the bundle.
    """
    spec = bundle.manifest.backbone
    if features.offset != spec.output_zero_point or features.project > spec.embedding_width:
        raise UpdateError(
            f"statistics of embeddings less {features.offset} in {features.width(spec.embedding_width)} numbers; this "
            f"bundle's have the offset {spec.output_zero_point} and {spec.embedding_width}",
            where="order",
        )


def summed(
    bundle: Bundle, embeddings: npt.NDArray[Any], labels: npt.NDArray[np.int32], features: FeatureMap
) -> Moments:
    """The exact sums over these examples; of a regression, with the digits of its quantities as further numbers.

    Args:
        embeddings: int8 or uint8 [N, D]; may be memory-mapped.
        labels: int32 [N]; of a regression float32 [N, K].

    Raises:
        LabelError: a quantity so far from those of the conversion that sums in fixed point do not hold it.
        UpdateError: more examples than one device sends statistics of.
    """
    if len(labels) > MAX_TRAVELLING:
        raise UpdateError(f"statistics of {len(labels)} examples; a device sends at most {MAX_TRAVELLING}")
    classes = bundle.manifest.summed_classes
    if features.project:
        spec = bundle.manifest.backbone
        centre = centre_of(bundle.feature_affine()[0], spec.output_scale, spec.output_zero_point)
        blocks = [
            features.of(embeddings[begin : begin + _BLOCK], centre) for begin in range(0, len(labels), _BLOCK)
        ] or [np.empty((0, features.project), np.int8)]
        embeddings = np.concatenate(blocks)
    if bundle.manifest.quantities is not None:
        offset = features.summed_offset
        digits = digits_of(labels, *bundle.target_affine(), embeddings.dtype, offset)
        parts = []
        for at in range(0, len(labels), _BLOCK):
            numbers = np.concatenate([embeddings[at : at + _BLOCK], digits[at : at + _BLOCK]], axis=1)
            parts.append(moments_of(numbers, np.zeros(len(numbers), np.int32), classes, offset))
        return total(parts, classes, embeddings.shape[1] + digits.shape[1])
    return moments_of(embeddings, labels, classes, features.summed_offset)
