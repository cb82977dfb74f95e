"""A codec of an installed package: held against what a codec is, before its work goes anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protos.plugins import Plugin, guarded, wrong
from protos.update.contract import Codec, CodecEntry, Parameter, State
from protos.update.tensors import EncodedTensor, decode
from protos.update.trees import Shapes, Tree, shapes

__all__ = ["adopt"]


def adopt(plugin: Plugin, offered: object) -> CodecEntry:
    """A row of the table from what a plug-in offers.

    What it encodes is decoded once before it is handed on, so that a coding which nobody could read is the device's
    error, with the plug-in's name, and not a report that the coordinator refuses.

    Raises:
        PluginError: it is no :class:`protos.update.contract.CodecEntry`, or one with odd parameters.
    """
    if not isinstance(offered, CodecEntry):
        raise wrong(plugin, f"is {type(offered).__name__}, not a CodecEntry")
    for name, rule in offered.parameters.items():
        sensible = (
            isinstance(name, str) and isinstance(rule, Parameter) and rule.minimum <= rule.default <= rule.maximum
        )
        if not sensible or name in ("codec", "parameters"):
            raise wrong(plugin, f"its parameter {name!r} is not a Parameter with minimum <= default <= maximum")

    def build(parameters: Mapping[str, float]) -> Codec:
        made = guarded(plugin, offered.build, "build its codec")(parameters)
        if not isinstance(made, Codec):
            raise wrong(plugin, f"builds {type(made).__name__}, not a Codec")
        encode_it = guarded(plugin, made.encode, "encode")

        def init(expected: Shapes) -> State:
            state = guarded(plugin, made.init, "make its first state")(expected)
            _check_state(plugin, state)
            return state

        def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
            coded = encode_it(tree, state, generator)
            if not isinstance(coded, tuple) or len(coded) != 2:
                raise wrong(plugin, "its encode gives no pair of tensors and state")
            tensors, after = tuple(coded[0]), coded[1]
            if not all(isinstance(tensor, EncodedTensor) for tensor in tensors):
                raise wrong(plugin, "its encode gives something else than EncodedTensor")
            _check_state(plugin, after)
            try:
                decode(tensors, shapes(tree))
            except Exception as error:  # values of any type may stand in a tensor that code of others made
                raise wrong(plugin, f"what it encoded cannot be decoded ({error})") from error
            return tensors, after

        return Codec(plugin.name, init, encode)

    return CodecEntry(dict(offered.parameters), build, offered.meaning)


def _check_state(plugin: Plugin, state: object) -> None:
    if not isinstance(state, Mapping) or not all(isinstance(value, np.ndarray) for value in state.values()):
        raise wrong(plugin, "its state is no mapping of names to arrays")
