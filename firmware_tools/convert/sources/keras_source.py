"""Opens a Keras model (.keras or .h5) and cuts it at a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from firmware_tools.convert.sources.keras_loading import (
    OldKerasError,
    has_keras_2,
    is_stateful,
    load_keras,
    quantity_loss,
    several_labels,
)
from firmware_tools.convert.sources.keras_stillness import notes_of, still_augmentation
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
from protos.errors import ModelError
from protos.model.head_algebra import Array, Tree
from protos.model.manifest import TOKENS

# Layers that do nothing at inference, or keep the order of the classes: a head may be followed by them.
_IDENTITIES = ("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity", "SpatialDropout1D")
# As many values out as in are an autoencoder, unless they are so few that they may be as many classes as features.
_AUTOENCODER = 32
_STATELESS = (
    "a recurrent layer of the model keeps its state from one batch to the next (stateful=True); here each example is "
    "judged by itself, from a state of zeros"
)
# Layers and operators that leave whole numbers what they are.
_KEEP_IDS = ("Cast", "Reshape", "Flatten", "Squeeze", "ExpandDims", "Identity", "Dropout", "InputLayer", "GetItem")
_SCORES = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_SQUASHING = ("softmax", "sigmoid", "linear", "log_softmax")


def open_keras(
    path: Path, *, cut: str | None, input_shape: tuple[int, ...] | None, residual: bool = False
) -> FloatModel:
    """Load a Keras model and cut it: at the output of layer ``cut``, or else at the input of the last Dense.

    Args:
        residual: where nothing says where to cut, and as many values come out as go in, the embedding is their
            difference.

    Raises:
        ModelError: it cannot be loaded, or not be cut there.
    """
    where = path.name
    try:
        model = load_keras(path)
    except OldKerasError as error:
        if not has_keras_2():
            raise ModelError(error.what, where=error.where, fix=error.fix) from error
        from firmware_tools.convert.sources.keras2_source import open_keras_2

        return open_keras_2(path, cut=cut, input_shape=input_shape, residual=residual)
    for end, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1 and (end == "input" or cut is None):
            names = ", ".join(str(each_tensor.name) for each_tensor in tensors)
            way = "name the layer whose output is the embedding with --cut LAYER" + listed_layers(_vectors(model))
            if end == "input":
                way = "export a SavedModel of the branch that sees the data, with one input"
            what = f"has {len(tensors)} {end}s ({names}); only models with one can be cut"
            raise ModelError(what, where=where, fix=way)
    source = model.inputs[0]
    takes = "uint8" if source.dtype == "uint8" else "float32"
    vocabulary = _vocabulary(model, source)
    if vocabulary is not None:
        takes = TOKENS
    elif source.dtype not in ("float32", "float16", "bfloat16", "uint8"):
        raise ModelError(
            f"takes {source.dtype} values; only models of real-valued input can be quantised", where=where,
            fix="cut the part that turns them into numbers off, and export the rest as a SavedModel",
        )  # fmt: skip
    shape = checked_input(list(source.shape), input_shape, where=where)
    residual = residual and cut is None and len(model.outputs) == 1 and takes == "float32"
    residual = residual and tuple(model.compute_output_shape((1, *shape))) == (1, *shape)
    if residual:
        tensor, label, tail, note = keras.layers.Flatten()(model.outputs[0]), RESIDUAL, None, RESIDUAL
        tensor = keras.layers.Subtract()([keras.layers.Flatten()(source), tensor])
    elif cut is None:
        tensor, label, behind = _walk_to_dense(model, model.outputs[0], where)
        tail, note = _tail(behind, _operands(model))
    else:
        tensor, label = _output_of(model, cut, where), cut
        tail, note = _tail_behind(path, model, tensor)
    if tensor is source:
        raise ModelError(f"the cut at {label!r} leaves no layer for the backbone", where=where)
    cut_model = keras.Model(source, tensor)
    still_augmentation(cut_model)
    static = cut_model.compute_output_shape((1, *shape))
    width = vector_width(static, cut=label, where=where, layers=_vectors(model))

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], takes)], autograph=False)  # type: ignore[untyped-decorator]
    def embed(x: Any) -> Any:
        given = x if vocabulary is None else tf.cast(x, source.dtype)
        return tf.cast(tf.reshape(cut_model(given, training=False), [-1, width]), tf.float32)

    return FloatModel(
        input_shape=shape,
        width=width,
        embed=embed,
        fixed_batch=None,
        cut=label,
        tail=tail,
        tail_note=note,
        classes=class_count(model.outputs[0].shape) if _no_classifier(path, model) is None else None,
        keep=cut_model,
        takes=takes,
        no_classifier=_no_classifier(path, model),
        layers=tuple(_vectors(model)),
        one_number=model.outputs[0].shape[-1] == 1 and _end_of(model, model.outputs[0]) != "sigmoid",
        linear=_end_of(model, model.outputs[0]) == "linear",
        constant=model.outputs[0].shape[-1] == 1 and _end_of(model, model.outputs[0]) in ("softmax", "Softmax"),
        residual=residual,
        notes=(*((_STATELESS,) if is_stateful(path) else ()), *notes_of(model)),
        vocabulary=vocabulary,
    )


def _vocabulary(model: Any, source: Any) -> int | None:
    """How many token ids the model's Embeddings look up, the least of them; None where its input goes into none.

    Nested models are looked into. What stands between input and Embedding may only change the type or the shape.
    """
    found: list[int] = []
    ids = {id(source)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            operation = node.operation
            if not any(id(tensor) in ids for tensor in node.input_tensors):
                continue
            inner = _inner(operation)
            if isinstance(operation, keras.layers.Embedding):
                found.append(int(operation.input_dim))
            elif inner is not None and len(inner.inputs) == 1:
                nested = _vocabulary(inner, inner.inputs[0])
                found += [] if nested is None else [nested]
            elif type(operation).__name__ in _KEEP_IDS:
                ids |= {id(tensor) for tensor in node.output_tensors}
    return min(found, default=None)


def _no_classifier(path: Path, model: Any) -> str | None:
    """Why the output of a model is no score of classes, as far as the file tells; None where it may be one."""
    if len(model.outputs) != 1:
        return f"has {len(model.outputs)} outputs"
    taken, given = (list(one.shape)[1:] for one in (model.inputs[0], model.outputs[0]))
    last = _producer(model.outputs[0])[0]
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    few = activation == "softmax" or isinstance(last, keras.layers.Softmax) or int(np.prod(taken or [1])) < _AUTOENCODER
    if taken == given and None not in taken and not few:
        return "gives as many values as it takes: it is an autoencoder, no classifier"
    if activation == "tanh":
        return f"ends in tanh ({last.name}), which is no score of a class"
    if (loss := quantity_loss(path)) is not None:
        return f"was trained with the loss {loss}: its output is a quantity, no score of a class"
    if several_labels(path) and given and (given[-1] or 0) > 1:
        return f"tells {given[-1]} labels that do not exclude each other (binary cross-entropy): heads here choose one"
    return None


def _tail_behind(path: Path, model: Any, tensor: Any) -> tuple[Tree | None, str]:
    if (reason := _no_classifier(path, model)) is not None:
        return None, f"the model {reason}"
    chain, note = _chain(model, model.outputs[0], tensor)
    return (None, note) if chain is None else _tail(chain, _operands(model))


def _vectors(model: Any) -> list[str]:
    """Names of the layers whose output is one vector per example, so that they can be cut at, in their order."""
    names = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            outputs = node.output_tensors
            ends = len(outputs) == 1 and (outputs[0] is model.outputs[0] or outputs[0] is model.inputs[0])
            if len(outputs) != 1 or ends or "float" not in str(outputs[0].dtype):
                continue
            sizes = [size for size in outputs[0].shape[1:] if size != 1]
            if len(sizes) == 1 and (sizes[0] or 0) >= 2:
                names.append(node.operation.name)
    return names


def _producer(tensor: Any) -> tuple[Any, list[Any]]:
    """The layer that made a tensor, and the tensors that it was made from."""
    operation, node_index, _ = tensor._keras_history
    return operation, list(operation._inbound_nodes[node_index].input_tensors)


def _inner(layer: Any) -> Any | None:
    """The graph of a nested model, or None for a plain layer."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if isinstance(layer, keras.Model) and hasattr(layer, "_nodes") else None


