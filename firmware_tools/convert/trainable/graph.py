"""The layers of a float .tflite as values, and where it may be parted into a frozen trunk and a tail that trains.

Whatever a model came as, the converter has made it plain by then: batch normalisation is folded into kernels and
biases, activations are parts of layers, the batch is 1. A tail holds only layers whose gradient can be written in
builtin operators (:mod:`firmware_tools.convert.trainable.layers`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from firmware_tools.convert.sources.tflite_cut import drop_unused_codes
from protos.errors import ModelError
from protos.model import flatbuffer
from protos.model.head_algebra import Array

CONV, DEPTHWISE, DENSE = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"
ADD, MUL, SUB, RELU, RELU6, MEAN, AVERAGE, LARGEST, RESHAPE, PAD = (
    "ADD", "MUL", "SUB", "RELU", "RELU6", "MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE", "PAD",
)  # fmt: skip
_ACTIVATIONS = {getattr(schema.ActivationFunctionType, name): name for name in ("NONE", "RELU", "RELU6")}
_PADDINGS = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One operator of a float model.

    Attributes:
        kind: name of the operator.
        inputs: tensors that it reads and that are no constants.
        output: the tensor that it gives; its number names the layer in the file.
        shape: of one example of the output.
        given: shape of one example of each input.
        kernel: float32 [k, k, in, out]; of a depthwise layer [k, k, channels, 1]; of a dense one [in, out]; or None.
        bias: float32 [out], or None.
        stride: of both directions; of a pool, its window.
        padding: "SAME" or "VALID"; of PAD, the rows of zeros as a tuple of pairs.
        activation: "NONE", "RELU" or "RELU6".
        constant: of ADD, MUL or SUB with one, float32.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    given: tuple[tuple[int, ...], ...]
    kernel: Array | None = None
    bias: Array | None = None
    stride: tuple[int, int] = (1, 1)
    padding: Any = "VALID"
    activation: str = "NONE"
    constant: Array | None = None

    @property
    def pointwise(self) -> bool:
        """Whether it is a convolution of 1 x 1, which is a product of matrices."""
        return self.kind == CONV and self.kernel is not None and self.kernel.shape[:2] == (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        if self.kernel is None:
            return 0
        if self.kind == DEPTHWISE:
            return int(np.prod(self.shape)) * int(np.prod(self.kernel.shape[:2]))
        return int(np.prod(self.shape)) * int(np.prod(self.kernel.shape[:-1]))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """What stands behind a cut.

    Attributes:
        source: number of the tensor that is cut at; its name is ``cut``.
        shape: of one example of it.
        layers: in their order; the last one gives the features, [width] when flat.
    """

    source: int
    cut: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        """Features behind the tail."""
        return int(np.prod(self.layers[-1].shape)) if self.layers else int(np.prod(self.shape))

    @property
    def pointwise(self) -> tuple[Layer, ...]:
        """Its convolutions of 1 x 1, the first first."""
        return tuple(layer for layer in self.layers if layer.pointwise)

    @property
    def biased(self) -> tuple[Layer, ...]:
        """Its layers with a bias."""
        return tuple(layer for layer in self.layers if layer.bias is not None)


def tails(content: bytes, *, where: str) -> tuple[tuple[Tail, ...], str]:
    """Every place where a float model may be parted, the latest first, and why there are no earlier ones.

    A place is a tensor that everything behind it comes from, with nothing beside it. A trunk keeps a layer with
    weights at least, and a tail holds a layer with a bias.

    Raises:
        ModelError: no .tflite file.
    """
    model = flatbuffer.parse(content, where=where)
    graph = model.subgraphs[0]
    operators = list(graph.operators)
    constant = {index for index, each_tensor in enumerate(graph.tensors) if _values(model, each_tensor) is not None}
    found: list[Tail] = []
    layers: list[Layer] = []
    wanted = {int(graph.outputs[0])}
    reason = "the tail begins at the input of the model"
    for place in range(len(operators) - 1, -1, -1):
        operator = operators[place]
        try:
            layers.insert(0, _layer(model, graph, operator, constant))
        except _OtherError as error:
            reason = f"a tail has no {error}"
            break
        wanted -= {int(each_tensor) for each_tensor in operator.outputs}
        wanted |= {
            int(each_tensor)
            for each_tensor in operator.inputs
            if int(each_tensor) >= 0 and int(each_tensor) not in constant
        }
        made = [each_operator for each_operator in operators[:place] if int(each_operator.outputs[0]) in wanted]
        if len(wanted) != 1 or len(made) != 1 or not any(layer.bias is not None for layer in layers):
            continue
        if not any(_name(model, each_operator) in (CONV, DEPTHWISE, DENSE) for each_operator in operators[:place]):
            reason = "the trunk keeps a layer with weights"
            break
        (source,) = wanted
        tensor = graph.tensors[source]
        found.append(Tail(source, _text(tensor.name), _shape(tensor), tuple(layers)))
    return tuple(found), reason


def part(content: bytes, tail: Tail, *, where: str) -> tuple[bytes, bytes]:
    """The trunk and the tail as files of their own; the numbers of tensors are those of the whole."""
    return _between(content, None, tail.source, where), _between(content, tail.source, None, where)


class _OtherError(Exception):
    """An operator that a tail cannot hold."""


def _between(content: bytes, first: int | None, last: int | None, where: str) -> bytes:
    model = flatbuffer.parse(content, where=where)
    graph = model.subgraphs[0]
    first = int(graph.inputs[0]) if first is None else first
    last = int(graph.outputs[0]) if last is None else last
    makers = {int(out): operator for operator in graph.operators for out in operator.outputs}
    needed, kept = [last], set()
    while needed:
        index = needed.pop()
        one = makers.get(index)
        if one is None or index == first or id(one) in kept:
            continue
        kept.add(id(one))
        needed += [int(other) for other in one.inputs if int(other) >= 0]
    graph.operators = [operator for operator in graph.operators if id(operator) in kept]
    graph.inputs, graph.outputs = np.array([first], np.int32), np.array([last], np.int32)
    used = {first, last} | {
        int(i) for operator in graph.operators for end in (operator.inputs, operator.outputs) for i in end
    }
    buffers = {int(graph.tensors[index].buffer) for index in used if index >= 0}
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            tensor.buffer = 0
    for index, one in enumerate(model.buffers):
        if index not in buffers:
            one.data = None
    model.signatureDefs, model.metadata = [], []
    drop_unused_codes(model)
    return flatbuffer.pack(model)


def _layer(model: Any, graph: Any, operator: Any, constant: set[int]) -> Layer:
    name, options = _name(model, operator), operator.builtinOptions
    ends = [int(tensor) for tensor in operator.inputs]
    given = tuple(value for value in ends if value >= 0 and value not in constant)
    output = graph.tensors[int(operator.outputs[0])]
    if flatbuffer.type_name(output.type) != "float32":
        raise _OtherError(f"{name} of {flatbuffer.type_name(output.type)}")
    values = [None if index < 0 else _values(model, graph.tensors[index]) for index in ends]
    made = Layer(name, given, int(operator.outputs[0]), _shape(output),
                 tuple(_shape(graph.tensors[index]) for index in given))  # fmt: skip
    activation = _ACTIVATIONS.get(getattr(options, "fusedActivationFunction", 0))
    if activation is None:
        raise _OtherError(f"{name} with another activation than ReLU or ReLU6")
    if name in (CONV, DEPTHWISE):
        kernel = values[1]
        bias = values[2] if len(values) > 2 else None
        if kernel is None or kernel.ndim != 4 or options.dilationWFactor > 1 or options.dilationHFactor > 1:
            raise _OtherError(f"{name} that is dilated, or has no constant kernel")
        if name == CONV and kernel.shape[3] != made.given[0][-1]:
            raise _OtherError(f"{name} of groups")
        if name == DEPTHWISE and options.depthMultiplier > 1:
            raise _OtherError(f"{name} with a multiplier")
        # [out, k, k, in] and [1, k, k, channels] of the file.
        kernel = kernel.transpose(1, 2, 3, 0)
        return dataclasses.replace(
            made, kernel=np.ascontiguousarray(kernel, np.float32), bias=bias, activation=activation,
            stride=(int(options.strideH), int(options.strideW)), padding=_PADDINGS[options.padding],
        )  # fmt: skip
    if name == DENSE:
        if values[1] is None or len(made.shape) != 1:
            raise _OtherError(f"{name} without a constant kernel, or of more than vectors")
        return dataclasses.replace(made, kernel=np.ascontiguousarray(values[1].T, np.float32), activation=activation,
                                   bias=values[2] if len(values) > 2 else None)  # fmt: skip
    if name in (ADD, MUL, SUB):
        fixed = next((value for value in values if value is not None), None)
        if fixed is None and (name != ADD or len(given) != 2 or made.given[0] != made.given[1]):
            raise _OtherError(f"{name} of two unlike tensors")
        if fixed is not None and (len(given) != 1 or (name == SUB and values[0] is not None)):
            raise _OtherError(f"{name} from a constant")
        return dataclasses.replace(made, constant=fixed, activation=activation)
    if name in (RELU, RELU6):
        return dataclasses.replace(made, activation=name)
    if name == MEAN:
        axes = sorted(int(one) % (len(made.given[0]) + 1) for one in np.ravel(np.asarray(values[1])))
        if axes != [1, 2] or len(made.given[0]) != 3:
            raise _OtherError(f"{name} over other axes than height and width")
        return made
    if name in (AVERAGE, LARGEST):
        stride = int(options.strideH), int(options.strideW)
        apart = stride == (int(options.filterHeight), int(options.filterWidth))
        whole = (int(options.filterHeight), int(options.filterWidth)) == made.given[0][:2]
        fits = _PADDINGS[options.padding] == "VALID" or all(
            size % step == 0 for size, step in zip(made.given[0], stride, strict=False)
        )
        if not ((apart and fits) or (whole and made.shape[:2] == (1, 1))):
            raise _OtherError(f"{name} whose windows overlap or hang over the edge")
        window = int(options.filterHeight), int(options.filterWidth)
        return dataclasses.replace(made, stride=window, activation=activation)
    if name == RESHAPE:
        return made
    if name == PAD and values[1] is not None and len(made.shape) == 3:
        rows = tuple((int(a), int(b)) for a, b in values[1])
        return dataclasses.replace(made, padding=rows)
    raise _OtherError(name)


def _values(model: Any, tensor: Any) -> Any:
    data, kind = model.buffers[tensor.buffer].data, flatbuffer.type_name(tensor.type)
    if data is None or not len(data) or kind not in ("float32", "int32", "int64"):
        return None
    shape = tensor.shape if tensor.shape is not None else ()
    return np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(shape)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape)[1:]


def _name(model: Any, operator: Any) -> str:
    return flatbuffer.operator_name(model.operatorCodes[operator.opcodeIndex])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def require_tail(found: tuple[Tail, ...], reason: str, *, where: str) -> None:
    """Refuse a model that has no place to be parted at.

    Raises:
        ModelError: it says which operator is in the way.
    """
    if not found:
        raise ModelError(f"has no layers in front of its embedding that could train: {reason}", where=where,
                         fix="train the head alone: leave --trainable out")  # fmt: skip
