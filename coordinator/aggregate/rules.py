"""Rules of aggregation: what one is, and the table of them.

A rule is three functions over explicit state: ``start(shapes) -> state``, ``add(state, contribution) -> state`` and
``finish(state) -> change``. ``add`` may reuse the arrays of the state that it is given. ``sees`` says what a rule must
be shown: a rule that sees ``one`` folds each contribution as it comes and keeps memory for one, whatever the number
of devices; a rule that sees ``all`` (a median) keeps them.

The contract of every row (one test-suite runs over the table): equal contributions come back as they are, up to
``normalise``; the order of contributions matters only in the last bits; scaling all weights by one factor changes
nothing; a contribution without weight or without steps has no effect; no contribution at all gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coordinator.aggregate.mean import Wide, add_fednova, add_plain, finish_fednova, finish_plain, start
from protos.update.trees import Shapes, Tree


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        start: shapes to an empty state.
        add: folds in (update, weight, local_normaliser): float32 tree, weight > 0, FedNova's ||a||_1 > 0.
        finish: the change of the head, float64 by name, or None when nothing was folded.
        sees: "one" contribution at a time, or "all" of a round.
    """

    start: Callable[[Shapes], Any]
    add: Callable[[Any, Tree, float, float], Any]
    finish: Callable[[Any], Wide | None]
    sees: Literal["one", "all"]
    meaning: str


RULES: Mapping[str, Rule] = {
    "fednova": Rule(
        start,
        add_fednova,
        finish_fednova,
        "one",
        "weighted mean, normalised for unequal local steps (Wang et al., NeurIPS 2020)",
    ),
    "none": Rule(start, add_plain, finish_plain, "one", "weighted mean (McMahan et al., AISTATS 2017)"),
}
