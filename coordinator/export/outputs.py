"""Exported models whose outputs are no class scores: what they mean, and how good they are, by running them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.export.parity import run_model
from coordinator.operator.status import Measured
from protos.errors import CheckFailed
from protos.model.backbone import Backbone, quantise
from protos.model.bundle import Bundle
from protos.model.head_algebra import Array, Tree, fold_standardisation, logits_of
from protos.model.manifest import Manifest
from protos.model.task import (
    ANOMALY,
    CLASSIFICATION,
    MEASURES,
    REGRESSION,
    Judgement,
    judged_quantities,
    judged_scores,
    scores_of,
)


def plain_head(bundle: Bundle, tree: Tree) -> Tree:
    """The head on plain embeddings, whose outputs are class scores, standardised quantities, or deviations.

    Quantities of unlike units (101,325 Pa beside a share of 0.4) would share one int8 scale: they leave the file
    standardised, and its metadata say what to multiply them with, and what to add.

    A head that reconstructs gives ``r(x) - x`` of standardised features x, which is a head with a hidden layer too:
    x is what the two units relu(x) and relu(-x) of each feature add up to, x = relu(x) - relu(-x).
    """
    mean, scale = bundle.feature_affine()
    if bundle.manifest.task == ANOMALY and "hidden_kernel" in tree:
        unit = np.eye(len(mean), dtype=np.float32)
        nothing = np.zeros(len(mean), np.float32)
        tree = {
            "hidden_kernel": np.concatenate([tree["hidden_kernel"], unit, -unit], axis=1),
            "hidden_bias": np.concatenate([tree["hidden_bias"], nothing, nothing]),
            "out_kernel": np.concatenate([tree["out_kernel"], -unit, unit], axis=0),
            "out_bias": tree["out_bias"],
        }
    return fold_standardisation(tree, mean, scale)


def meaning(bundle: Bundle) -> dict[str, Any]:
    """What whoever runs the file must know of its outputs; nothing of a classifier."""
    manifest = bundle.manifest
    if manifest.task == CLASSIFICATION:
        return {}
    if manifest.task == ANOMALY:
        return {"task": ANOMALY, "score": "mean of the squares of the outputs"}
    mean, scale = bundle.target_affine()
    return {"task": REGRESSION, "quantities": {"multiply": scale.tolist(), "add": mean.tolist()}}


def judged(manifest: Manifest, outputs: NDArray[Any], labels: NDArray[Any]) -> Judgement:
    """How good the outputs of a head that is no classifier are."""
    if manifest.task == REGRESSION:
        return judged_quantities(outputs, labels)
    return judged_scores(scores_of(outputs), labels)


def measured(bundle: Bundle, plain: Tree, model: bytes, test_x: NDArray[Any], test_y: NDArray[Any]) -> Measured:
    """Run both.

    Args:
        plain: see :func:`plain_head`.
        test_x: [M, ...] raw examples; test_y: [M] or [M, K].
    """
    manifest = bundle.manifest
    runner = Backbone(bundle)
    original: Array = logits_of(plain, runner.dequantise(runner.embed(test_x)))
    shape = manifest.backbone.input_shape
    examples = (quantise(x.reshape(shape), manifest.backbone, manifest.preprocessing) for x in test_x)
    integers, affine = run_model(model, examples)
    mean, scale = (array.astype(np.float64) for array in bundle.target_affine())
    before, after = (judged(manifest, array * scale + mean, test_y) for array in (original, affine.real(integers)))
    names = manifest.classes if manifest.task == REGRESSION else ()
    return Measured(
        MEASURES[manifest.task],
        before.score,
        after.score,
        dict(zip(names, before.rmse, strict=True)),
        dict(zip(names, after.rmse, strict=True)),
    )


def require_kept(found: Measured, limit: float, where: str) -> None:
    """Refuse an export that lost more of its measure than it may.

    Raises:
        CheckFailed: it did.
    """
    if found.float_score is None or found.exported_score is None or found.float_score - found.exported_score <= limit:
        return
    raise CheckFailed(
        f"the exported model has {found.measure} {found.exported_score:.4f}, the float head {found.float_score:.4f}, "
        f"more than {limit:g} apart",
        where=where,
        fix="calibrate with more varied examples, or allow more with --max-drop",
    )
