"""Devices that answer orders of statistics with the exact sums of made-up embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from protos.orders import TrainOrder
from protos.statistics import coding
from protos.statistics.features import centre_of
from protos.statistics.moments import Moments, moments_of


def embeddings_of(seed: int, count: int, width: int, classes: int, lowest: int = 0) -> tuple[Any, Any]:
    """int8 [count, width] around a mean for each class, and labels int32 [count] of lowest..classes-1."""
    means = np.random.default_rng(99).normal(0, 40, (classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(lowest, classes, count).astype(np.int32)
    values = means[labels] + random.normal(0, 20, (count, width))
    return np.clip(np.rint(values), -128, 127).astype(np.int8), labels


def moments_for(order: TrainOrder, bundle: Any, embeddings: Any, labels: Any) -> Moments:
    """What an order of statistics asks for."""
    assert order.statistics is not None
    spec = bundle.manifest.backbone
    centre = centre_of(bundle.feature_affine()[0], spec.output_scale, spec.output_zero_point)
    numbers = order.statistics.of(embeddings, centre)
    return moments_of(numbers, labels, len(bundle.manifest.classes), order.statistics.summed_offset)


def answer(device: Any, order: TrainOrder, bundle: Any, embeddings: Any, labels: Any, **fields: Any) -> Any:
    """An honest report of statistics, but for ``fields``."""
    assert order.statistics is not None
    assert order.steps == 0
    coded = coding.encode(moments_for(order, bundle, embeddings, labels), order.statistics.summed_offset)
    given = {"update": (), "statistics": coded, "examples": len(labels), "local_normaliser": 0.0, "steps_done": 0}
    return device.answer(order, {}, **{**given, "loss_first": None, "loss_last": None, **fields})
