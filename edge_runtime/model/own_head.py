"""The board's own head by its class means, where the bundle brings the class sums that these stand beside.

The rule is `protos/model/head_kinds/personal_means.py`; it looks at training examples alone, so that every held-out one
is left to judge what came of it. ``None``: the bundle, the head or the examples do not allow it.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.round.inputs.embeddings import dequantise
from edge_runtime.round.work import Workbench
from edge_runtime.systemd.logging_setup import log
from protos.errors import ModelError, NonFiniteError, ShapeError
from protos.model.bundle import BY_CLASS, GRAM
from protos.model.head_kinds.personal_means import FleetSums, own_means
from protos.update.trees import Tree

# Candidates are judged on so many at most: beyond, their losses are known well enough.
MOST_EXAMPLES = 1000


def own_head(head: Tree, bench: Workbench) -> tuple[float, Tree] | None:
    """The share of heads of the board's own in it, 0 to 1, and the head; the same examples give the same bits."""
    try:
        sums = bench.bundle.class_sums()
    except (ModelError, ShapeError, NonFiniteError) as error:
        log().warning("the bundle's class sums are of no use: %s", error)
        return None
    if sums is None or "hidden_kernel" in head:
        return None
    quantised, labels = bench.cache.view(), bench.summary.labels
    if len(labels) > MOST_EXAMPLES:
        chosen = np.sort(np.random.default_rng(len(labels)).permutation(len(labels))[:MOST_EXAMPLES])
        quantised, labels = quantised[chosen], labels[chosen]
    mean, scale = bench.bundle.feature_affine()
    features = (dequantise(quantised, bench.bundle.manifest.backbone) - mean) * scale
    fleet = FleetSums(sums[GRAM].astype(np.float64), sums[BY_CLASS].astype(np.float64))
    found = own_means(head, features, labels, fleet)
    if not all(np.isfinite(array).all() for array in found.tree.values()):
        log().warning("a head of its own came out with numbers that are not finite: the run's head stays")
        return 0.0, head
    return found.share, found.tree