def _raised(inner: Any, tensor: Any, outer: Any) -> Any:
    """A tensor of a nested model as a tensor of the model around it, where ``outer`` is fed to the nested model."""
    return outer if tensor is inner.inputs[0] else keras.Model(inner.inputs[0], tensor)(outer)


def _walk_to_dense(model: Any, tensor: Any, where: str) -> tuple[Any, str, list[Any]]:
    """Walk back from a tensor to the nearest Dense.

    Returns:
        Its input, as a tensor of this model; a name for it; the layers from the Dense on, in order.
    """
    behind: list[Any] = []
    while tensor is not model.inputs[0]:
        layer, sources = _producer(tensor)
        behind.insert(0, layer)
        if isinstance(layer, keras.layers.Dense):
            return sources[0], f"input of {layer.name} (output of {_producer(sources[0])[0].name})", behind
        if len(sources) != 1:
            raise _name_the_cut(f"its output comes from {layer.name} of {len(sources)} inputs, not from a Dense", where,
                                model)  # fmt: skip
        inner = _inner(layer)
        if inner is not None:
            if len(inner.inputs) != 1 or len(inner.outputs) != 1:
                raise _name_the_cut(f"nested model {layer.name} has several inputs or outputs", where)
            found, label, nested = _walk_to_dense(inner, inner.outputs[0], where)
            return _raised(inner, found, sources[0]), label, nested + behind[1:]
        if getattr(layer, "weights", ()) and not isinstance(layer, keras.layers.BatchNormalization):
            raise _name_the_cut(f"its last layer with weights is {layer.name}, not a Dense", where, model)
        tensor = sources[0]
    raise _name_the_cut("has no Dense layer", where, model)


