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

import numpy as np

from coordinator.aggregate.mean import Wide, add_fednova, add_plain, finish_fednova, finish_plain, start
from protos.plugins import Plugin, Table, guarded, wrong
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


BUILT_IN: Mapping[str, Rule] = {
    "fednova": Rule(
        start,
        add_fednova,
        finish_fednova,
        "one",
        "weighted mean, normalised for unequal local steps (Wang et al., NeurIPS 2020)",
    ),
    "none": Rule(start, add_plain, finish_plain, "one", "weighted mean (McMahan et al., AISTATS 2017)"),
}


def _adopt(plugin: Plugin, offered: object) -> Rule:
    """A rule of an installed package, whose change is held against the shapes that it began with."""
    if not isinstance(offered, Rule):
        raise wrong(plugin, f"is {type(offered).__name__}, not a Rule")
    start_it = guarded(plugin, offered.start, "start a round")
    finish_it = guarded(plugin, offered.finish, "finish a round")

    def start(expected: Shapes) -> Any:
        return ({name: tuple(shape) for name, shape in expected.items()}, start_it(expected))

    def add(state: Any, update: Tree, weight: float, normaliser: float) -> Any:
        return (state[0], add_it(state[1], update, weight, normaliser))

    def finish(state: Any) -> Wide | None:
        change = finish_it(state[1])
        if change is None:
            return None
        if not isinstance(change, Mapping) or {name: np.shape(value) for name, value in change.items()} != state[0]:
            raise wrong(plugin, "the change that it gives has not the tensors of the head")
        return {name: np.asarray(value, np.float64) for name, value in change.items()}

    add_it = guarded(plugin, offered.add, "fold in a report")
    return Rule(start, add, finish, offered.sees, offered.meaning)


RULES: Table[Rule] = Table("rules", BUILT_IN, _adopt)
"""Ours, and behind them those of installed packages."""
