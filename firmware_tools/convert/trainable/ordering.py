"""Operators of a compiled step in an order that holds fewer tensors at the same time.

The runtime executes operators in the order of the file, and the converter writes them in no order that minds memory:
sums over a gradient stood behind all layers, so that each layer's gradient was held until then. Any order that keeps
what an operator needs in front of it gives the same values, bit by bit. Two are tried: that of the file, and one in
which operators are taken one by one, of those that could be next the one after which the fewest bytes are held (list
scheduling; finding the best order is NP-complete: Sethi 1975, SIAM J. Comput. 4(3)). In both, what frees nothing is
then put off until it is needed. An order that turns out no better is not taken.

A variable is read and assigned in the order of the file: an assignment comes after all that was made of the value
before.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import Any

from firmware_tools.convert.trainable.memory import graph_of, size_of, working_memory
from protos.model import flatbuffer

__all__ = ["ordered"]

_VARIABLE, _READ, _ASSIGN = "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"
# What looks at variables in a way of its own stays where it is.
_BARRIERS = ("CALL_ONCE", "CALL", "IF", "WHILE")


def ordered(content: bytes, signature: str) -> bytes:
    """The same .tflite file, the operators of this signature in an order that takes no more memory than before."""
    least, found = working_memory(content, signature), content
    for rule in (_fewest_first, lambda work: work.as_they_are):
        model = flatbuffer.parse(content)
        graph = graph_of(model, signature)
        work = _Work(model, graph)
        operators = list(graph.operators)
        graph.operators = [operators[place] for place in _late(work, rule(work))]
        tried = flatbuffer.pack(model)
        if (size := working_memory(tried, signature)) < least:
            least, found = size, tried
    return found


class _Work:
    """What must come before what, and what is held between.

    Attributes:
        operators: as they are; a place is an index here.
        needs, followers: by place, the places that must come before, and those that come after.
        made: the tensors that operators make, and their bytes.
        kept: tensors that are wanted at the end.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self.operators = list(graph.operators)
        self.as_they_are = list(range(len(self.operators)))
        self.needs = _needs(model, graph)
        self.followers: list[list[int]] = [[] for _ in self.operators]
        for place, needed in enumerate(self.needs):
            for before in needed:
                self.followers[before].append(place)
        self.made = {index: size_of(graph.tensors[index]) for one in self.operators for index in _tensors(one.outputs)}
        self.kept = set(_tensors(graph.outputs))


def _late(work: _Work, order: list[int]) -> list[int]:
    """The same order, but what frees nothing comes right in front of what first needs it."""
    found: list[int] = []
    for place in reversed(order):
        operator = work.operators[place]
        given = sum(work.made[index] for index in _tensors(operator.outputs))
        read = sum(work.made.get(index, 0) for index in _tensors(operator.inputs))
        after = set(work.followers[place])
        at = next((at for at, other in enumerate(found) if other in after), 0) if given >= read else 0
        found.insert(at, place)
    return found


def _fewest_first(work: _Work) -> list[int]:
    """One by one, of those that could be next, the one after which the fewest bytes are held."""
    operators, made, kept, followers = work.operators, work.made, work.kept, work.followers
    missing = [len(needed) for needed in work.needs]
    readers: dict[int, int] = defaultdict(int)
    for operator in operators:
        for index in _tensors(operator.inputs):
            readers[index] += 1

    def grows(place: int) -> int:
        """Bytes that are held more after this operator than before it."""
        operator = operators[place]
        freed = sum(
            made[index] for index in _tensors(operator.inputs)
            if index in made and index not in kept and readers[index] == 1
        )  # fmt: skip
        return sum(made[index] for index in _tensors(operator.outputs) if readers[index] or index in kept) - freed

    ready = [(grows(place), place) for place, count in enumerate(missing) if count == 0]
    heapq.heapify(ready)
    found: list[int] = []
    while ready:
        cost, place = heapq.heappop(ready)
        # Others read what it reads meanwhile: it may free more now than when it became ready.
        if (now := grows(place)) != cost:
            heapq.heappush(ready, (now, place))
            continue
        found.append(place)
        again = set()
        for index in _tensors(operators[place].inputs):
            readers[index] -= 1
            if index in made and readers[index] == 1:
                again.add(index)
        if again:
            # One reader is left: that one frees it.
            ready = [(grows(other), other) for _, other in ready]
            heapq.heapify(ready)
        for follower in followers[place]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, (grows(follower), follower))
    assert len(found) == len(operators)
    return found


def _needs(model: Any, graph: Any) -> list[set[int]]:
    """Of each operator, the operators that must come before."""
    source: dict[int, int] = {}
    variable: dict[int, Any] = {}
    users: dict[int, list[int]] = defaultdict(list)
    for place, operator in enumerate(graph.operators):
        for index in _tensors(operator.inputs):
            users[index].append(place)
        for index in _tensors(operator.outputs):
            source[index] = place
            if flatbuffer.operator_name(model.operatorCodes[operator.opcodeIndex]) == _VARIABLE:
                options = operator.builtinOptions
                variable[index] = (options.container, options.sharedName)
    needs: list[set[int]] = []
    # Of each variable: the last assignment, and what came of its value since.
    assigned: dict[Any, int] = {}
    looked: dict[Any, set[int]] = defaultdict(set)
    barrier: int | None = None
    for place, operator in enumerate(graph.operators):
        name = flatbuffer.operator_name(model.operatorCodes[operator.opcodeIndex])
        needed = {source[index] for index in _tensors(operator.inputs) if index in source}
        if barrier is not None:
            needed.add(barrier)
        if name in (_READ, _ASSIGN):
            key = variable.get(int(operator.inputs[0]), int(operator.inputs[0]))
            if key in assigned:
                needed.add(assigned[key])
            if name == _READ:
                looked[key] |= {place, *(user for index in _tensors(operator.outputs) for user in users[index])}
            else:
                needed |= {other for other in looked.pop(key, set()) if other < place}
                assigned[key] = place
        if name in _BARRIERS:
            needed |= set(range(place))
            barrier = place
        needs.append(needed)
    return needs


def _tensors(indices: Any) -> list[int]:
    """Without those that an operator leaves out; each once."""
    return list(dict.fromkeys(int(index) for index in indices if int(index) >= 0)) if indices is not None else []