def _end_of(model: Any, tensor: Any) -> str:
    """What the last layer that does something ends in: "linear" where it has weights and no activation, the name of an
    activation such as "sigmoid", or the class of a layer."""
    while tensor is not model.inputs[0]:
        layer, sources = _producer(tensor)
        inner = _inner(layer)
        if inner is not None:
            return _end_of(inner, inner.outputs[0]) if len(inner.outputs) == 1 else type(layer).__name__
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if activation != "linear" or getattr(layer, "weights", ()):
            return str(activation)
        quiet = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Activation)
        if len(sources) != 1 or not (isinstance(layer, quiet) or type(layer).__name__ in _IDENTITIES):
            return type(layer).__name__
        tensor = sources[0]
    return ""


def _name_the_cut(what: str, where: str, model: Any = None) -> ModelError:
    names = [] if model is None else _vectors(model)
    if model is not None and not names:
        fix = "no layer gives a vector to --cut at: put a GlobalAveragePooling2D behind the one that matters"
    else:
        fix = f"name the layer whose output is the embedding with --cut LAYER{listed_layers(names)}, and --classes N"
    return ModelError(what, where=where, fix=fix)


def _output_of(model: Any, cut: str, where: str) -> Any:
    found = _find(model, cut)
    if found is None:
        raise no_such_cut(cut, _layer_names(model), where=where)
    if isinstance(found, list):
        raise ModelError(f"layer {cut!r} has {len(found)} outputs or uses; cut at another", where=where)
    return found


def _find(model: Any, cut: str) -> Any:
    """Output of a layer by its name; ``outer/inner`` or the bare name for a layer of a nested model."""
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth]
    for node in nodes:
        if node.operation.name == cut:
            outputs = [
                output_tensor
                for every in nodes
                if every.operation.name == cut
                for output_tensor in every.output_tensors
            ]
            return outputs[0] if len(outputs) == 1 else outputs
    for node in nodes:
        inner = _inner(node.operation)
        if inner is None or len(inner.inputs) != 1 or len(node.input_tensors) != 1:
            continue
        found = _find(inner, cut.removeprefix(f"{node.operation.name}/"))
        if isinstance(found, list):
            return found
        if found is not None:
            ends_it = found is inner.outputs[0] and len(node.output_tensors) == 1
            return node.output_tensors[0] if ends_it else _raised(inner, found, node.input_tensors[0])
    return None


def _layer_names(model: Any) -> list[str]:
    names = []
    for layer in model.layers:
        inner = _inner(layer)
        names += (
            [layer.name]
            if inner is None
            else [layer.name, *(f"{layer.name}/{layer_name}" for layer_name in _layer_names(inner))]
        )
    return names


def _operands(model: Any) -> dict[int, float]:
    """By operation, the one number above 0 that it multiplies its input with, where that is all it does.

    Rescaling without an offset, and ``scores / 2.0`` or ``scores * 0.5`` written in Python: temperatures.
    """
    found: dict[int, float] = {}
    for node in (one for depth in model._nodes_by_depth.values() for one in depth):
        layer, kind = node.operation, type(node.operation).__name__
        inner = _inner(layer)
        if inner is not None:
            found |= _operands(inner)
        elif kind == "Rescaling" and np.size(layer.scale) == 1 and not np.any(layer.offset):
            found[id(layer)] = float(np.reshape(layer.scale, ()))
        elif kind in ("TrueDivide", "Divide", "Multiply") and len(node.arguments.args) == 2:
            one, other = node.arguments.args
            tensor_first = one is node.input_tensors[0]
            constant = other if tensor_first else one
            plain = isinstance(constant, (int, float, np.number)) and len(node.input_tensors) == 1
            if plain and (tensor_first or kind == "Multiply") and constant != 0:
                found[id(layer)] = float(constant) if kind == "Multiply" else 1.0 / float(constant)
    return {key: value for key, value in found.items() if np.isfinite(value) and value > 0}


