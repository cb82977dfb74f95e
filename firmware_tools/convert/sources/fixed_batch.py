"""A frozen function of a fixed batch as one of a batch of 1.

A model that was exported with a batch of 8 has 8 in the shapes that its operations are told. They are told 1 instead,
and what comes of that is held against the first of eight examples: where it is not the same, examples of a batch were
mixed, and there is no such function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Which input of an operation is a shape that begins with the batch.
_SHAPES = {"Reshape": 1, "Fill": 0, "BroadcastTo": 1, "TensorListReserve": 0, "Slice": 2}
_TOLERANCE = 1e-3


def for_one(pruned: Any, batch: int, shape: Sequence[int]) -> Any | None:
    """The same function for one example; None where there is none.

    Args:
        pruned: a frozen function of one input [batch, *shape] and one output.
        batch: what it takes.
    """
    definition = _told_one(pruned, batch)
    ends = [pruned.inputs[0].name], [pruned.outputs[0].name]
    try:
        wrapped = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(definition, name=""), [])
        one = wrapped.prune(*([wrapped.graph.get_tensor_by_name(name) for name in names] for names in ends))
        rng = np.random.default_rng(0)
        value = tf.cast(rng.uniform(0, 1, (1, *shape)), pruned.inputs[0].dtype)
        others = tf.cast(rng.uniform(0, 1, (batch - 1, *shape)), value.dtype)
        found, wanted = (_numbers(run(x)) for run, x in ((one, value), (pruned, tf.concat([value, others], 0))))
    except (ValueError, TypeError, KeyError, tf.errors.OpError):  # a shape that does not fit, somewhere inside
        return None
    if found.shape != (1, *wanted.shape[1:]) or len(wanted) != batch:
        return None
    largest = max(1e-6, float(np.abs(wanted[0]).max(initial=0.0)))
    return one if float(np.abs(found[0] - wanted[0]).max(initial=0.0)) <= _TOLERANCE * largest else None


def _told_one(pruned: Any, batch: int) -> Any:
    definition = pruned.graph.as_graph_def()
    nodes = {node.name: node for node in definition.node}
    for node in list(definition.node):
        node.attr.pop("_output_shapes", None)
        if node.name == pruned.inputs[0].op.name:
            node.attr["shape"].shape.dim[0].size = 1
        place = _SHAPES.get(node.op)
        if place is None:
            continue
        source = nodes.get(node.input[place].split(":")[0])
        while source is not None and source.op == "Identity":
            source = nodes.get(source.input[0].split(":")[0])
        if source is None or source.op != "Const":
            continue
        told = tf.make_ndarray(source.attr["value"].tensor)
        if told.ndim != 1 or told.dtype.kind != "i" or not told.size or told[0] != batch:
            continue
        # Others may read the same constant, and mean another thing by it.
        mine = definition.node.add()
        mine.CopyFrom(source)
        mine.name = f"{node.name}/for_one"
        changed = np.concatenate([np.ones(1, told.dtype), told[1:]])
        mine.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(changed))
        node.input[place] = mine.name
    return definition


def _numbers(value: Any) -> Any:
    return np.asarray(value[0] if isinstance(value, (list, tuple)) else value, np.float64)
