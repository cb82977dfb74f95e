"""Append a tail of real numbers, with what of it was trained, and a head to an integer backbone.

The backbone keeps its integers. What trained behind it stays in real numbers, as it was trained: a DEQUANTIZE, the
layers of the bundle's tail with their changes added, the head, and a QUANTIZE, so that the file takes and gives 8-bit
integers as every exported model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from coordinator.export.assemble import PROBABILITY, Writer, affine_of, checked, make_static
from coordinator.export.quantise import Affine
from protos.errors import ModelError
from protos.model import flatbuffer
from protos.model.bundle import Bundle
from protos.model.head_algebra import Tree
from protos.model.manifest import TailTensor

# Room above and below the scores of the calibration examples.
_HEADROOM = 0.1
_FLOAT = schema.TensorType.FLOAT32


def assemble_with_tail(
    bundle: Bundle, tree: Tree, plain: Tree, scores: NDArray[Any], *, notes: Mapping[str, Any], softmax: bool = False
) -> bytes:
    """One model: raw quantised input to quantised logits, or to probabilities.

    Args:
        bundle: one with a tail.
        tree: the head as it travels, with the changes of the tail's tensors.
        plain: the head on the tail's features, standardisation folded in.
        scores: [N, C] logits of calibration examples, from which the range of the output follows.
        notes: written into the file as JSON metadata named "edgejoule".

    Raises:
        ModelError: backbone or tail are not what the manifest says.
    """
    spec = bundle.manifest.head.tail
    assert spec is not None
    assert bundle.tail_path is not None
    model = flatbuffer.parse(bundle.backbone_path.read_bytes(), where="backbone")
    graph = checked(model)
    make_static(graph)
    source = affine_of(graph.tensors[graph.outputs[0]])
    writer = _Writer(model, graph)
    at = writer.operator("DEQUANTIZE", 2 if source.dtype == "int8" else 1, [int(graph.outputs[0])],
                         writer.tensor("tail/input", (1, *spec.shape)), "DequantizeOptions",
                         schema.DequantizeOptionsT())  # fmt: skip
    given = [1, *spec.shape]
    if [int(size) for size in graph.tensors[graph.outputs[0]].shape] != given:
        raise ModelError(f"gives {list(graph.tensors[graph.outputs[0]].shape)}, the tail takes {given}",
                         where="backbone", fix="convert the model again")  # fmt: skip
    at = writer.append(bundle.tail_path.read_bytes(), spec.trained, tree, at)
    layers = [("out_kernel", "out_bias", False)]
    if "hidden_kernel" in plain:
        layers.insert(0, ("hidden_kernel", "hidden_bias", True))
    at = writer.flattened(at, spec.features)
    for kernel, bias, relu in layers:
        at = writer.dense(at, plain[kernel], plain[bias], relu=relu)
    target = _range(scores, source.dtype)
    if softmax:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        at = writer.operator("SOFTMAX", 1, [at], writer.tensor("head/soft", (1, scores.shape[1])), "SoftmaxOptions",
                             options)  # fmt: skip
        target = PROBABILITY[source.dtype]
    at = writer.operator("QUANTIZE", 1, [at], writer.tensor("head/scores", (1, scores.shape[1]), target),
                         "QuantizeOptions", schema.QuantizeOptionsT())  # fmt: skip
    return writer.finished(at, "probabilities" if softmax else "logits", notes)


def _range(scores: NDArray[Any], dtype: str) -> Affine:
    low, high = min(0.0, float(scores.min())), max(0.0, float(scores.max()))
    room = _HEADROOM * max(high - low, 1e-6)
    low, high = low - room, high + room
    limits = np.iinfo(dtype)
    scale = float(np.float32((high - low) / 255))
    return Affine(dtype, scale, int(np.clip(round(limits.min - low / scale), limits.min, limits.max)))


class _Writer(Writer):
    """Adds float tensors and operators to one subgraph."""

    def tensor(self, name: str, shape: tuple[int, ...], affine: Affine | None = None, buffer: int = 0) -> int:
        one = schema.TensorT()
        one.name, one.shape, one.buffer, one.hasRank = name, np.array(shape, np.int32), buffer, True
        one.type = _FLOAT
        if affine is not None:
            one.type = schema.TensorType.INT8 if affine.dtype == "int8" else schema.TensorType.UINT8
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale = np.array([affine.scale], np.float32)
            one.quantization.zeroPoint = np.array([affine.zero_point], np.int64)
        self._graph.tensors.append(one)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: NDArray[Any]) -> int:
        kept = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        index = self.tensor(name, kept.shape, None, self.buffer(kept.tobytes()))
        if kept.dtype.kind == "i":
            self._graph.tensors[index].type = schema.TensorType.INT32
        return index

    def flattened(self, source: int, width: int) -> int:
        if list(self._graph.tensors[source].shape) == [1, width]:
            return source
        options = schema.ReshapeOptionsT()
        options.newShape = np.array([1, width], np.int32)
        shape = self.constant("tail/shape", np.array([1, width], np.int32))
        return self.operator("RESHAPE", 1, [source, shape], self.tensor("tail/features", (1, width)), "ReshapeOptions",
                             options)  # fmt: skip

    def dense(self, source: int, kernel: NDArray[Any], bias: NDArray[Any], *, relu: bool) -> int:
        options = schema.FullyConnectedOptionsT()
        if relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        weights = self.constant("head/weights", np.asarray(kernel.T, np.float32))
        biases = self.constant("head/bias", np.asarray(bias, np.float32))
        target = self.tensor("head/dense", (1, len(bias)))
        return self.operator("FULLY_CONNECTED", 1, [source, weights, biases], target, "FullyConnectedOptions", options)

    def append(self, content: bytes, trained: tuple[TailTensor, ...], tree: Tree, source: int) -> int:
        """The operators of the tail, which reads ``source``; returns what it gives."""
        other = flatbuffer.parse(content, where="tail")
        graph = other.subgraphs[0]
        changes: dict[int, dict[str, NDArray[Any]]] = {}
        for tensor in trained:
            kind = tensor.name.rpartition("_")[2]
            changes.setdefault(tensor.layer, {})[kind] = tree[tensor.name].astype(np.float64) * tensor.gain
        place = {int(graph.inputs[0]): source, -1: -1}

        def moved(index: int) -> int:
            if index not in place:
                one = graph.tensors[index]
                data = other.buffers[one.buffer].data
                one.buffer = 0 if data is None or not len(data) else self.buffer(bytes(data))
                one.shapeSignature = None
                self._graph.tensors.append(one)
                place[index] = len(self._graph.tensors) - 1
            return place[index]

        for operator in graph.operators:
            code = other.operatorCodes[operator.opcodeIndex]
            change = changes.pop(int(operator.outputs[0]), {})
            inputs = [int(tensor) for tensor in operator.inputs]
            changed = {}
            for kind, at in (("kernel", 1), ("bias", 2)):
                if kind in change:
                    changed[at] = self._changed(other, graph.tensors[inputs[at]], change[kind], kind)
            # What has changed takes the place of the old constant, which does not travel too.
            ends = [changed[at] if at in changed else moved(index) for at, index in enumerate(inputs)]
            operator.inputs = np.array(ends, np.int32)
            operator.outputs = np.array([moved(int(tensor)) for tensor in operator.outputs], np.int32)
            operator.opcodeIndex = self.code(flatbuffer.builtin_code(code), code.version)
            self._graph.operators.append(operator)
        if changes:
            raise ModelError("lacks a layer that the manifest says trains", where="tail", fix="convert the model again")
        return moved(int(graph.outputs[0]))

    def _changed(self, other: Any, tensor: Any, change: NDArray[Any], kind: str) -> int:
        """A constant of the tail with a change added; a kernel lies there with its outputs first."""
        values = np.frombuffer(bytes(other.buffers[tensor.buffer].data), "<f4").reshape(tensor.shape)
        if kind == "kernel":
            change = change.transpose(3, 0, 1, 2) if change.ndim == 4 else change.T
        if values.shape != change.shape:
            raise ModelError(f"has a {kind} of {list(values.shape)}, the manifest says {list(change.shape)}",
                             where="tail", fix="convert the model again")  # fmt: skip
        name = tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else str(tensor.name)
        return self.constant(f"{name}/trained", (values + change).astype(np.float32))