def _keeps_order(layer: Any) -> bool:
    """Whether a layer leaves an example's scores in one row: Flatten or Reshape of what has one size above 1."""
    if not isinstance(layer, (keras.layers.Flatten, keras.layers.Reshape)) or len(layer._inbound_nodes) != 1:
        return False
    (node,) = layer._inbound_nodes
    ends = (node.input_tensors[0], node.output_tensors[0])
    return all(sum(size != 1 for size in one.shape[1:]) <= 1 for one in ends)


def _tail(chain: list[Any], factors: dict[int, float]) -> tuple[Tree | None, str]:
    """The plain head that layers in one line make, if they make one.

    Args:
        chain: from the first dense layer to the output.
        factors: see :func:`_operands`.
    """
    layers: list[tuple[Array, Array | None, bool]] = []
    squashed = False
    for place, layer in enumerate(chain):
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, keras.layers.BatchNormalization) and layers and not layers[-1][2]:
            layers[-1] = _normalised(layers[-1], layer)
            continue
        if id(layer) in factors and layers and not squashed and not _more_dense(chain[place + 1 :]):
            kernel, bias, relu = layers[-1]
            gain = np.float32(factors[id(layer)])
            if not relu:
                layers[-1] = (kernel * gain, None if bias is None else bias * gain, relu)
                continue
        if isinstance(layer, keras.layers.Dense):
            kernel = np.asarray(layer.kernel, np.float32)
            layers.append((kernel, np.asarray(layer.bias, np.float32) if layer.use_bias else None, False))
        elif type(layer).__name__ in _SCORES:  # a layer, or an operator such as keras.ops.softmax
            activation = _SCORES[type(layer).__name__]
        elif isinstance(layer, keras.layers.ReLU) and layer.max_value is None and not layer.negative_slope:
            activation = "relu"
        elif not (
            isinstance(layer, keras.layers.Activation) or type(layer).__name__ in _IDENTITIES or _keeps_order(layer)
        ):
            return None, f"layer {layer.name} between the cut and the output is part of no head known here"
        squashed |= activation in _SCORES.values()
        if activation == "relu" and layers:
            layers[-1] = (*layers[-1][:2], True)
        elif activation not in _SQUASHING or (activation != "linear" and _more_dense(chain[place + 1 :])):
            return None, f"activation {activation} of {layer.name} is not carried over"
    return plain_tail(layers)


def _normalised(dense: tuple[Array, Array | None, bool], layer: Any) -> tuple[Array, Array | None, bool]:
    """A dense layer with the BatchNormalization behind it: gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    kernel, bias, relu = dense
    gain = 1.0 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    gain *= np.asarray(layer.gamma, np.float64) if layer.scale else 1.0
    shift = (np.zeros(kernel.shape[1]) if bias is None else bias) - np.asarray(layer.moving_mean, np.float64)
    moved = shift * gain + (np.asarray(layer.beta, np.float64) if layer.center else 0.0)
    return (kernel * gain).astype(np.float32), moved.astype(np.float32), relu


def _more_dense(layers: list[Any]) -> bool:
    return any(isinstance(layer, keras.layers.Dense) for layer in layers)


def _chain(model: Any, tensor: Any, cut: Any) -> tuple[list[Any] | None, str]:
    """Layers between a cut and a tensor behind it, first to last, if they are in one line; nested ones opened."""
    layers: list[Any] = []
    while tensor is not cut:
        if tensor is model.inputs[0]:
            return (layers, "") if cut is None else (None, "the cut is inside a nested model")
        layer, sources = _producer(tensor)
        if len(sources) != 1:
            return None, f"layer {layer.name} behind the cut has {len(sources)} inputs"
        inner = _inner(layer)
        if inner is None:
            layers.insert(0, layer)
        else:
            nested, note = _chain(inner, inner.outputs[0], None)
            if nested is None:
                return None, note
            layers = nested + layers
        tensor = sources[0]
    return layers, ""
