"""The median of each coordinate: one device that reports nonsense moves nothing (Yin et al., ICML 2018)."""

import numpy as np

from coordinator.extending import Rule, Shapes, Tree, Wide


def start(shapes: Shapes) -> list[Tree]:
    """Nothing folded yet."""
    return []


def add(state: list[Tree], update: Tree, weight: float, normaliser: float) -> list[Tree]:
    """Keep one report; it has a say or it has none, and no more than any other."""
    return [*state, update] if weight > 0 and normaliser > 0 else state


def finish(state: list[Tree]) -> Wide | None:
    """The change of the head; None when nobody had a say."""
    if not state:
        return None
    return {name: np.median([update[name].astype(np.float64) for update in state], axis=0) for name in state[0]}


MEDIAN = Rule(start, add, finish, "all", "median of each coordinate, whatever the weights above 0")
