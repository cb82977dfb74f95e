"""Token ids and the masks of a text's padding, in a graph that is written anew for integers.

A mask (``ids != 0``) becomes a table of ones and zeros that the ids are looked up in, and what chooses by it
``b + mask * (a - b)``: TFLite makes numbers of truth values in float only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_SHAPED = ("ExpandDims", "Reshape", "Transpose", "Tile", "Squeeze", "StridedSlice", "Slice", "BroadcastTo", "ReverseV2",
           "Unpack", "Pack", "ConcatV2", "Identity")  # fmt: skip
_WHOLE = (tf.int32, tf.int64)
FLOATS = (tf.float32, tf.float16, tf.bfloat16, tf.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Mask:
    """Truth values as real numbers, 1 and 0."""

    ones: Any


def of_ids(op: Any, inputs: list[Any], graph: Any, ids: Any, vocabulary: int) -> list[Any] | None:
    """What is done to token ids, without its detours; None where it is none of these.

    A model of Keras' default Input takes them as real numbers, and makes whole ones of them again. An Embedding moves
    ids below 0 behind the others, and there are none.

    Args:
        op: an operation of the old graph; ``inputs``, its values in the new one.
        graph: the new graph.
        ids: its input, int32 from 0 to ``vocabulary`` - 1.
    """
    if not inputs or not isinstance(inputs[0], tf.Tensor):
        return None
    if op.type in ("NotEqual", "Equal") and inputs[0] is ids and isinstance(inputs[1], np.ndarray):
        if inputs[1].size != 1:
            return None
        table = (np.arange(vocabulary) == inputs[1].item()) == (op.type == "Equal")
        with graph.as_default():
            return [Mask(tf.gather(tf.constant(table.astype(np.float32)), ids))]
    if op.type == "Cast" and op.outputs[0].dtype in _WHOLE and inputs[0].op.type == "Cast":
        before = inputs[0].op.inputs[0]
        if before.dtype in _WHOLE and before.dtype == op.outputs[0].dtype:
            return [before]
    below = inputs[0].op
    if op.type in ("Select", "SelectV2") and below.type == "Less" and below.inputs[0] is ids:
        zero = tf.get_static_value(below.inputs[1])
        if zero is not None and not np.any(zero):
            return [inputs[2]]
    return None


def of_mask(
    op: Any,
    inputs: list[Any],
    graph: Any,
    tensor_of: Callable[[Any], Any],
    copied: Callable[[Any, list[Any]], Any],
) -> list[Any] | None:
    """What is done to a mask, done to its ones and zeros; None where no mask is among the values.

    Args:
        tensor_of: a value as a tensor of the new graph.
        copied: the operation on these tensors, of real numbers.
    """
    if not any(isinstance(value, Mask) for value in inputs):
        return None
    first, real = inputs[0], op.outputs[0].dtype in FLOATS
    with graph.as_default():
        if op.type == "Cast" and real:
            return [first.ones]
        if op.type == "LogicalNot":
            return [Mask(1.0 - first.ones)]
        if op.type == "LogicalAnd" and all(isinstance(value, Mask) for value in inputs):
            return [Mask(inputs[0].ones * inputs[1].ones)]
        same = op.type == "SelectV2" or len({tuple(one.shape) for one in op.inputs if one.shape.rank}) == 1
        chooses = op.type in ("Select", "SelectV2") and same and real
        if chooses and isinstance(first, Mask) and not any(isinstance(value, Mask) for value in inputs[1:]):
            if isinstance(inputs[2], np.ndarray) and not inputs[2].any():
                return [first.ones * tensor_of(inputs[1])]
            one, other = (tensor_of(value) for value in inputs[1:])
            return [other + first.ones * (one - other)]
    if op.type in _SHAPED and all(isinstance(value, (Mask, np.ndarray)) for value in inputs):
        tensors = [value.ones if isinstance(value, Mask) else tensor_of(value) for value in inputs]
        return [Mask(one) for one in copied(op, tensors).outputs]
    return None
