"""Our codecs between a ClientApp and a strategy: changes travel coded, in place of whole weights.

    app = ClientApp(mods=[coded("entropy_coded", bits=2.0)])

    class Strategy(Decoding, FedAvg): ...

A reply of a train message then has, in place of its arrays, what became of them since the message came, coded: floating
arrays as float32 differences; arrays of integers go as they are. :class:`Decoding` adds the differences to what it sent
before the strategy sees them, so any strategy works. A reply that cannot be read is left out and told in Flower's log,
as one with an error is.

Rounding draws from the seed, the node and the round: nodes round independently, so errors average out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType
from flwr.common.logger import log

from edgejoule.flower.packing import pack, unpack
from protos.errors import UpdateError, UsageError
from protos.update import codecs
from protos.update.contract import Codec
from protos.update.tensors import decode
from protos.update.trees import Tree

CODED = "edgejoule.coded"
"""The array that a change travels in; no model may have one of that name."""
ROUND = "server-round"
_WARNING = 30

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
Arrays = Mapping[str, npt.NDArray[Any]]


def coded(codec: str = "entropy_coded", *, seed: int = 0, **parameters: float) -> Mod:
    """A mod for a ClientApp: replies of train messages carry coded changes.

    Args:
        codec: a name of docs/codecs.md, or of an installed package.
        seed: of the rounding.
        parameters: of the codec, as a plan's [update] has them.

    Raises:
        PlanError: no such codec or parameter.
        UsageError: the codec needs a memory. It may advance only when a reply counted, which Flower tells no node.
    """
    built = codecs.build(codec, parameters)
    if built.init({"one": (1,)}):
        raise UsageError(
            f"{codec!r} has a memory, and Flower tells no node whether its reply counted",
            where="codec", fix='take one without, such as "entropy_coded" or "uniform_stochastic"',
        )  # fmt: skip

    def mod(msg: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        if msg.metadata.message_type != MessageType.TRAIN:
            return call_next(msg, context)
        _, received = _only(msg.content.array_records, "a train message")
        # The app may train what it received in place.
        before = {name: array.copy() for name, array in _numpy(received).items()}
        config = next(
            (config_record for config_record in msg.content.config_records.values() if ROUND in config_record),
            {ROUND: 0},
        )
        reply = call_next(msg, context)
        if reply.has_error():
            return reply
        key, trained = _only(reply.content.array_records, "a reply")
        random = codecs.generator(seed, "flower", int(context.node_id), int(config[ROUND]))
        reply.content[key] = _changed(before, _numpy(trained), built, random)
        return reply

    return mod


class Decoding:
    """Mix it in before a strategy, and its replies are whole weights again: ``class Mine(Decoding, FedAvg)``.

    Replies that are not coded pass as they are, so nodes with and without the mod may be mixed.
    """

    _sent: Arrays = MappingProxyType({})

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        """Remember what is sent."""
        self._sent = _numpy(arrays)
        return super().configure_train(server_round, arrays, config, grid)  # type: ignore[misc]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Hand the strategy weights."""
        return super().aggregate_train(server_round, self.decoded(replies))  # type: ignore[misc]

    def decoded(self, replies: Iterable[Message]) -> list[Message]:
        """Replies with whole weights; those that cannot be read are told and left out."""
        made = []
        for reply in replies:
            try:
                if not reply.has_error():
                    self._decode(reply)
            except UpdateError as error:
                log(_WARNING, "reply of node %d left out: %s", reply.metadata.src_node_id, error)
                continue
            made.append(reply)
        return made

    def _decode(self, reply: Message) -> None:
        for key, record in list(reply.content.array_records.items()):
            if CODED in record:
                reply.content[key] = _whole(self._sent, _numpy(record))


def _only(records: Mapping[str, ArrayRecord], where: str) -> tuple[str, ArrayRecord]:
    if len(records) != 1:
        raise UpdateError(f"{len(records)} records of arrays, expected one", where=where)
    return next(iter(records.items()))


def _numpy(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    return {str(name): array.numpy() for name, array in record.items()}


def _floating(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items() if array.dtype.kind == "f"}


def _changed(before: Arrays, after: Arrays, codec: Codec, random: np.random.Generator) -> ArrayRecord:
    """What became of the arrays, coded."""
    if {name: (array.shape, array.dtype) for name, array in before.items()} != {
        name: (array.shape, array.dtype) for name, array in after.items()
    }:
        raise UpdateError("the arrays of the reply are not those that were sent", where="coded")
    change: Tree = {name: (after[name] - before[name]).astype(np.float32) for name in _floating(before)}
    if not all(np.isfinite(array).all() for array in change.values()):
        raise UpdateError("training diverged: the change is not finite", where="coded", fix="use a smaller rate")
    tensors, _ = codec.encode(change, {}, random)
    rest = {name: Array(array) for name, array in after.items() if name not in change}
    return ArrayRecord({CODED: Array(pack(tensors)), **rest})


def _whole(sent: Arrays, coded_arrays: Arrays) -> ArrayRecord:
    """The weights: what was sent, and its coded change.

    Raises:
        UpdateError: it is no change of what was sent.
    """
    packed = coded_arrays[CODED]
    shapes = _floating(sent)
    if packed.dtype != np.uint8 or packed.ndim != 1 or set(coded_arrays) - {CODED} != set(sent) - set(shapes):
        raise UpdateError("a coded change beside other arrays than were sent")
    change = decode(unpack(packed), shapes)
    made: dict[str, npt.NDArray[Any]] = {}
    for name, base in sent.items():
        if name in shapes:
            made[name] = (base + change[name]).astype(base.dtype)
        elif coded_arrays[name].shape != base.shape or coded_arrays[name].dtype != base.dtype:
            raise UpdateError("another shape than was sent", where=name)
        else:
            made[name] = coded_arrays[name]
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in made.items()})
