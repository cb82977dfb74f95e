"""Who is asked: a random set in which everyone is with just the probability that was planned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def draw(probabilities: Mapping[str, float], random: np.random.Generator) -> list[str]:
    """Systematic sampling (Madow, "On the theory of systematic sampling, II", Ann. Math. Stat. 1949) in a shuffled
    order: inclusion probabilities are exact, and the number drawn is the sum of them, rounded up or down.

    Args:
        probabilities: by name, each in [0, 1].

    Returns:
        Names in the order in which they were given.
    """
    names = list(probabilities)
    order = random.permutation(len(names))
    ends = np.cumsum([probabilities[names[at]] for at in order])
    if not len(ends):
        return []
    # Whole steps from a random start; each covers one name, since none is wider than a step.
    crossed = np.floor(ends + random.random() + 1e-12).astype(np.int64)
    before = np.concatenate([[0], crossed[:-1]])
    chosen = {names[at] for at, new, old in zip(order, crossed, before, strict=True) if new > old}
    return [name for name in names if name in chosen]
