"""Append an integer head to an integer backbone, by editing the flatbuffer.

The backbone's tensors and operators stay as they are; what is added is, in order: a RESHAPE when the embedding is
not [1, D], one FULLY_CONNECTED per layer (ReLU fused), and a SOFTMAX when asked for.

Rules kept here:

- Weights have one scale per tensor. One per output channel runs rightly in ai-edge-litert 2.3 and in tflite-runtime
  2.14 (which refuses the operator version 12 that newer converters give it), but with the bias corrected it is no
  nearer to the float head: 0.19 against 0.18 output steps on 1,024 -> 5, and runtimes, compilers and
  microcontrollers from before 2023 take one scale only.
- A backbone with uint8 ends (the scheme before 2019, Coral's extractors) gets uint8 weights with zero point 128.
- Each operator code carries its number twice, as old readers look into the 8-bit field and new ones into the wide
  one, with the lowest version that has the meaning needed: old runtimes refuse versions they do not know.
- All shapes are static with a batch of one, as the Edge TPU compiler wants them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from coordinator.export.quantise import Affine, DenseLayer, IntegerLayer, quantise_layer
from protos.errors import ModelError, ShapeError
from protos.model import flatbuffer
from protos.model.manifest import TOKENS

SIGNATURE = "serving_default"
METADATA = "edgejoule"
_TYPES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8, "int32": schema.TensorType.INT32}
# Softmax has a fixed output: 1/256 covers [0, 1), and every runtime checks for it.
PROBABILITY = {"int8": Affine("int8", 1 / 256, -128), "uint8": Affine("uint8", 1 / 256, 0)}
# The metadata that stays true when a head is added. What names the old outputs does not.
_KEPT_METADATA = {b"min_runtime_version", b"CONVERSION_METADATA"}


def embedding_end(backbone: bytes) -> tuple[Affine, int]:
    """Quantisation and width D of a backbone's output.

    Raises:
        ModelError: not one input and one output of int8 or uint8.
    """
    graph = checked(flatbuffer.parse(backbone, where="backbone"))
    tensor = graph.tensors[graph.outputs[0]]
    return affine_of(tensor), int(np.prod(tensor.shape))


def quantise_head(layers: Sequence[DenseLayer], embeddings: NDArray[Any], source: Affine) -> list[IntegerLayer]:
    """All layers in integers, each calibrated on what the integer layers before it give."""
    integers: list[IntegerLayer] = []
    q = embeddings
    for layer in layers:
        integers.append(quantise_layer(layer, q, source))
        q, source = integers[-1].run(q), integers[-1].target
    return integers


def assemble(
    backbone: bytes,
    layers: Sequence[DenseLayer],
    embeddings: NDArray[Any],
    *,
    softmax: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> bytes:
    """One fully integer model: raw quantised input to quantised logits, or to probabilities.

    Args:
        backbone: a .tflite with one int8 (or uint8) input and one output of the same type, batch 1.
        layers: the plain head, from embedding to logits; kernels [in, out].
        embeddings: [N, D] outputs of this backbone on calibration examples, N >= 1, from which ranges follow.
        softmax: end with probabilities, of scale 1/256, instead of logits.
        notes: written into the file as JSON metadata named "edgejoule".

    Returns:
        The file. Signature `serving_default` has the backbone's input names and one output, `logits` or
        `probabilities`, [1, C].

    Raises:
        ModelError: the backbone is no .tflite file, or holds float or dynamic parts.
        ShapeError: embeddings and layers do not fit it.
        NonFiniteError: NaN or infinity in the layers.
    """
    model = flatbuffer.parse(backbone, where="backbone")
    graph = checked(model)
    floats = flatbuffer.float_operators(backbone, where="backbone")
    if floats:
        raise ModelError(f"has float operators: {', '.join(floats)}", where="backbone", fix="convert it to full int8")
    end = graph.tensors[graph.outputs[0]]
    source, width = affine_of(end), int(np.prod(end.shape))
    if not layers or embeddings.ndim != 2 or embeddings.shape[1] != width or embeddings.dtype.name != source.dtype:
        raise ShapeError(
            f"calibration embeddings are {embeddings.dtype} {list(embeddings.shape)}, the backbone gives "
            f"{source.dtype} [N, {width}]",
            where="export",
            fix="embed the calibration examples with this backbone",
        )
    make_static(graph)
    writer = Writer(model, graph)
    at = int(graph.outputs[0])
    if list(end.shape) != [1, width]:
        at = writer.reshape(at, width)
    for number, layer in enumerate(quantise_head(layers, embeddings, source)):
        at = writer.fully_connected(at, layer, f"head/dense_{number}")
    if softmax:
        at = writer.softmax(at, layers[-1].bias.shape[0])
    return writer.finished(at, "probabilities" if softmax else "logits", notes)


class Writer:
    """Adds tensors, buffers and operators to one subgraph."""

    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph

    def buffer(self, data: bytes) -> int:
        entry = schema.BufferT()
        entry.data = np.frombuffer(data, np.uint8)
        self._model.buffers.append(entry)
        return len(self._model.buffers) - 1

    def finished(self, at: int, output: str, notes: Mapping[str, Any] | None) -> bytes:
        """The file, which gives this tensor by this name."""
        self._graph.outputs = np.array([at], np.int32)
        _sign(self._model, self._graph, output)
        self._model.description = b"edgejoule"
        self._model.metadata = [entry for entry in self._model.metadata or [] if entry.name in _KEPT_METADATA]
        if notes is not None:
            entry = schema.MetadataT()
            entry.name, entry.buffer = METADATA, self.buffer(json.dumps(notes, sort_keys=True).encode())
            self._model.metadata.append(entry)
        return flatbuffer.pack(self._model)

    def reshape(self, source: int, width: int) -> int:
        given = self._graph.tensors[source]
        options = schema.ReshapeOptionsT()
        options.newShape = np.array([1, width], np.int32)
        shape = self._constant("head/shape", np.array([1, width], np.int32), None)
        target = self._tensor("head/embedding", (1, width), affine_of(given), 0)
        return self.operator("RESHAPE", 1, [source, shape], target, "ReshapeOptions", options)

    def fully_connected(self, source: int, layer: IntegerLayer, name: str) -> int:
        legacy = layer.source.dtype == "uint8"
        options = schema.FullyConnectedOptionsT()
        if layer.relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        stored = (layer.weights.astype(np.int16) + 128).astype(np.uint8) if legacy else layer.weights
        scale = Affine(layer.source.dtype, layer.weight_scale, 128 if legacy else 0)
        weights = self._constant(f"{name}/weights", stored, scale)
        # The runtime compares the bias scale with the product of the two others, in float32.
        product = float(np.float32(layer.source.scale) * np.float32(layer.weight_scale))
        bias = self._constant(f"{name}/bias", layer.bias, Affine("int32", product, 0))
        target = self._tensor(name, (1, len(layer.bias)), layer.target, 0)
        version = 1 if legacy else 4  # 4: int8 inputs, weights and outputs
        return self.operator(
            "FULLY_CONNECTED", version, [source, weights, bias], target, "FullyConnectedOptions", options
        )

    def softmax(self, source: int, classes: int) -> int:
        dtype = affine_of(self._graph.tensors[source]).dtype
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        target = self._tensor("head/probabilities", (1, classes), PROBABILITY[dtype], 0)
        version = 1 if dtype == "uint8" else 2  # 2: int8
        return self.operator("SOFTMAX", version, [source], target, "SoftmaxOptions", options)

    def _constant(self, name: str, values: NDArray[Any], affine: Affine | None) -> int:
        little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
        return self._tensor(name, values.shape, affine, self.buffer(little.tobytes()), values.dtype.name)

    def _tensor(
        self, name: str, shape: tuple[int, ...], affine: Affine | None, buffer: int, dtype: str | None = None
    ) -> int:
        if dtype is None:
            assert affine is not None
            dtype = affine.dtype
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, np.array(shape, np.int32), buffer
        tensor.type, tensor.hasRank = _TYPES[dtype], True
        if affine is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([affine.scale], np.float32)
            tensor.quantization.zeroPoint = np.array([affine.zero_point], np.int64)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(
        self, name: str, version: int, inputs: Sequence[int], output: int, options_type: str, options: Any
    ) -> int:
        operator = schema.OperatorT()
        operator.opcodeIndex = self.code(getattr(schema.BuiltinOperator, name), version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_type)
        operator.builtinOptions = options
        self._graph.operators.append(operator)
        return output

    def code(self, number: int, version: int) -> int:
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if flatbuffer.builtin_code(code) == number and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode, code.builtinCode, code.version = min(number, 127), number, version
        codes.append(code)
        return len(codes) - 1


def checked(model: Any) -> Any:
    """The one subgraph, when its ends are 8-bit (or its input int32, token ids) and its operators known."""
    graph = model.subgraphs[0]
    if len(model.subgraphs) != 1 or graph.inputs is None or graph.outputs is None:
        raise ModelError("has more than one subgraph", where="backbone", fix="export a plain feature extractor")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(
            f"has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
            where="backbone",
            fix="use a backbone with one of each",
        )
    got = affine_of(graph.tensors[graph.outputs[0]])
    if flatbuffer.type_name(graph.tensors[graph.inputs[0]].type) == TOKENS:
        return graph
    given = affine_of(graph.tensors[graph.inputs[0]])
    if given.dtype != got.dtype:
        raise ModelError(f"takes {given.dtype} and gives {got.dtype}", where="backbone", fix="use one type for both")
    return graph


def affine_of(tensor: Any) -> Affine:
    """How the integers of a tensor stand for real numbers. Raises ModelError: it has none of 8 bits."""
    dtype, how = flatbuffer.type_name(tensor.type), tensor.quantization
    if dtype not in PROBABILITY or how is None or how.scale is None or len(how.scale) != 1:
        name = tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else tensor.name
        raise ModelError(
            f"tensor {name!r} ({dtype}) is not quantised to 8 bits",
            where="backbone",
            fix="convert it to full int8 with int8 input and output",
        )
    zero = int(how.zeroPoint[0]) if how.zeroPoint is not None and len(how.zeroPoint) else 0
    return Affine(dtype, float(how.scale[0]), zero)


def make_static(graph: Any) -> None:
    """All shapes are fixed, with a batch of one."""
    for tensor in graph.tensors:
        tensor.shapeSignature = None


def _sign(model: Any, graph: Any, output: str) -> None:
    """Leave one signature, from the names the backbone had to the new output."""
    old = next(iter(model.signatureDefs or []), None)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    if old is not None and old.inputs:
        signature.inputs = old.inputs
    else:
        signature.inputs = [_named(graph.tensors[graph.inputs[0]].name, int(graph.inputs[0]))]
    signature.outputs = [_named(output, int(graph.outputs[0]))]
    model.signatureDefs = [signature]


def _named(name: bytes | str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
