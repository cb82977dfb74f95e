"""Opens a SavedModel, freezes its signature, and cuts it at a tensor of the frozen graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from firmware_tools.convert.sources.source import (
    FloatModel,
    checked_input,
    class_count,
    no_such_cut,
    plain_tail,
    vector_width,
)
from protos.errors import ModelError
from protos.model.head_algebra import Array, Tree

_THROUGH = ("Identity", "Softmax", "LogSoftmax", "Sigmoid", "BiasAdd", "Add", "AddV2", "Reshape", "Squeeze", "Cast",
            "EnsureShape", "NoOp", "StopGradient", "PreventGradient")  # fmt: skip
_COPIES = ("Identity", "StopGradient", "PreventGradient", "EnsureShape")


def open_saved_model(path: Path, *, cut: str | None, input_shape: tuple[int, ...] | None) -> FloatModel:
    """Load a SavedModel and cut its signature: at tensor ``cut``, or else at the input of the last MatMul.

    Raises:
        ModelError: it cannot be loaded, or not be cut there.
    """
    where = path.name
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises what its readers and its graph importer raise
        text = " ".join(str(error).split())[:240]
        raise ModelError(f"TensorFlow cannot load it: {text or type(error).__name__}", where=where) from error
    signature = _signature(loaded, where)
    frozen = convert_variables_to_constants_v2(signature)
    source = _only_input(frozen, where)
    shape = checked_input([*source.shape.as_list()] if source.shape.rank else [], input_shape, where=where)
    if len(frozen.outputs) != 1:
        names = ", ".join(sorted(signature.structured_outputs))
        raise ModelError(f"its signature has {len(frozen.outputs)} outputs ({names}); only one can be cut", where=where)
    if cut is None:
        matmul = _last_matmul(frozen.outputs[0], where)
        tensor, label = matmul.inputs[0], f"input of {matmul.name} (output of {matmul.inputs[0].op.name})"
    else:
        tensor, label = _named(frozen.graph, cut, where), cut
    tail, note = _tail(frozen.outputs[0], tensor)
    if _behind_copies(tensor) is source:
        raise ModelError(f"the cut at {label!r} leaves no operation for the backbone", where=where)
    pruned = frozen.prune(source, tensor)
    batch = source.shape.as_list()[0]
    if batch not in (None, 1):
        raise ModelError(f"its signature takes batches of exactly {batch}", where=where,
                         fix="export it with a batch of None or 1")  # fmt: skip
    width = _width(pruned, shape, label, where)

    @tf.function(input_signature=[tf.TensorSpec([batch, *shape], tf.float32)])  # type: ignore[untyped-decorator]
    def embed(x: Any) -> Any:
        return tf.cast(tf.reshape(pruned(x), [-1, width]), tf.float32)

    return FloatModel(
        input_shape=shape,
        width=width,
        embed=embed,
        fixed_batch=batch,
        cut=label,
        tail=tail,
        tail_note=note,
        classes=class_count(_shape_of(frozen.outputs[0])),
        keep=(loaded, pruned),
        one_number=_shape_of(frozen.outputs[0])[-1:] == [1] and _behind_shapes(frozen.outputs[0]).op.type != "Sigmoid",
    )


def _signature(loaded: Any, where: str) -> Any:
    signatures = getattr(loaded, "signatures", {})
    if not signatures:
        raise ModelError("this SavedModel has no signature", where=where, fix="export it with model.export(FOLDER)")
    if "serving_default" in signatures:
        return signatures["serving_default"]
    if len(signatures) > 1:
        raise ModelError(f"has signatures {', '.join(sorted(signatures))}, none named serving_default", where=where)
    return next(iter(signatures.values()))


def _only_input(frozen: Any, where: str) -> Any:
    inputs = [one for one in frozen.inputs if one.dtype != tf.resource]
    if len(inputs) != 1:
        names = ", ".join(one.op.name for one in inputs)
        raise ModelError(f"its signature has {len(inputs)} inputs ({names}); only one can be cut", where=where)
    if inputs[0].dtype != tf.float32:
        raise ModelError(f"takes {inputs[0].dtype.name} values; only float32 input can be quantised", where=where)
    return inputs[0]


def _width(pruned: Any, shape: tuple[int, ...], label: str, where: str) -> int:
    try:
        value = pruned(tf.zeros([1, *shape], tf.float32))
    except Exception as error:  # shape errors of whatever operation comes first
        raise ModelError(f"does not run on {list(shape)}: {' '.join(str(error).split())[:200]}", where=where) from error
    result = value[0] if isinstance(value, (list, tuple)) else value
    if result.dtype not in (tf.float32, tf.float16, tf.bfloat16):
        raise ModelError(f"the cut at {label!r} gives {result.dtype.name}, not real values", where=where)
    return vector_width(result.shape.as_list(), cut=label, where=where)


def _constant(tensor: Any) -> Array | None:
    while tensor.op.type in _COPIES:
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "Const":
        return None
    return np.asarray(tf.make_ndarray(tensor.op.get_attr("value")), np.float32)


def _data_inputs(operation: Any) -> list[Any]:
    return [one for one in operation.inputs if _behind_copies(one).op.type != "Const"]


def _behind_copies(tensor: Any) -> Any:
    while tensor.op.type in _COPIES:
        tensor = tensor.op.inputs[0]
    return tensor


def _shape_of(tensor: Any) -> list[int | None]:
    return tensor.shape.as_list() if tensor.shape.rank else []


def _behind_shapes(tensor: Any) -> Any:
    while tensor.op.type in (*_COPIES, "Reshape", "Squeeze"):
        tensor = tensor.op.inputs[0]
    return tensor


def _last_matmul(tensor: Any, where: str) -> Any:
    fix = "name the operation whose output is the embedding with --cut NAME"
    while True:
        operation = tensor.op
        if operation.type == "MatMul":
            return operation
        sources = _data_inputs(operation)
        if operation.type == "Placeholder" or not sources:
            raise ModelError("has no MatMul (Dense layer)", where=where, fix=fix)
        if operation.type not in _THROUGH or (len(sources) != 1 and operation.type != "Reshape"):
            raise ModelError(f"its output comes from {operation.type} {operation.name!r}, not from a MatMul",
                             where=where, fix=fix)  # fmt: skip
        tensor = operation.inputs[0] if operation.type == "Reshape" else sources[0]


def _named(graph: Any, cut: str, where: str) -> Any:
    """Tensor ``op:0``, operation ``op``, or the last operation under a layer of that name."""
    operations = [one for one in graph.get_operations() if one.outputs and one.type not in ("Const", "Placeholder")]
    name, _, number = cut.partition(":")
    exact = [one for one in operations if one.name == name]
    under = [one for one in operations if f"/{name}/" in f"/{one.name}/"]
    found = exact or under
    if not found or (number and not number.isdigit()) or int(number or 0) >= len(found[-1].outputs):
        parts = {part for one in operations for part in (one.name, *one.name.split("/"))}
        raise no_such_cut(cut, sorted(parts), where=where)
    return found[-1].outputs[int(number or 0)]


def _tail(output: Any, cut: Any) -> tuple[Tree | None, str]:
    """The plain head from the cut to the output, if the operations between are one."""
    layers: list[tuple[Array, Array | None, bool]] = []
    bias: Array | None = None
    relu = False
    tensor, start = _behind_copies(output), _behind_copies(cut)
    while tensor is not start:
        operation = tensor.op
        sources = _data_inputs(operation)
        if len(sources) != 1:
            return None, f"operation {operation.name} behind the cut has {len(sources)} inputs"
        if operation.type == "MatMul":
            kernel = _constant(operation.inputs[1])
            if kernel is None or operation.get_attr("transpose_a"):
                return None, f"the kernel of {operation.name} is no constant"
            layers.insert(0, (kernel.T if operation.get_attr("transpose_b") else kernel, bias, relu))
            bias, relu = None, False
        elif operation.type in ("BiasAdd", "AddV2", "Add") and bias is None:
            bias = _constant(next(one for one in operation.inputs if one is not sources[0]))
        elif operation.type == "Relu" and layers and not relu and bias is None:
            relu = True
        elif operation.type not in ("Softmax", "LogSoftmax", "Sigmoid") or layers or bias is not None:
            return None, f"operation {operation.type} {operation.name} behind the cut is part of no head known here"
        tensor = _behind_copies(sources[0])
    if bias is not None or relu or any(one is not None and one.ndim != 1 for _, one, _ in layers):
        return None, "what follows the cut is no linear head, nor one with a ReLU hidden layer"
    return plain_tail(layers)
