"""Names that a package with a training objective may rely on. Importing it imports TensorFlow.

The entry point in ``edgejoule.objectives`` names an :class:`Objective`. The names here stay; the rooms that they come
from may move. See docs/extending.md.
"""

from firmware_tools.convert.objectives import Loss, Objective, Tensors
from protos.errors import EdgejouleError, UsageError
from protos.model.manifest import TrainInput

__all__ = ["EdgejouleError", "Loss", "Objective", "Tensors", "TrainInput", "UsageError"]
