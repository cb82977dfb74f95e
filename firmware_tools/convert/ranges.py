"""How wide the int8 ranges should be: narrow ones clip rare large values, wide ones round all the others coarsely.

The converter takes the least and the greatest value that it saw, so more examples only ever widen the ranges, and the
rounding error grows with them. On ResNet8 the embedding error is 3.3 % with the ranges of 10 examples and 4.2 % with
those of 500. So ranges of a few nested subsets are tried, and the one whose embeddings are nearest to the float ones
over all the examples wins: clipping that hurts shows there. (The trade-off: Nagel et al. 2021, arXiv:2106.08295, 3.1.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_tools.child import Progress
from firmware_tools.convert.source import FloatModel
from firmware_tools.inspect.model import ModelFacts
from protos.model.backbone import Backbone
from protos.model.head_algebra import Array
from protos.model.manifest import BackboneSpec, ChannelAffine, Preprocessing

_SUBSETS = (8, 24, 96)
_JUDGED_EXAMPLES = 256
_MANY_OPERATIONS = 1000


def backbone_spec(facts: ModelFacts, input_shape: tuple[int, ...], file: str) -> BackboneSpec:
    """What the manifest says of an integer backbone with these facts."""
    taken, given = facts.inputs[0], facts.outputs[0]
    return BackboneSpec(
        file=file,
        input_shape=input_shape,
        input_dtype=taken.dtype,
        input_scale=taken.scales[0],
        input_zero_point=taken.zero_points[0],
        embedding_width=int(np.prod(given.shape)),
        output_dtype=given.dtype,
        output_scale=given.scales[0],
        output_zero_point=given.zero_points[0],
        macs=facts.macs(),
    )


def real_values(raw: npt.NDArray[Any], rule: Preprocessing) -> Array:
    """Raw values as what ``rule`` makes of them, float32; computed in float64, since 101,325 Pa needs its last bits."""
    real = np.asarray(raw, np.float64) * rule.multiply + rule.add
    if rule.per_channel is not None:
        real = real * rule.per_channel.multiply + rule.per_channel.add
    return real.astype(np.float32)


def with_lifted(
    rule: Preprocessing, multiply: npt.NDArray[np.float64], add: npt.NDArray[np.float64], channels: int
) -> Preprocessing:
    """Preprocessing, followed by ``x * multiply + add`` with values [C] or []; one factor for all stays one factor.

    A channel whose factor is 0 (the layer in front leaves nothing of it) or no number cannot be lifted: refused by the
    manifest, and left in the model by the caller.
    """
    if multiply.ndim == add.ndim == 0 or (np.ptp(multiply) == 0 and np.ptp(add) == 0):
        factor, offset = float(multiply.flat[0]), float(add.flat[0])
        return Preprocessing(rule.multiply * factor, rule.add * factor + offset)
    spread = [tuple(float(one) for one in np.broadcast_to(value, (channels,))) for value in (multiply, add)]
    return Preprocessing(rule.multiply, rule.add, ChannelAffine(spread[0], spread[1]))


def _spread(count: int, total: int) -> npt.NDArray[np.int64]:
    """``count`` indices, evenly spread over ``total``."""
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def best_backbone(
    model: FloatModel,
    examples: npt.NDArray[Any],
    preprocessing: Preprocessing,
    path: Path,
    *,
    where: str,
    progress: Progress,
) -> tuple[Backbone, ModelFacts, int]:
    """Quantise a cut model with the best of some ranges, and write it to ``path``.

    Args:
        model: the cut float model.
        examples: raw calibration examples [N, *input_shape], N >= 1.
        preprocessing: raw values to what the float model takes.
        path: file to write; left-overs of a failed attempt may stay there.
        where: name of the model for errors.
        progress: told how far it is.

    Returns:
        The runner of the integer backbone (its ``preprocessing`` includes what was lifted out of the model's front),
        its facts, and how many examples gave its ranges.

    Raises:
        ModelError: see `firmware_tools.convert.quantise`.
    """
    # Here and not above: an extractor needs the specification only, and no TensorFlow.
    from firmware_tools.convert.quantise import quantise_backbone, static_backbone

    static = static_backbone(model, where=where)
    whole = with_lifted(preprocessing, static.lifted.multiply, static.lifted.add, model.input_shape[-1])
    judged = examples[_spread(min(len(examples), _JUDGED_EXAMPLES), len(examples))]
    original = model.embed_all(judged, lambda raw: real_values(raw, preprocessing))
    best: tuple[float, bytes, int] | None = None
    # A loop that was written out has thousands of operations, and the converter takes a minute for each attempt.
    subsets = _SUBSETS if len(static.function.graph.get_operations()) < _MANY_OPERATIONS else _SUBSETS[1:2]
    for count in (*(one for one in subsets if one < len(examples)), len(examples)):
        content, facts = quantise_backbone(
            model, static, examples[_spread(count, len(examples))], lambda raw: real_values(raw, whole),
            where=where, progress=progress,
        )  # fmt: skip
        path.write_bytes(content)
        spec = backbone_spec(facts, model.input_shape, path.name)
        runner = Backbone.from_file(path, spec, whole)
        error = float(np.square(runner.dequantise(runner.embed(judged)) - original).sum())
        if best is None or error < best[0]:
            best = (error, content, count)
            kept = runner, facts
    assert best is not None
    path.write_bytes(best[1])
    return *kept, best[2]
