"""How much memory an interpreter really gave the tensors of a signature: the bytes that one of them lies on.

The runtime tells no size of its arena, but where each tensor lies; bytes on which several lie at different moments
count once. What kernels take for themselves cannot be seen; constants and variables are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from firmware_tools.convert.trainable import memory
from protos.model import flatbuffer

_NUMBERS = ("float32", "int32", "int64", "bool", "int8", "uint8", "float16", "int16")


def arena_bytes(content: bytes, signature: str) -> int:
    """Of the built-in kernels, after one run of this signature on zeros. XNNPACK keeps what is inside of its part of
    the graph in a workspace of its own, where nobody can look."""
    model = flatbuffer.parse(content)
    graph: Any = memory.graph_of(model, signature)
    (place,) = [
        signature_def.subgraphIndex
        for signature_def in model.signatureDefs
        if signature_def.signatureKey.decode() == signature
    ]
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(signature)
    runner(
        **{
            name: np.zeros(input_detail["shape"], input_detail["dtype"])
            for name, input_detail in runner.get_input_details().items()
        }
    )
    made = {int(index) for operator in graph.operators for index in operator.outputs} | set(map(int, graph.inputs))
    spans = []
    for index in made:
        # A handle of a variable has no bytes to look at.
        if flatbuffer.type_name(graph.tensors[index].type) in _NUMBERS:
            held = interpreter._interpreter.tensor(interpreter, index, place)
            start = held.__array_interface__["data"][0]
            spans.append((start, start + held.nbytes))
    covered, until = 0, 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, until))
        until = max(until, end)
    return covered
