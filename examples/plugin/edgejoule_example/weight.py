"""A weight factor between "every device alike" and "by examples"."""

import math

from coordinator.extending import Standing


def by_root_examples(standing: Standing) -> float:
    """The square root of the number of training examples."""
    return math.sqrt(standing.examples)
