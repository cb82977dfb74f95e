"""Activations of 16 bits between ends of 8: for models whose activations need finer steps than 8 bits have.

Weights stay 8 bits, activations become symmetric codes of 16 (Jacob et al. 2018, arXiv:1712.05877, with the scheme that
TensorFlow Lite calls 16x8). The file begins with an int8 input and ends in an int8 embedding as any backbone does, with
a QUANTIZE after the one and before the other: what devices keep, sum and send of embeddings stays what it is. So the
embedding itself is rounded to 8 bits, once, and nothing before it.

Kernels of 16x8 are in every TFLite runtime's CPU kernels, without XNNPACK: exact, and slower. No Edge TPU has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python.optimize import calibrator

from firmware_tools.convert.quality.graph import Graph
from protos.model.head_algebra import Array
from protos.model.manifest import TOKENS

# schema.fbs: QUANTIZE learnt to give int16 in its second version.
_QUANTIZE_VERSION = 2


def sixteen_bits(
    real: bytes, integers: Sequence[bytes], representative: Callable[[], Iterator[list[Array]]], *, where: str
) -> list[bytes]:
    """The 16x8 .tflite of a float one, with the ends of each int8 one.

    Args:
        real: float32 .tflite of one input and one output.
        integers: int8 .tflites made of it; their ends' scales and zero points are taken over.
        representative: gives inputs of ``real``, [1, ...] each.
    """
    wide = calibrator.Calibrator(real).calibrate_and_quantize(
        representative, tf.int16, tf.int16, False, tf.int16, tf.int64
    )
    return [_with_ends(bytes(wide), Graph(integer, where=where), where=where) for integer in integers]


def _with_ends(wide: bytes, narrow: Graph, *, where: str) -> bytes:
    graph = Graph(wide, where=where)
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.QUANTIZE
    code.version = _QUANTIZE_VERSION
    graph.model.operatorCodes.append(code)
    opcode = len(graph.model.operatorCodes) - 1
    source, target = int(graph.graph.inputs[0]), int(graph.graph.outputs[0])
    ids = narrow.type_of(int(narrow.graph.inputs[0])) == TOKENS  # taken as they are
    taken = source if ids else _end(graph, source, narrow.tensor(int(narrow.graph.inputs[0])), b"input")
    given = _end(graph, target, narrow.tensor(int(narrow.graph.outputs[0])), b"embedding")
    first, last = [] if ids else [_quantise(opcode, taken, source)], _quantise(opcode, target, given)
    graph.graph.operators = [*first, *graph.graph.operators, last]
    graph.graph.inputs, graph.graph.outputs = np.array([taken], np.int32), np.array([given], np.int32)
    graph.model.signatureDefs = []
    return graph.content()


def _end(graph: Graph, like: int, narrow: Any, name: bytes) -> int:
    """A tensor of this shape with the type, scale and zero point of an end of the int8 file."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.hasRank = name, np.array(graph.tensor(like).shape, np.int32), True
    tensor.type, tensor.buffer = narrow.type, 0
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.array(narrow.quantization.scale, np.float32)
    tensor.quantization.zeroPoint = np.array(narrow.quantization.zeroPoint, np.int64)
    graph.graph.tensors.append(tensor)
    return len(graph.graph.tensors) - 1


def _quantise(opcode: int, source: int, target: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode
    operator.inputs, operator.outputs = np.array([source], np.int32), np.array([target], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.QuantizeOptions,
        schema.QuantizeOptionsT(),
    )
    return operator
