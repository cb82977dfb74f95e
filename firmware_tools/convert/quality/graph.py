"""A float or integer .tflite as it is looked at and changed here: its operators, constants and who reads what."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from protos.model import flatbuffer

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class Graph:
    """The one subgraph of a model; changes are made in place, and :meth:`content` packs them."""

    def __init__(self, content: bytes, *, where: str) -> None:
        self.model = flatbuffer.parse(content, where=where)
        self.graph = self.model.subgraphs[0]
        self.readers = Counter(
            int(index) for operator in self.graph.operators for index in operator.inputs if index >= 0
        )

    def content(self) -> bytes:
        """The file."""
        return flatbuffer.pack(self.model)

    def operator(self, operator: Any) -> str:
        """Name of an operator's kind."""
        return flatbuffer.operator_name(self.model.operatorCodes[operator.opcodeIndex])

    def tensor(self, index: int) -> Any:
        return self.graph.tensors[index]

    def name(self, index: int) -> str:
        """Name of a tensor."""
        value = self.graph.tensors[index].name
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def values(self, index: int) -> npt.NDArray[Any] | None:
        """The numbers of a constant; None of any other tensor."""
        tensor = self.graph.tensors[index]
        data, kind = self.model.buffers[tensor.buffer].data, flatbuffer.type_name(tensor.type)
        if data is None or len(data) == 0 or kind not in ("float32", "int32", "int8"):
            return None
        return np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(tensor.shape)

    def type_of(self, index: int) -> str:
        """numpy's name of a tensor's type."""
        return flatbuffer.type_name(self.graph.tensors[index].type)

    def reals(self, index: int) -> npt.NDArray[Any]:
        """A constant in real numbers where it has a scale, float32; else as it is.

        ``(code - zero) * scale``, with one scale for each channel of the quantised dimension, or one for all.
        """
        codes, how = self.values(index), self.graph.tensors[index].quantization
        assert codes is not None
        if how is None or how.scale is None or not len(how.scale) or codes.dtype.kind == "f":
            return codes
        along = [1] * codes.ndim
        if len(how.scale) > 1:
            along[int(how.quantizedDimension)] = len(how.scale)
        zero = np.asarray(how.zeroPoint if how.zeroPoint is not None else 0, np.float64)
        zero = zero.reshape(along) if zero.size == len(how.scale) else zero.reshape(-1)[0]
        scale = np.asarray(how.scale, np.float64).reshape(along)
        return np.asarray((codes.astype(np.float64) - zero) * scale, np.float32)

    def hold(self, index: int, values: npt.NDArray[Any]) -> None:
        """Give a constant other numbers, in a buffer of its own: the converter shares equal ones."""
        kind, held = flatbuffer.type_name(self.graph.tensors[index].type), schema.BufferT()
        data = np.frombuffer(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes(), np.uint8)
        before = int(self.graph.tensors[index].buffer)
        if sum(int(tensor.buffer) == before for tensor in self.graph.tensors) == 1:
            self.model.buffers[before].data = data
            return
        held.data = data
        self.model.buffers.append(held)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1

    def only_reader(self, tensor: int) -> Any | None:
        """The operator that alone reads a tensor; None where there is another, or it is an output."""
        if self.readers[tensor] != 1 or tensor in [int(each_tensor) for each_tensor in self.graph.outputs]:
            return None
        return next(
            operator for operator in self.graph.operators if tensor in [int(index) for index in operator.inputs]
        )
