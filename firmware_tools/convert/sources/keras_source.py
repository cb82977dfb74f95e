"""Opens a Keras model (.keras or .h5) and cuts it at a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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

# Layers that do nothing at inference, or keep the order of the classes: a head may be followed by them.
_IDENTITIES = ("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity", "SpatialDropout1D")
_SQUASHING = ("softmax", "sigmoid", "linear", "log_softmax")


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """Keras 2 stored ``groups`` with this layer, always 1, and Keras 3 refuses the argument."""

    def __init__(self, *arguments: Any, groups: int = 1, **options: Any) -> None:
        if groups != 1:
            raise ValueError(f"DepthwiseConv2D with groups={groups} is not supported")
        super().__init__(*arguments, **options)


def open_keras(path: Path, *, cut: str | None, input_shape: tuple[int, ...] | None) -> FloatModel:
    """Load a Keras model and cut it: at the output of layer ``cut``, or else at the input of the last Dense.

    Raises:
        ModelError: it cannot be loaded, or not be cut there.
    """
    where = path.name
    model = _load(path)
    for end, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            names = ", ".join(str(one.name) for one in tensors)
            raise ModelError(f"has {len(tensors)} {end}s ({names}); only models with one can be cut", where=where)
    source = model.inputs[0]
    if source.dtype not in ("float32", "float16", "bfloat16"):
        raise ModelError(f"takes {source.dtype} values; only models of real-valued input can be quantised", where=where)
    shape = checked_input(list(source.shape), input_shape, where=where)
    if cut is None:
        tensor, label, behind = _walk_to_dense(model, model.outputs[0], where)
        tail, note = _tail(behind)
    else:
        tensor, label = _output_of(model, cut, where), cut
        chain, note = _chain(model, model.outputs[0], tensor)
        tail, note = (None, note) if chain is None else _tail(chain)
    if tensor is source:
        raise ModelError(f"the cut at {label!r} leaves no layer for the backbone", where=where)
    cut_model = keras.Model(source, tensor)
    static = cut_model.compute_output_shape((1, *shape))
    width = vector_width(static, cut=label, where=where)

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32)])  # type: ignore[untyped-decorator]
    def embed(x: Any) -> Any:
        return tf.cast(tf.reshape(cut_model(x, training=False), [-1, width]), tf.float32)

    return FloatModel(
        input_shape=shape,
        width=width,
        embed=embed,
        fixed_batch=None,
        cut=label,
        tail=tail,
        tail_note=note,
        classes=class_count(model.outputs[0].shape),
        keep=cut_model,
        one_number=model.outputs[0].shape[-1] == 1 and not _ends_in_sigmoid(model, model.outputs[0]),
    )


def _load(path: Path) -> Any:
    where = path.name
    try:
        model = keras.models.load_model(
            path, custom_objects={"DepthwiseConv2D": _DepthwiseConv2D}, compile=False, safe_mode=True
        )
    except Exception as error:  # Keras raises what its layers, h5py or zipfile raise
        text = " ".join(str(error).split())
        fix = None
        if (
            "Could not locate" in text
            or "Unknown layer" in text
            or "unsafe" in text.lower()
            or "lambda" in text.lower()
        ):
            fix = "for code of your own, export it with model.export(FOLDER) and convert that SavedModel"
        raise ModelError(
            f"Keras cannot load it: {_shortened(text) or type(error).__name__}", where=where, fix=fix
        ) from error
    if not hasattr(model, "inputs") or not getattr(model, "inputs", None) or not hasattr(model, "_nodes"):
        if isinstance(model, keras.Sequential) and model.built and getattr(model, "_functional", None) is not None:
            return model._functional
        raise ModelError("is no Functional or built Sequential model", where=where,
                         fix="export it with model.export(FOLDER) and convert that SavedModel")  # fmt: skip
    return model._functional if isinstance(model, keras.Sequential) else model


def _shortened(text: str) -> str:
    return text if len(text) <= 240 else text[:237] + "..."


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
            raise _name_the_cut(f"its output comes from {layer.name} of {len(sources)} inputs, not from a Dense", where)
        inner = _inner(layer)
        if inner is not None:
            if len(inner.inputs) != 1 or len(inner.outputs) != 1:
                raise _name_the_cut(f"nested model {layer.name} has several inputs or outputs", where)
            found, label, nested = _walk_to_dense(inner, inner.outputs[0], where)
            return _raised(inner, found, sources[0]), label, nested + behind[1:]
        if getattr(layer, "weights", ()):
            raise _name_the_cut(f"its last layer with weights is {layer.name}, not a Dense", where)
        tensor = sources[0]
    raise _name_the_cut("has no Dense layer", where)


def _ends_in_sigmoid(model: Any, tensor: Any) -> bool:
    """Whether the last layer that does something is a sigmoid, alone or in a layer with weights."""
    while tensor is not model.inputs[0]:
        layer, sources = _producer(tensor)
        inner = _inner(layer)
        if inner is not None:
            return len(inner.outputs) == 1 and _ends_in_sigmoid(inner, inner.outputs[0])
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if activation != "linear" or getattr(layer, "weights", ()) or len(sources) != 1:
            return bool(activation == "sigmoid")
        tensor = sources[0]
    return False


def _name_the_cut(what: str, where: str) -> ModelError:
    return ModelError(what, where=where, fix="name the layer whose output is the embedding with --cut LAYER")


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
            outputs = [one for every in nodes if every.operation.name == cut for one in every.output_tensors]
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
            [layer.name] if inner is None else [layer.name, *(f"{layer.name}/{one}" for one in _layer_names(inner))]
        )
    return names


def _tail(chain: list[Any]) -> tuple[Tree | None, str]:
    """The plain head that layers in one line make, if they make one."""
    layers: list[tuple[Array, Array | None, bool]] = []
    for place, layer in enumerate(chain):
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, keras.layers.Dense):
            kernel = np.asarray(layer.kernel, np.float32)
            layers.append((kernel, np.asarray(layer.bias, np.float32) if layer.use_bias else None, False))
        elif isinstance(layer, keras.layers.Softmax):
            activation = "softmax"
        elif isinstance(layer, keras.layers.ReLU) and layer.max_value is None and not layer.negative_slope:
            activation = "relu"
        elif not isinstance(layer, keras.layers.Activation) and type(layer).__name__ not in _IDENTITIES:
            return None, f"layer {layer.name} between the cut and the output is part of no head known here"
        if activation == "relu" and layers:
            layers[-1] = (*layers[-1][:2], True)
        elif activation not in _SQUASHING or (activation != "linear" and _more_dense(chain[place + 1 :])):
            return None, f"activation {activation} of {layer.name} is not carried over"
    return plain_tail(layers)


def _more_dense(layers: list[Any]) -> bool:
    return any(isinstance(one, keras.layers.Dense) for one in layers)


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
