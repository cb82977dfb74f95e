"""Cross-entropy plus the absolute values of the kernels, so that many of them stay at 0 (Tibshirani 1996)."""

from typing import Any

import tensorflow as tf

from firmware_tools.extending import Objective, Tensors, TrainInput


def lasso(forward: Any, tree: Tensors, cross_entropy: Any, inputs: Tensors) -> Any:
    """What a training step minimises; only operators that TFLite has as builtins."""
    kernels = [tree[name] for name in sorted(tree) if name.endswith("_kernel")]
    return cross_entropy(forward(tree)) + inputs["l1"] * tf.add_n([tf.reduce_sum(tf.abs(kernel)) for kernel in kernels])


LASSO = Objective(lasso, "cross-entropy and |w|", (TrainInput("l1", 1e-4, 0.0, 1.0, "coefficient of |w|"),))
