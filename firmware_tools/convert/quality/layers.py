"""What each layer loses by integers, and the part of it that a bias can give back.

Both files are run on the same examples with every tensor kept. The loss of a layer is told as its ratio of signal to
quantisation noise, over all its values f of the float file and q of the integer one (dequantised):

    SQNR = 10 log10( sum f^2 / sum (f - q)^2 )  dB

It holds the noise of all layers before it, too. About 6 dB are one bit.

Rounding moves the mean of a channel as well: e_c = mean(q - f). Subtracting round(e_c / (s_in s_w,c)) from the integer
bias of channel c takes that away; from the first layer to the last, since each sees what those before it gave. Source:
Nagel et al., ICCV 2019, arXiv:1906.04721, section 4.2 and appendix D (empirical bias correction).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from firmware_tools.convert.quality.graph import WEIGHTED, Graph
from protos.model.head_algebra import Array

_BIAS_LIMIT = 2.0**30
_MOST_DB = 120.0


@dataclass(frozen=True, slots=True)
class LayerQuality:
    """Of one operator: the tensor that it gives, its kind, and SQNR in dB."""

    layer: str
    operator: str
    sqnr_db: float


def layer_quality(real: bytes, integer: bytes, inputs: Array, *, where: str) -> list[LayerQuality]:
    """Loss of each layer whose output both files name alike, in their order.

    Args:
        real: float32 .tflite.
        integer: int8 .tflite made of it.
        inputs: float32 [N, ...], what ``real`` takes; int32 of token ids.
    """
    graph = Graph(integer, where=where)
    matched = _matched(graph, Graph(real, where=where))
    signal, noise = dict.fromkeys(matched, 0.0), dict.fromkeys(matched, 0.0)
    for values in _both(real, integer, inputs, matched, graph):
        for index, (wanted, got) in values.items():
            signal[index] += float(np.square(wanted).sum())
            noise[index] += float(np.square(wanted - got).sum())
    found = []
    for operator in graph.graph.operators:
        index = int(operator.outputs[0])
        if index in matched and signal[index] > 0:
            ratio = 10.0 * np.log10(signal[index] / noise[index]) if noise[index] > 0 else _MOST_DB
            name = graph.name(index).split(";")[0]
            found.append(LayerQuality(name, graph.operator(operator), round(float(min(ratio, _MOST_DB)), 1)))
    return found


def bias_corrected(real: bytes, integer: bytes, inputs: Array, *, where: str) -> tuple[bytes, int]:
    """The integer file with biases that give each channel the mean of the float one, and how many layers changed."""
    graph = Graph(integer, where=where)
    matched, changed = _matched(graph, Graph(real, where=where)), 0
    for operator in graph.graph.operators:
        output, bias = int(operator.outputs[0]), int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
        if graph.operator(operator) not in WEIGHTED or output not in matched or bias < 0 or graph.readers[bias] != 1:
            continue
        codes = graph.values(bias)
        if codes is None or codes.dtype.kind != "i":
            continue
        only = {output: matched[output]}
        errors = [
            (got - wanted).reshape(-1, len(codes))
            for values in _both(real, graph.content(), inputs, only, graph)
            for wanted, got in values.values()
        ]
        error = np.concatenate(errors).mean(axis=0, dtype=np.float64)
        scale = float(graph.tensor(int(operator.inputs[0])).quantization.scale[0]) * np.asarray(
            graph.tensor(int(operator.inputs[1])).quantization.scale, np.float64
        )
        moved = np.clip(codes - np.rint(error / scale), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
        if (moved != codes).any():
            graph.hold(bias, moved)
            changed += 1
    return graph.content(), changed


def _matched(integer: Graph, real: Graph) -> dict[int, int]:
    """Tensors of the integer file that are int8 and made by an operator, with the float ones of the same name."""
    named = {real.name(int(operator.outputs[0])): int(operator.outputs[0]) for operator in real.graph.operators}
    found = {}
    for operator in integer.graph.operators:
        index = int(operator.outputs[0])
        how = integer.tensor(index).quantization
        whole = how is not None and how.scale is not None and len(how.scale) == 1
        if whole and (other := named.get(integer.name(index))) is not None:
            found[index] = other
    return found


def _both(
    real: bytes, integer: bytes, inputs: Array, matched: dict[int, int], graph: Graph
) -> Iterator[dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]]:
    """Values of the matched tensors for each example: by the float file, and by the integer one in real numbers."""
    first, second = _opened(real), _opened(integer)
    taken = second.get_input_details()[0]
    scale, zero = taken["quantization"]
    limits, ids = np.iinfo(taken["dtype"]), taken["dtype"] == np.int32
    for value in inputs:
        first.set_tensor(first.get_input_details()[0]["index"], value[None].astype(np.int32 if ids else np.float32))
        first.invoke()
        codes = (
            value[None]
            if ids
            else np.clip(np.rint(value[None] / scale) + zero, limits.min, limits.max).astype(taken["dtype"])
        )
        second.set_tensor(taken["index"], codes)
        second.invoke()
        yield {
            index: (first.get_tensor(other).astype(np.float64), _real(second.get_tensor(index), graph.tensor(index)))
            for index, other in matched.items()
        }


def _real(codes: npt.NDArray[Any], tensor: Any) -> npt.NDArray[np.float64]:
    how = tensor.quantization
    values: npt.NDArray[np.float64] = (codes.astype(np.float64) - int(how.zeroPoint[0])) * float(how.scale[0])
    return values


def _opened(content: bytes) -> Any:
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter
