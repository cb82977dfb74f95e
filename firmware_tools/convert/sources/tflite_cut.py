"""Cuts a .tflite inside its flatbuffer: what stands behind the embedding goes, and becomes the starting head.

So a classifier that is there as a .tflite alone becomes a bundle without the model that it was made from. The integers
of the backbone stay the same, bit for bit. The last dense layer in real numbers:

    kernel[i, o] = (w[o, i] - zero_w[o]) * scale_w[o],    bias[o] = b[o] * scale_in * scale_w[o]

(Jacob et al., CVPR 2018, section 2.2; one scale for each output, or one for all).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from firmware_tools.convert.sources.source import listed_layers, no_such_cut, plain_tail
from protos.errors import ModelError
from protos.model import flatbuffer
from protos.model.head_algebra import Array, Tree

CLASSIFIERS = ("SOFTMAX", "LOGISTIC", "LOG_SOFTMAX")
_BEHIND = (*CLASSIFIERS, "DEQUANTIZE", "QUANTIZE", "RESHAPE")
# Operators that run subgraphs of their own.
_CALLING = ("WHILE", "IF", "CALL_ONCE", "CALL", "STABLEHLO_COMPOSITE")
_VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_NO_ACTIVATION = schema.ActivationFunctionType.NONE


@dataclasses.dataclass(frozen=True, slots=True)
class CutFile:
    """A file that ends in its embedding.

    Attributes:
        content: the .tflite.
        cut: name of the tensor that it ends in.
        tail: plain head behind it, in real numbers, or None; ``note`` says why, or what it is.
        linear: nothing squashes what the head gives.
        one_number: the head had one output.
    """

    content: bytes
    cut: str
    tail: Tree | None
    note: str
    linear: bool
    one_number: bool


def one_signature(content: bytes, asked: str | None, *, where: str) -> bytes:
    """The file with the subgraph of one signature alone, where it has several.

    Args:
        asked: name of the signature; None for the only one.

    Raises:
        ModelError: there is no such signature, none was named among several, or it needs other subgraphs.
    """
    model = flatbuffer.parse(content, where=where)
    named = {_text(one.signatureKey): int(one.subgraphIndex) for one in model.signatureDefs or []}
    if asked is not None and asked not in named:
        known = ", ".join(named) or "none: leave --signature out"
        raise ModelError(f"has no signature {asked!r}", where=where, fix=f"choose one of {known}")
    if len(model.subgraphs) == 1:
        return content
    if asked is None and len(set(named.values())) > 1:
        raise ModelError(f"has the signatures {', '.join(named)}", where=where,
                         fix=f"choose one with --signature NAME, such as --signature {next(iter(named))}")  # fmt: skip
    at = named[asked] if asked is not None else next(iter(named.values()), 0)
    used = [_Graph(model, at).name(operator) for operator in model.subgraphs[at].operators]
    if set(used) & set(_VARIABLES):
        raise ModelError("keeps its weights in variables, which another subgraph fills", where=where,
                         fix="give its .keras, .h5 or SavedModel")  # fmt: skip
    if calling := sorted(set(used) & set(_CALLING)):
        raise ModelError(
            f"has a {calling[0]}, which runs another subgraph; only a plain one can be cut", where=where,
            fix="convert its .keras, .h5 or SavedModel, whose loops are written out",
        )  # fmt: skip
    model.signatureDefs = [one for one in model.signatureDefs or [] if int(one.subgraphIndex) == at]
    for one in model.signatureDefs:
        one.subgraphIndex = 0
    model.subgraphs = [model.subgraphs[at]]
    held = {int(tensor.buffer) for tensor in model.subgraphs[0].tensors}
    held |= {int(one.buffer) for one in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in held:
            buffer.data = None
    drop_unused_codes(model)
    return flatbuffer.pack(model)


def cut_file(content: bytes, cut: str | None, *, where: str) -> CutFile:
    """Cut at the tensor called ``cut``, or else at the input of the last FULLY_CONNECTED.

    Raises:
        ModelError: it cannot be cut there.
    """
    model = flatbuffer.parse(content, where=where)
    if len(model.subgraphs) != 1:
        raise ModelError(f"has {len(model.subgraphs)} subgraphs; only a plain one can be cut", where=where,
                         fix="convert its .keras, .h5 or SavedModel")  # fmt: skip
    graph = _Graph(model)
    # What only makes classes of scores, or real numbers of integers, stands behind the last layer.
    last, squashed = int(graph.graph.outputs[0]), False
    while (one := graph.maker(last)) is not None and graph.name(one) in _BEHIND:
        squashed |= graph.name(one) in CLASSIFIERS
        last = int(one.inputs[0])
    dense = graph.maker(last)
    is_dense = dense is not None and graph.name(dense) == "FULLY_CONNECTED"
    vectors = graph.vectors()
    if cut is None and not is_dense:
        ended = "nothing" if dense is None else graph.name(dense)
        fix = f"name the tensor that is the embedding with --cut TENSOR{listed_layers(vectors)}"
        raise ModelError(f"its last layer is {ended}, no FULLY_CONNECTED", where=where, fix=fix)
    if cut is None:
        assert dense is not None
        at = int(dense.inputs[0])
    else:
        found = [place for place, tensor in enumerate(graph.graph.tensors) if _text(tensor.name) == cut]
        if not found or graph.maker(found[0]) is None:
            raise no_such_cut(cut, vectors, where=where)
        at = found[0]
    if graph.maker(at) is None:
        raise ModelError("the cut leaves no operator for the backbone", where=where, fix="choose a later --cut")
    tail, note = None, "what follows the cut is no linear head"
    if is_dense and dense is not None and graph.behind_copies(int(dense.inputs[0])) == graph.behind_copies(at):
        tail, note = _dense(graph, dense)
    ones = tail is not None and graph.graph.tensors[int(dense.outputs[0])].shape[-1] == 1
    label = _text(graph.graph.tensors[at].name)
    return CutFile(graph.ending_in(at), label, tail, note, not squashed, bool(ones))


def ends_in_classes(content: bytes, *, where: str) -> bool:
    """Whether a .tflite of one output gives scores of classes, by its last operators."""
    return _Graph(flatbuffer.parse(content, where=where)).ends_in_classes()


def _dense(graph: _Graph, dense: Any) -> tuple[Tree | None, str]:
    options = dense.builtinOptions
    if options is not None and options.fusedActivationFunction != _NO_ACTIVATION:
        return None, "an activation is part of its last layer"
    weights = graph.graph.tensors[int(dense.inputs[1])]
    kernel = graph.reals(weights)
    if kernel is None:
        return None, "the weights of its last layer are no constants of 8 bits or real numbers"
    bias: Array | None = None
    if len(dense.inputs) > 2 and int(dense.inputs[2]) >= 0:
        codes = graph.constant(graph.graph.tensors[int(dense.inputs[2])])
        if codes is None:
            return None, "the bias of its last layer is no constant"
        if codes.dtype.kind == "f":
            bias = codes.astype(np.float32)
        else:
            scale = np.asarray(graph.graph.tensors[int(dense.inputs[0])].quantization.scale, np.float64)
            bias = (codes * scale * np.asarray(weights.quantization.scale, np.float64)).astype(np.float32)
    return plain_tail([(kernel.T.copy(), bias, False)])


class _Graph:
    """A subgraph of a model, the one that it has."""

    def __init__(self, model: Any, at: int = 0) -> None:
        self.model, self.graph = model, model.subgraphs[at]
        self._makers = {int(out): operator for operator in self.graph.operators for out in operator.outputs}

    def maker(self, tensor: int) -> Any:
        """The operator that a tensor comes from; None of inputs and constants."""
        return self._makers.get(tensor)

    def name(self, operator: Any) -> str:
        return flatbuffer.operator_name(self.model.operatorCodes[operator.opcodeIndex])

    def ends_in_classes(self) -> bool:
        """Whether the output comes from a softmax or the like, whatever makes other numbers of it behind that."""
        last = int(self.graph.outputs[0])
        while (one := self.maker(last)) is not None and self.name(one) in _BEHIND:
            if self.name(one) in CLASSIFIERS:
                return True
            last = int(one.inputs[0])
        return False

    def behind_copies(self, tensor: int) -> int:
        while (one := self.maker(tensor)) is not None and self.name(one) == "RESHAPE":
            tensor = int(one.inputs[0])
        return tensor

    def vectors(self) -> list[str]:
        """Names of the tensors that are one vector of 8-bit integers or real numbers, in their order."""
        found = []
        for operator in self.graph.operators:
            tensor = self.graph.tensors[int(operator.outputs[0])]
            wide = [size for size in (tensor.shape if tensor.shape is not None else ()) if size != 1]
            if len(wide) == 1 and flatbuffer.type_name(tensor.type) in ("int8", "uint8", "float32"):
                found.append(_text(tensor.name))
        return found

    def constant(self, tensor: Any) -> Any:
        """The numbers of a constant, or None."""
        data = self.model.buffers[tensor.buffer].data
        kind = flatbuffer.type_name(tensor.type)
        if data is None or kind not in ("int8", "uint8", "int32", "float32"):
            return None
        return np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(tensor.shape)

    def reals(self, tensor: Any) -> Array | None:
        """Real numbers [out, in] of weights, or None."""
        codes, how = self.constant(tensor), tensor.quantization
        if codes is not None and codes.dtype.kind == "f":
            return np.asarray(codes, np.float32)
        if codes is None or codes.dtype.itemsize != 1 or how is None or how.scale is None:
            return None
        scale = np.asarray(how.scale, np.float64).reshape(-1, 1)
        zero = np.asarray(how.zeroPoint if how.zeroPoint is not None else 0, np.float64).reshape(-1, 1)
        return np.asarray((codes.astype(np.float64) - zero) * scale, np.float32)

    def ending_in(self, tensor: int) -> bytes:
        """The file whose output is this tensor: what it does not need is gone."""
        needed: list[int] = [tensor]
        kept: list[Any] = []
        while needed:
            one = self.maker(needed.pop())
            if one is not None and not any(one is other for other in kept):
                kept.append(one)
                needed += [int(index) for index in one.inputs if index >= 0]
        operators = [operator for operator in self.graph.operators if any(operator is other for other in kept)]
        source = int(self.graph.inputs[0])
        # A model of float ends takes real numbers and makes integers of them first; a backbone takes integers.
        readers = [operator for operator in operators if source in [int(index) for index in operator.inputs]]
        if len(readers) == 1 and self.name(readers[0]) == "QUANTIZE":
            operators = [operator for operator in operators if operator is not readers[0]]
            source = int(readers[0].outputs[0])
        self.graph.operators = operators
        self.graph.inputs, self.graph.outputs = np.array([source], np.int32), np.array([tensor], np.int32)
        used = {source, tensor} | {
            int(i) for operator in operators for end in (operator.inputs, operator.outputs) for i in end
        }
        buffers = {int(self.graph.tensors[index].buffer) for index in used if index >= 0}
        for index, one in enumerate(self.graph.tensors):
            if index not in used:
                one.buffer = 0
        for index, one in enumerate(self.model.buffers):
            if index not in buffers:
                one.data = None
        self.model.signatureDefs, self.model.metadata = [], []
        drop_unused_codes(self.model)
        return flatbuffer.pack(self.model)


def drop_unused_codes(model: Any) -> None:
    """Forget operator codes without an operator: who measures ranges in a file wants a kernel for each code."""
    used = sorted({int(operator.opcodeIndex) for graph in model.subgraphs for operator in graph.operators})
    place = {old: new for new, old in enumerate(used)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = place[int(operator.opcodeIndex)]
    model.operatorCodes = [model.operatorCodes[old] for old in used]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
