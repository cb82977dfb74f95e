"""A .tflite file as the nodes of its first subgraph, with what the Edge TPU's rules ask about. Nothing is run.

Files from elsewhere are read in a child process (`firmware_tools.child`): a damaged one can ask for a lot of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protos.errors import ModelError
from protos.model import flatbuffer

# What the Edge TPU compiler puts in place of the operators that it maps.
COMPILED_OPERATOR = "custom:edgetpu-custom-op"
_INTEGERS = {"int8": np.int8, "uint8": np.uint8, "int32": np.int32, "int64": np.int64}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        name: as in the file.
        shape: sizes; () for a scalar.
        open_axes: axes whose size the file leaves open.
        dtype: "int8", "float32", ...
        scales: one for each channel, or one, or none.
        zero_points: the same number, or none.
        data: bytes of a constant; None for what is computed.
        buffer: number of the buffer that holds `data`; constants may share one.
        variable: state that is kept between inferences.
    """

    name: str
    shape: tuple[int, ...]
    open_axes: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    data: bytes | None
    buffer: int
    variable: bool

    def integers(self) -> tuple[int, ...] | None:
        """Values of an integer constant, flat; None when it is computed or of another type."""
        if self.data is None or self.dtype not in _INTEGERS:
            return None
        width = np.dtype(_INTEGERS[self.dtype])
        whole = len(self.data) // width.itemsize * width.itemsize
        return tuple(int(value) for value in np.frombuffer(self.data[:whole], width.newbyteorder("<")))


@dataclass(frozen=True, slots=True)
class Node:
    """One operator, at place `number` of the order of execution; an optional input that is not given is None."""

    number: int
    name: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any

    def input(self, position: int) -> Tensor | None:
        """The input at a position, or None."""
        return self.inputs[position] if position < len(self.inputs) else None

    def option(self, name: str, default: int = 0) -> int:
        """An option; its default when the file leaves it, or all of them, out."""
        return int(getattr(self.options, name, default))


@dataclass(frozen=True, slots=True)
class Graph:
    """The first subgraph of a model, in order of execution; `subgraphs` counts all of them."""

    size_bytes: int
    subgraphs: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[Node, ...]

    @property
    def is_compiled(self) -> bool:
        """True when the Edge TPU compiler made this file and mapped something."""
        return any(node.name == COMPILED_OPERATOR for node in self.nodes)


def read_graph(model: bytes, *, where: str) -> Graph:
    """Read a model.

    Raises:
        ModelError: not a .tflite file, or damaged.
    """
    parsed = flatbuffer.parse(model, where=where)
    try:
        return _graph(parsed, len(model))
    except Exception as cause:  # the generated reader raises whatever a wrong offset leads to
        raise ModelError("is a damaged .tflite file", where=where, fix="make or copy it again") from cause


def _graph(parsed: Any, size_bytes: int) -> Graph:
    first = parsed.subgraphs[0]
    tensors = [_tensor(tensor, parsed.buffers) for tensor in first.tensors]
    nodes = []
    for number, operator in enumerate(() if first.operators is None else first.operators):
        code = parsed.operatorCodes[operator.opcodeIndex]
        nodes.append(
            Node(
                number,
                flatbuffer.operator_name(code),
                int(code.version),
                tuple(None if index < 0 else tensors[index] for index in _indices(operator.inputs)),
                tuple(tensors[index] for index in _indices(operator.outputs)),
                operator.builtinOptions,
            )
        )
    return Graph(
        size_bytes,
        len(parsed.subgraphs),
        tuple(tensors[index] for index in _indices(first.inputs)),
        tuple(tensors[index] for index in _indices(first.outputs)),
        tuple(nodes),
    )


def _indices(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _tensor(tensor: Any, buffers: Any) -> Tensor:
    quantisation = tensor.quantization
    scales, zeros = getattr(quantisation, "scale", None), getattr(quantisation, "zeroPoint", None)
    data = buffers[tensor.buffer].data
    return Tensor(
        tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else str(tensor.name or ""),
        tuple(_indices(tensor.shape)),
        tuple(axis for axis, size in enumerate(_indices(tensor.shapeSignature)) if size < 0),
        flatbuffer.type_name(tensor.type),
        tuple(float(scale) for scale in (() if scales is None else scales)),
        tuple(_indices(zeros)),
        None if data is None or len(data) == 0 else bytes(data),
        int(tensor.buffer),
        bool(tensor.isVariable),
    )
