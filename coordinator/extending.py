"""Names that a package with a weight factor or an aggregation rule may rely on.

The entry point in ``edgejoule.weights`` names a function of a :class:`Standing` that gives a number from 0 on; the one
in ``edgejoule.rules`` names a :class:`Rule`. The names here stay; the rooms that they come from may move. See
docs/extending.md.
"""

from coordinator.aggregate.mean import Wide
from coordinator.aggregate.rules import Rule
from coordinator.budgets.weights import Factor, Standing
from protos.errors import EdgejouleError, UsageError
from protos.update.trees import FloatArray, Shapes, Tree

__all__ = ["EdgejouleError", "Factor", "FloatArray", "Rule", "Shapes", "Standing", "Tree", "UsageError", "Wide"]
