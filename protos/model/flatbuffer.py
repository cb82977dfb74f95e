"""A .tflite file as a value: read it, count its operators, write it again. Nothing is executed.

Needs the schema classes of `ai-edge-litert` and the `flatbuffers` package that comes with them, so it serves
workstations and coordinators; a board that has only `tflite-runtime` never imports it.
Source of the format: tensorflow/lite/schema/schema.fbs, file identifier "TFL3".
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from protos.errors import ModelError

IDENTIFIER = b"TFL3"
# schema.fbs: table Buffer { data:[ubyte] (force_align: 16) }. Kernels read weights with aligned loads.
BUFFER_ALIGNMENT = 16

_OPERATOR_NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_TYPE_NAMES: dict[int, str] = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")
}
_FLOAT_TYPES = frozenset({"float16", "float32", "float64", "bfloat16"})
# What walking over a damaged file raises in the generated reader.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, MemoryError, AttributeError, KeyError)


@dataclass(frozen=True)
class OperatorCount:
    """How often one operator occurs, and on what.

    Attributes:
        name: builtin name such as "CONV_2D", or "custom:NAME".
        count: operators of this name, in all subgraphs.
        float_tensors: float inputs and outputs of these operators; 0 in a fully integer model.
        dtypes: names of all tensor types they touch, sorted, such as ("int32", "int8").
    """

    name: str
    count: int
    float_tensors: int
    dtypes: tuple[str, ...]


def parse(model: bytes, *, where: str | None = None) -> Any:
    """The file as the schema's mutable `ModelT`.

    Raises:
        ModelError: not a .tflite file, or damaged.
    """
    if model[4:8] != IDENTIFIER:
        raise ModelError("is no .tflite file", where=where, fix="give a TensorFlow Lite model")
    try:
        parsed = schema.ModelT.InitFromPackedBuf(model, 0)
        if not parsed.subgraphs or parsed.buffers is None:
            raise ValueError("no subgraph")
    except _DAMAGE as cause:
        raise ModelError("is a damaged .tflite file", where=where, fix="make or copy it again") from cause
    return parsed


def pack(model: Any) -> bytes:
    """A `ModelT` as the bytes of a file, with every tensor buffer aligned to 16 bytes."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def operators(model: bytes, *, where: str | None = None) -> tuple[OperatorCount, ...]:
    """The operators of a model, most frequent first, then by name.

    Raises:
        ModelError: not a .tflite file, or damaged.
    """
    parsed = parse(model, where=where)
    counts: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    types: dict[str, set[str]] = {}
    try:
        for graph in parsed.subgraphs:
            for operator in graph.operators if graph.operators is not None else ():
                name = operator_name(parsed.operatorCodes[operator.opcodeIndex])
                touched = [
                    type_name(graph.tensors[index].type)
                    for indices in (operator.inputs, operator.outputs)
                    for index in (indices if indices is not None else ())
                    if index >= 0  # -1 stands for an optional tensor that is not given
                ]
                counts[name] += 1
                floats[name] += sum(kind in _FLOAT_TYPES for kind in touched)
                types.setdefault(name, set()).update(touched)
    except _DAMAGE as cause:
        raise ModelError("is a damaged .tflite file", where=where, fix="make or copy it again") from cause
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(OperatorCount(name, counts[name], floats[name], tuple(sorted(types[name]))) for name in ordered)


def float_operators(model: bytes, *, where: str | None = None) -> tuple[str, ...]:
    """Names of the operators that touch a float tensor; empty for a fully integer model.

    Raises:
        ModelError: not a .tflite file, or damaged.
    """
    return tuple(entry.name for entry in operators(model, where=where) if entry.float_tensors)


def builtin_code(code: Any) -> int:
    """The operator of an `OperatorCodeT`. Old writers fill only the 8-bit field, new ones the wide one."""
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def operator_name(code: Any) -> str:
    """Name of an `OperatorCodeT`, such as "CONV_2D" or "custom:edgetpu-custom-op"."""
    number = builtin_code(code)
    if number == schema.BuiltinOperator.CUSTOM:
        custom = code.customCode or b"?"
        return "custom:" + (custom.decode("utf-8", "replace") if isinstance(custom, bytes) else str(custom))
    return _OPERATOR_NAMES.get(number, f"builtin:{number}")


def type_name(code: int) -> str:
    """numpy-like name of a `TensorType`."""
    return _TYPE_NAMES.get(code, f"type:{code}")


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """The Python builder knows nothing of `force_align`; byte vectors are exactly the tensor buffers."""

    def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802 (name given by the library)
        if x.dtype.itemsize != 1:
            return super().CreateNumpyVector(x)
        payload = np.ascontiguousarray(x).tobytes()
        self.StartVector(1, len(payload), BUFFER_ALIGNMENT)
        self.head -= len(payload)
        self.Bytes[self.head : self.head + len(payload)] = payload
        return self.EndVector()
