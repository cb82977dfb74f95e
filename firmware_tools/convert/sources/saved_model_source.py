"""Opens a SavedModel, freezes its signature, and cuts it at a tensor of the frozen graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from firmware_tools.convert.frozen_graph import frozen_function
from firmware_tools.convert.sources.fixed_batch import for_one
from firmware_tools.convert.sources.source import (
    RESIDUAL,
    FloatModel,
    checked_input,
    class_count,
    listed_layers,
    no_such_cut,
    plain_tail,
    vector_width,
)
from protos.errors import ModelError, NonFiniteError
from protos.model.head_algebra import Array, Tree

_THROUGH = ("Identity", "Softmax", "LogSoftmax", "Sigmoid", "BiasAdd", "Add", "AddV2", "Reshape", "Squeeze", "Cast",
            "EnsureShape", "NoOp", "StopGradient", "PreventGradient", "Mul", "RealDiv")  # fmt: skip
_REALS = {tf.float16, tf.bfloat16, tf.float32, tf.float64}
_TABLES = ("GatherV2", "Gather", "ResourceGather")
# Operations that leave token ids what they are; an Embedding moves those below 0, of which there are none.
_KEEP_IDS = ("Identity", "StopGradient", "Cast", "Reshape", "ExpandDims", "Squeeze", "StridedSlice", "Select",
             "SelectV2", "AddV2", "Add", "Pack", "EnsureShape", "Placeholder")  # fmt: skip
_COPIES = ("Identity", "StopGradient", "PreventGradient", "EnsureShape")


def open_saved_model(
    path: Path,
    *,
    cut: str | None,
    input_shape: tuple[int, ...] | None,
    signature: str | None = None,
    residual: bool = False,
) -> FloatModel:
    """Load a SavedModel and cut its signature: at tensor ``cut``, or else at the input of the last MatMul.

    Args:
        signature: name of a signature, or of a function of the model; None for the only one, or serving_default.
        residual: see :func:`firmware_tools.convert.sources.keras_source.open_keras`.

    Raises:
        ModelError: it cannot be loaded, or not be cut there.
        NonFiniteError: a variable holds NaN or infinity.
    """
    where = path.name
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises what its readers and its graph importer raise
        text = " ".join(str(error).split())[:240]
        raise ModelError(
            f"TensorFlow cannot load it: {text or type(error).__name__}", where=where,
            fix="export it again with model.export(FOLDER), and copy the whole folder",
        ) from error  # fmt: skip
    _check_variables(loaded, where)
    concrete = _signature(loaded, where, signature)
    return cut_function(concrete, loaded, cut=cut, input_shape=input_shape, where=where, residual=residual)


def cut_function(
    concrete: Any,
    loaded: Any,
    *,
    cut: str | None,
    input_shape: tuple[int, ...] | None,
    where: str,
    layers: tuple[str, ...] = (),
    residual: bool = False,
) -> FloatModel:
    """Freeze a concrete function of one input and one output, and cut it at a tensor of the frozen graph.

    Args:
        concrete: TensorFlow's.
        loaded: the object that holds its variables; kept alive.
        cut: tensor, operation or layer; None for the input of the last MatMul.
        input_shape: shape of one example where the function leaves it open.
        where: name of the model, for errors.
        layers: names to cut at, for messages.

    Raises:
        ModelError: it cannot be cut there.
    """
    # Loops stay operations of their own, so that they can be written out later.
    frozen = frozen_function(concrete)
    source = _only_input(frozen, where)
    vocabulary = _vocabulary(source)
    if vocabulary is None:
        _require_reals(source, where)
    layers = layers or _scopes(frozen.graph)
    shape = checked_input([*source.shape.as_list()] if source.shape.rank else [], input_shape, where=where)
    several = f"has {len(frozen.outputs)} outputs" if len(frozen.outputs) != 1 else None
    if several and cut is None:
        names = ", ".join(each_tensor.op.name for each_tensor in frozen.outputs)
        raise ModelError(f"its signature {several} ({names}); only one can be cut", where=where,
                         fix=f"export a signature with the one that matters, or name the layer whose output is the "
                         f"embedding with --cut NAME{listed_layers(layers)}, and --classes N")  # fmt: skip
    residual = residual and cut is None and source.dtype == tf.float32 and _shape_of(frozen.outputs[0])[1:] == [*shape]
    if residual:
        tensor, label = frozen.outputs[0], RESIDUAL
    elif cut is None:
        matmul = _last_matmul(frozen.outputs[0], where, layers)
        tensor, label = matmul.inputs[0], f"input of {matmul.name} (output of {matmul.inputs[0].op.name})"
    else:
        tensor, label = _named(frozen.graph, cut, where), cut
    if residual or several:
        tail, note = None, RESIDUAL if residual else f"its signature {several}"
    else:
        tail, note = _tail(frozen.outputs[0], tensor)
    if _behind_copies(tensor) is source:
        raise ModelError(f"the cut at {label!r} leaves no operation for the backbone", where=where)
    pruned = frozen.prune(source, tensor)
    batch = source.shape.as_list()[0]
    if batch not in (None, 1):
        one = for_one(pruned, batch, shape)
        if one is None:
            raise ModelError(
                f"its signature takes batches of exactly {batch}, and mixes the examples of a batch", where=where,
                fix="export it with a batch of None or 1: model.export(FOLDER, input_signature=[keras.InputSpec(shape="
                "(None, ...))])",
            )  # fmt: skip
        pruned, batch = one, 1
    width = _width(pruned, shape, label, where)

    # Other real numbers are given as float32, and made what the signature takes inside.
    takes = tf.uint8 if source.dtype == tf.uint8 else tf.float32
    takes = takes if vocabulary is None else tf.int32

    @tf.function(input_signature=[tf.TensorSpec([batch, *shape], takes)], autograph=False)  # type: ignore[untyped-decorator]
    def embed(x: Any) -> Any:
        given = tf.cast(tf.reshape(pruned(tf.cast(x, source.dtype)), [-1, width]), tf.float32)
        return tf.reshape(x, [-1, width]) - given if residual else given

    return FloatModel(
        input_shape=shape,
        width=width,
        embed=embed,
        fixed_batch=batch,
        cut=label,
        tail=tail,
        tail_note=note,
        classes=None if several else class_count(_shape_of(frozen.outputs[0])),
        no_classifier=several,
        keep=(loaded, pruned),
        takes=takes.name,
        layers=layers,
        one_number=_shape_of(frozen.outputs[0])[-1:] == [1] and _behind_shapes(frozen.outputs[0]).op.type != "Sigmoid",
        constant=_shape_of(frozen.outputs[0])[-1:] == [1] and _behind_shapes(frozen.outputs[0]).op.type == "Softmax",
        linear=_behind_shapes(frozen.outputs[0]).op.type in ("MatMul", "BiasAdd", "Add", "AddV2"),
        residual=residual,
        vocabulary=vocabulary,
    )


def _check_variables(loaded: Any, where: str) -> None:
    """Refuse NaN and infinity in the variables of a SavedModel, by their names."""
    variables = [*getattr(loaded, "variables", ()), *getattr(loaded, "_all_variables", ())]
    for variable in variables:
        values = np.asarray(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise NonFiniteError(
                f"variable {variable.name} holds NaN or infinity", where=where,
                fix="take a checkpoint from before the loss became NaN, or train with a lower rate",
            )  # fmt: skip


def _scopes(graph: Any) -> tuple[str, ...]:
    """The innermost scopes in which the operations of a graph lie, in their order: the names of its layers."""
    found: dict[str, None] = {}
    for operation in graph.get_operations():
        parts = operation.name.split("/")
        if len(parts) > 1 and operation.type not in ("Const", "Placeholder", "NoOp", "Identity", "ReadVariableOp"):
            found.setdefault(parts[-2])
    return tuple(found)


def _signature(loaded: Any, where: str, asked: str | None) -> Any:
    signatures = dict(getattr(loaded, "signatures", {}))
    functions = {
        name: one.concrete_functions[0]
        for name, one in sorted(vars(loaded).items())
        if not name.startswith("_") and len(getattr(one, "concrete_functions", ())) == 1
    }
    known = {**functions, **signatures}
    if asked is not None:
        if asked not in known:
            raise ModelError(f"has no signature {asked!r}", where=where,
                             fix=f"choose one of {', '.join(sorted(known)) or 'none: export it again'}")  # fmt: skip
        return known[asked]
    if "serving_default" in signatures:
        return signatures["serving_default"]
    if len(signatures) == 1 or (not signatures and len(functions) == 1):
        return next(iter((signatures or functions).values()))
    if known:
        names = ", ".join(sorted(signatures or functions))
        raise ModelError(
            f"has the {'signatures' if signatures else 'functions'} {names}, none named serving_default", where=where,
            fix=f"choose one with --signature NAME, such as --signature {next(iter(signatures or functions))}",
        )  # fmt: skip
    raise ModelError("this SavedModel has no signature", where=where, fix="export it with model.export(FOLDER)")


def _only_input(frozen: Any, where: str) -> Any:
    inputs = [tensor for tensor in frozen.inputs if tensor.dtype != tf.resource]
    if len(inputs) != 1:
        names = ", ".join(tensor.op.name for tensor in inputs)
        raise ModelError(
            f"its signature has {len(inputs)} inputs ({names}); only one can be cut", where=where,
            fix="export a signature of the branch that sees the data, with one input",
        )  # fmt: skip
    return inputs[0]


def _require_reals(source: Any, where: str) -> None:
    if source.dtype in (*_REALS, tf.uint8):
        return
    text = source.dtype == tf.string
    raise ModelError(
        f"takes {source.dtype.name} values; only real numbers, uint8 and token ids that a table is looked up by can be "
        "quantised", where=where,
        fix="choose or export a signature that takes the decoded image, or the ids of the words" if text else
        "export one of float32",
    )  # fmt: skip


def _vocabulary(source: Any) -> int | None:
    """How many token ids the tables have that the input is looked up in, the least; None where it is in none."""
    rows: list[int] = []
    waiting, seen = [source], {source.ref()}
    while waiting:
        tensor = waiting.pop()
        for operation in tensor.consumers():
            if operation.type in _TABLES:
                table = operation.inputs[0].shape
                if operation.inputs[1] is tensor and table.rank and table[0] is not None:
                    rows.append(int(table[0]))
            elif operation.type in _KEEP_IDS:
                new = [output for output in operation.outputs if output.ref() not in seen]
                seen |= {output.ref() for output in new}
                waiting += new
    return min(rows, default=None)


def _width(pruned: Any, shape: tuple[int, ...], label: str, where: str) -> int:
    try:
        value = pruned(tf.zeros([1, *shape], pruned.inputs[0].dtype))
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
    return [tensor for tensor in operation.inputs if _behind_copies(tensor).op.type != "Const"]


def _behind_copies(tensor: Any) -> Any:
    while tensor.op.type in _COPIES:
        tensor = tensor.op.inputs[0]
    return tensor


def _factor(operation: Any, source: Any) -> float | None:
    """What an operation multiplies its one input with, where that is one number above 0."""
    if operation.type not in ("Mul", "RealDiv") or (operation.type == "RealDiv" and operation.inputs[0] is not source):
        return None
    value = _constant(next(tensor for tensor in operation.inputs if tensor is not source))
    if value is None or value.size != 1 or not np.isfinite(value).all() or not value.item() > 0:
        return None
    return float(value.item()) if operation.type == "Mul" else 1.0 / float(value.item())


def _adds_nothing(operation: Any, source: Any) -> bool:
    """Whether the other summand is zeros."""
    value = _constant(next(tensor for tensor in operation.inputs if tensor is not source))
    return value is not None and not value.any()


def _one_row(tensor: Any) -> int:
    """How many values an example has, where they stand in one row: one size, at most, is above 1. Else 0."""
    sizes = _shape_of(tensor)[1:]
    known = [size for size in sizes if size is not None]
    if not sizes or len(known) < len(sizes) or sum(one != 1 for one in known) > 1:
        return 0
    return int(np.prod(known))


def _shape_of(tensor: Any) -> list[int | None]:
    return tensor.shape.as_list() if tensor.shape.rank else []


def _behind_shapes(tensor: Any) -> Any:
    while tensor.op.type in (*_COPIES, "Reshape", "Squeeze"):
        tensor = tensor.op.inputs[0]
    return tensor


def _last_matmul(tensor: Any, where: str, layers: tuple[str, ...]) -> Any:
    named = listed_layers([layer for layer in layers if layer not in tensor.op.name.split("/")])
    fix = f"name the operation or layer whose output is the embedding with --cut NAME{named}, and --classes N"
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
    operations = [
        operation
        for operation in graph.get_operations()
        if operation.outputs and operation.type not in ("Const", "Placeholder")
    ]
    name, _, number = cut.partition(":")
    exact = [operation for operation in operations if operation.name == name]
    under = [operation for operation in operations if f"/{name}/" in f"/{operation.name}/"]
    found = exact or under
    if not found or (number and not number.isdigit()) or int(number or 0) >= len(found[-1].outputs):
        parts = {part for operation in operations for part in (operation.name, *operation.name.split("/"))}
        raise no_such_cut(cut, sorted(parts), where=where)
    return found[-1].outputs[int(number or 0)]


def _tail(output: Any, cut: Any) -> tuple[Tree | None, str]:
    """The plain head from the cut to the output, if the operations between are one."""
    layers: list[tuple[Array, Array | None, bool]] = []
    bias: Array | None = None
    relu, gain = False, 1.0
    tensor, start = _behind_copies(output), _behind_copies(cut)
    while tensor is not start:
        operation = tensor.op
        # The shape that a Reshape takes is no value of the head, though it may be computed.
        moved = operation.type in ("Reshape", "Squeeze")
        sources = list(operation.inputs)[:1] if moved else _data_inputs(operation)
        if len(sources) != 1:
            return None, f"operation {operation.name} behind the cut has {len(sources)} inputs"
        if operation.type == "MatMul":
            kernel = _constant(operation.inputs[1])
            if kernel is None or operation.get_attr("transpose_a"):
                return None, f"the kernel of {operation.name} is no constant"
            kernel = kernel.T if operation.get_attr("transpose_b") else kernel
            layers.insert(0, (kernel * np.float32(gain), None if bias is None else bias * np.float32(gain), relu))
            bias, relu, gain = None, False, 1.0
        elif operation.type in ("AddV2", "Add") and _adds_nothing(operation, sources[0]):
            pass  # Rescaling adds its offset, if it has one or not
        elif operation.type in ("BiasAdd", "AddV2", "Add") and bias is None:
            bias = _constant(next(each_tensor for each_tensor in operation.inputs if each_tensor is not sources[0]))
        elif operation.type == "Relu" and layers and not relu and bias is None:
            relu = True
        elif (factor := _factor(operation, sources[0])) is not None and not layers and bias is None:
            gain *= factor  # a temperature: what scores are divided by before their softmax
        elif (moved and _one_row(tensor) and _one_row(tensor) == _one_row(sources[0])) or (
            operation.type == "Cast" and {tensor.dtype, sources[0].dtype} <= _REALS
        ):
            pass  # neither the order of the scores nor what they are
        elif operation.type not in ("Softmax", "LogSoftmax", "Sigmoid") or layers or bias is not None or gain != 1.0:
            return None, f"operation {operation.type} {operation.name} behind the cut is part of no head known here"
        tensor = _behind_copies(sources[0])
    if bias is not None or relu or any(array is not None and array.ndim != 1 for _, array, _ in layers):
        return None, "what follows the cut is no linear head, nor one with a ReLU hidden layer"
    return plain_tail(layers)
