"""Which operators of a model will run on the Edge TPU, told without its compiler.

Source: https://coral.ai/docs/edgetpu/models-intro/ (Compiling) and https://coral.ai/docs/edgetpu/compiler/ (Parameter
data caching). The compiler maps one part only: the first operator that does not map, and every one after it in the
order of execution, run on the CPU. The real compiler may map more of a model that branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from firmware_tools.compile.graph import Graph, Node, read_graph
from firmware_tools.compile.operators import TABLE, UNREADABLE_FROM
from firmware_tools.compile.requirements import unmet
from protos.errors import ModelError

# "Roughly 8 MB" of SRAM hold parameters, the program and what passes between layers. Logs of compiler 14 and 15 leave
# 6.06 to 7.96 MiB for parameters, so less than 6 MiB fit and more than 8 MiB do not.
SURELY_CACHED_BYTES = 6 << 20
ON_CHIP_BYTES = 8 << 20
Memory = Literal["cached", "uncertain", "streamed"]
AFTER = "comes after an operator on the CPU, and only one part is mapped"
ENTRY = "turns float input into integers on the CPU; what follows still maps"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will become of one operator; `reason` says why it stays on the CPU, `doubt` why it might."""

    number: int
    name: str
    version: int
    mapped: bool
    reason: str | None
    doubt: str | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A whole model.

    Attributes:
        operators: in order of execution.
        refusal: why the compiler will not take the file at all; None when it will.
        parameter_bytes: constants of the operators that map.
        memory: whether those stay on the chip between inferences or are sent anew for each.
        subgraphs: of the file; only the first is predicted.
    """

    operators: tuple[Forecast, ...]
    refusal: str | None
    parameter_bytes: int
    memory: Memory
    subgraphs: int

    @property
    def mapped(self) -> int:
        """How many operators will run on the Edge TPU."""
        return sum(operator.mapped for operator in self.operators)

    @property
    def is_complete(self) -> bool:
        """True when every operator will run there."""
        return self.refusal is None and self.mapped == len(self.operators) > 0


def predict(model: bytes, *, where: str) -> Prediction:
    """Predict for the bytes of a .tflite file.

    Raises:
        ModelError: not a .tflite file, damaged, or compiled already.
    """
    graph = read_graph(model, where=where)
    if graph.is_compiled:
        raise ModelError("is compiled for the Edge TPU already", where=where, fix="give the CPU model it was made from")
    return predict_graph(graph)


def predict_graph(graph: Graph) -> Prediction:
    """The same for a graph that was read."""
    refusal = next((text for node in graph.nodes if (text := _unreadable(node)) is not None), None)
    forecasts: list[Forecast] = []
    ended = False
    for node in graph.nodes:
        row = TABLE.get(node.name)
        reason = _reason(node)
        if reason is not None and _enters(node, graph):
            reason = ENTRY
        elif reason is not None:
            ended = True
        elif ended:
            reason = AFTER
        elif refusal is not None:
            reason = "the compiler refuses the file"
        doubt = row.doubt if row is not None and reason is None else None
        forecasts.append(Forecast(node.number, node.name, node.version, reason is None, reason, doubt))
    size_bytes = _parameter_bytes([node for node in graph.nodes if forecasts[node.number].mapped])
    return Prediction(tuple(forecasts), refusal, size_bytes, _memory(size_bytes), graph.subgraphs)


def _unreadable(node: Node) -> str | None:
    first = UNREADABLE_FROM.get(node.name)
    if first is None or node.version < first:
        return None
    return f"compiler 16.0 cannot read {node.name} version {node.version}; convert with an older TensorFlow"


def _reason(node: Node) -> str | None:
    row = TABLE.get(node.name)
    if row is None:
        return "is no operator of the Edge TPU"
    if (reason := unmet(node)) is not None:
        return reason
    for position in row.constants:
        given = node.input(position)
        if given is not None and given.data is None:
            return f"input {position} is computed, and must be a constant"
    return next((text for limit in row.limits if (text := limit(node)) is not None), None)


def _enters(node: Node, graph: Graph) -> bool:
    """True for the conversion of a float input, which the compiler leaves at the start."""
    source = node.input(0)
    given = source is not None and any(source is tensor for tensor in graph.inputs)
    return given and node.name == "QUANTIZE" and source is not None and source.dtype == "float32"


def _parameter_bytes(nodes: list[Node]) -> int:
    sizes = {
        tensor.buffer: len(tensor.data)
        for node in nodes
        for tensor in node.inputs
        if tensor is not None and tensor.data is not None
    }
    return sum(sizes.values())


def _memory(size_bytes: int) -> Memory:
    if size_bytes <= SURELY_CACHED_BYTES:
        return "cached"
    return "uncertain" if size_bytes <= ON_CHIP_BYTES else "streamed"
