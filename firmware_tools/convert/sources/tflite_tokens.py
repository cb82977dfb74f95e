"""Token ids of a .tflite: the table that its input is looked up in, and ids that come as real numbers made whole ones.

A model of a text takes ids of words as int32, or, with Keras' default Input, as float32 that a CAST makes whole again.
Quantising those real numbers would mix neighbouring words up: 5,000 ids do not fit 256 levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from protos.errors import ModelError
from protos.model import flatbuffer
from protos.model.manifest import TOKENS

# Which input holds the ids, and which the table.
_TABLES = {"GATHER": (1, 0), "EMBEDDING_LOOKUP": (0, 1)}
_KEEP_IDS = ("CAST", "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "STRIDED_SLICE", "SELECT", "SELECT_V2", "ADD")


def vocabulary_of(content: bytes, *, where: str) -> int | None:
    """How many token ids the tables have that the input is looked up in, the least; None where it is looked up in none.

    Raises:
        ModelError: the file is damaged, or takes int64 ids.
    """
    model = flatbuffer.parse(content, where=where)
    graph = model.subgraphs[0]
    if graph.inputs is None or len(graph.inputs) != 1:
        return None
    kind = flatbuffer.type_name(graph.tensors[int(graph.inputs[0])].type)
    if kind not in (TOKENS, "int64"):
        return None
    rows = _rows(model, graph, int(graph.inputs[0]))
    if rows is not None and kind != TOKENS:
        raise ModelError(f"takes token ids of {kind}", where=where,
                         fix="convert it with an input of int32, or give its .keras or SavedModel")  # fmt: skip
    return rows


def ids_as_integers(content: bytes, *, where: str) -> bytes:
    """The same model with token ids as int32 where it takes them as real numbers; else the file as it is."""
    model = flatbuffer.parse(content, where=where)
    graph = model.subgraphs[0]
    if graph.inputs is None or len(graph.inputs) != 1 or not len(graph.operators or ()):
        return content
    source = int(graph.inputs[0])
    readers = [one for one in graph.operators if source in [int(index) for index in one.inputs]]
    if len(readers) != 1 or _name(model, readers[0]) != "CAST" or len(model.subgraphs) != 1:
        return content
    made = int(readers[0].outputs[0])
    kinds = [flatbuffer.type_name(graph.tensors[index].type) for index in (source, made)]
    if "float" not in kinds[0] or kinds[1] != TOKENS or _rows(model, graph, made) is None:
        return content
    graph.operators = [one for one in graph.operators if one is not readers[0]]
    graph.inputs = np.array([made], np.int32)
    model.signatureDefs = []
    return flatbuffer.pack(model)


def _rows(model: Any, graph: Any, source: int) -> int | None:
    """Rows of the smallest constant table that a tensor, or what is the same ids, is looked up in."""
    ids, found = {source}, []
    for operator in graph.operators:  # each comes behind what it reads
        name, inputs = _name(model, operator), [int(index) for index in operator.inputs]
        if name in _TABLES:
            at, table = _TABLES[name]
            shape = graph.tensors[inputs[table]].shape
            if inputs[at] in ids and shape is not None and len(shape):
                found.append(int(shape[0]))
        elif name in _KEEP_IDS and ids & set(inputs):
            ids |= {int(index) for index in operator.outputs}
    return min(found, default=None)


def _name(model: Any, operator: Any) -> str:
    return flatbuffer.operator_name(model.operatorCodes[operator.opcodeIndex])
