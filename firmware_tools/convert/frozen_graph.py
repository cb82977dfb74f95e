"""A concrete function with its variables as constants, and with nothing in it but what its outputs are made of.

Random layers draw numbers from generators also where nothing is done with them: dropout of recurrent layers, layers
that change pictures in training. What they leave in a graph is a variable that is assigned to, which cannot be a
constant; no output depends on it, but for the order of execution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorflow.python.framework import convert_to_constants

__all__ = ["frozen_function"]


def frozen_function(concrete: Any) -> Any:
    """TensorFlow's concrete function as another one that holds no variable and no effect; loops stay loops."""
    data = convert_to_constants._FunctionConverterDataInEager(
        func=concrete, lower_control_flow=False, aggressive_inlining=False
    )
    graph, converted = convert_to_constants._replace_variables_by_constants(converter_data=data)
    inputs = [one.op.name for one in concrete.inputs]
    _keep(graph.node, [one.op.name for one in concrete.outputs] + inputs)
    for function in graph.library.function:
        _keep(function.node_def, [name.partition(":")[0] for name in function.ret.values()])
        function.control_ret.clear()
        del function.signature.control_output[:]
    return convert_to_constants._construct_concrete_function(concrete, graph, converted)


def _keep(nodes: Any, wanted: Iterable[str]) -> None:
    """Of the nodes of one graph, keep those that give values to the wanted ones; their order of execution is theirs."""
    by_name = {node.name: node for node in nodes}
    waiting, kept = [name for name in wanted if name in by_name], set()
    while waiting:
        name = waiting.pop()
        if name in kept:
            continue
        kept.add(name)
        node = by_name[name]
        values = [text for text in node.input if not text.startswith("^")]
        del node.input[:]
        node.input.extend(values)
        waiting += [source for text in values if (source := text.partition(":")[0]) in by_name]
    left = [node for node in nodes if node.name in kept]
    del nodes[:]
    nodes.extend(left)
