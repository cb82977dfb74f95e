"""Opens a float .tflite (weights of float32, float16, or 8 bits of the dynamic range) and cuts it in its flatbuffer.

Ranges of integers are measured in it as in any float model: a file of a hub becomes a bundle without its source.
Weights become float32 first: halves as they are, 8-bit ones as ``(code - zero) * scale`` (one scale for each channel of
the quantised dimension, or one for all).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from firmware_tools.convert.sources.source import FloatModel, class_count, vector_width
from firmware_tools.convert.sources.tflite_cut import cut_file, drop_unused_codes, ends_in_classes
from firmware_tools.convert.sources.tflite_tokens import vocabulary_of
from firmware_tools.inspect.model import read_bytes
from protos.errors import ModelError
from protos.model import flatbuffer
from protos.model.head_algebra import Array
from protos.model.manifest import TOKENS

_DENSE = "FULLY_CONNECTED"
_HALVES = ("float16", "int8", "uint8")


def open_float(content: bytes, cut: str | None, *, where: str) -> FloatModel:
    """Cut a float model at tensor ``cut``, or else at the input of its last FULLY_CONNECTED; one without is whole.

    Raises:
        ModelError: it has more than one input or output, takes no real numbers, or cannot be cut there.
    """
    content = plain_floats(content, where=where)
    facts = read_bytes(content, where=where)
    for end, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        if len(tensors) != 1:
            raise ModelError(f"has {len(tensors)} {end}s; only models with one can be cut", where=where,
                             fix="export the branch that sees the data, with one output")  # fmt: skip
    taken, given = facts.inputs[0], facts.outputs[0]
    vocabulary = vocabulary_of(content, where=where)
    if taken.dtype != ("float32" if vocabulary is None else TOKENS):
        raise ModelError(f"takes {taken.dtype} values; only models of real-valued input can be quantised", where=where,
                         fix="give its .keras, .h5 or SavedModel")  # fmt: skip
    if len(taken.shape) < 2 or taken.shape[0] != 1 or any(size < 1 for size in taken.shape):
        raise ModelError(f"its input has shape {list(taken.shape)}; a batch of 1 is needed", where=where,
                         fix="convert it again with a fixed shape")  # fmt: skip
    has_dense = any(operator.name == _DENSE for operator in facts.operators)
    label, tail, note, linear, one_number = "its output", None, "the file has no FULLY_CONNECTED", True, False
    if cut is not None or has_dense or ends_in_classes(content, where=where):
        made = cut_file(content, cut, where=where)
        content, label, tail, note = made.content, made.cut, made.tail, made.note
        linear, one_number = made.linear, made.one_number and made.linear
        given = read_bytes(content, where=where).outputs[0]
    width = vector_width(given.shape, cut=label, where=where)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def embed(x: Array) -> Array:
        interpreter.set_tensor(source, np.ascontiguousarray(x, np.float32 if vocabulary is None else np.int32))
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target), np.float32).reshape(1, width)

    return FloatModel(
        input_shape=taken.shape[1:],
        width=width,
        embed=embed,
        fixed_batch=1,
        cut=label,
        tail=tail,
        tail_note=note,
        classes=class_count(facts.outputs[0].shape) if has_dense else None,
        keep=interpreter,
        one_number=one_number,
        linear=linear and has_dense,
        flat=content,
        takes="float32" if vocabulary is None else TOKENS,
        vocabulary=vocabulary,
    )


def plain_floats(content: bytes, *, where: str) -> bytes:
    """The same model with float32 weights throughout, for a batch of 1."""
    model = flatbuffer.parse(content, where=where)
    for graph in model.subgraphs:
        kept = []
        for operator in graph.operators:
            name = flatbuffer.operator_name(model.operatorCodes[operator.opcodeIndex])
            values = None
            if name == "DEQUANTIZE":
                values = _reals(model, graph.tensors[int(operator.inputs[0])])
            if values is None:
                kept.append(operator)
            else:
                _hold(model, graph.tensors[int(operator.outputs[0])], values)
        graph.operators = kept
        for tensor in graph.tensors:
            tensor.shapeSignature = None
            if (values := _reals(model, tensor)) is not None:
                _hold(model, tensor, values)
    drop_unused_codes(model)
    return flatbuffer.pack(model)


def _reals(model: Any, tensor: Any) -> Array | None:
    """A constant of halves or 8-bit codes in real numbers; None of any other tensor."""
    kind, data = flatbuffer.type_name(tensor.type), model.buffers[tensor.buffer].data
    if data is None or len(data) == 0 or kind not in _HALVES or tensor.shape is None:
        return None
    codes = np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(tensor.shape)
    if kind == "float16":
        return codes.astype(np.float32)
    how = tensor.quantization
    if how is None or how.scale is None or not len(how.scale):
        return None
    along = [1] * codes.ndim
    if len(how.scale) > 1:
        along[int(how.quantizedDimension)] = len(how.scale)
    zero = how.zeroPoint if how.zeroPoint is not None else np.zeros(len(how.scale))
    scale = np.asarray(how.scale, np.float64).reshape(along)
    return ((codes.astype(np.float64) - np.asarray(zero, np.float64).reshape(along)) * scale).astype(np.float32)


def _hold(model: Any, tensor: Any, values: Array) -> None:
    """Make a tensor a constant of its own."""
    held = schema.BufferT()
    held.data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)
    model.buffers.append(held)
    tensor.buffer, tensor.type, tensor.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None
