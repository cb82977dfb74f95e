"""A head on its way down, whole or as differences from one that its reader holds, and its messages."""

from __future__ import annotations

from collections.abc import Iterable

from protos.convert.checks import count_at_most, finite, parsed
from protos.convert.tensors import tensors_from, tensors_to
from protos.errors import UpdateError
from protos.update.downlink import MAX_SCALE, Difference
from protos.update.tensors import EncodedTensor
from protos.v1 import edgejoule_pb2 as pb

# The longest chain that saves anything: at half a bit a coordinate, 64 of them are a whole head.
MAX_DIFFERENCES = 64


def head_to(version: str, whole: Iterable[EncodedTensor], base: str, differences: Iterable[Difference]) -> pb.Head:
    """A head as a message."""
    return pb.Head(
        version=version,
        tensors=tensors_to(whole),
        base=base,
        differences=[_difference_to(difference) for difference in differences],
    )


def differences_from(message: pb.Head) -> tuple[Difference, ...]:
    """The differences of a head, which has some only when it has a base, and is not whole then."""
    count_at_most(len(message.differences), MAX_DIFFERENCES, "head.differences")
    if message.base and message.tensors:
        raise UpdateError("whole, and yet made from another", where="head")
    if message.differences and not message.base:
        raise UpdateError("differences from nothing", where="head")
    return tuple(_difference_from(difference) for difference in message.differences)


def _difference_to(difference: Difference) -> pb.Difference:
    scale = None if difference.scale == 1.0 else difference.scale
    return pb.Difference(tensors=tensors_to(difference.tensors), scale=scale)


def _difference_from(message: pb.Difference) -> Difference:
    scale = message.scale if message.HasField("scale") else 1.0
    return Difference(tensors_from(message.tensors), finite(scale, "head.differences.scale", at_most=MAX_SCALE))


def serialise_difference(difference: Difference) -> bytes:
    """The bytes of a difference, as they are counted and stored."""
    return _difference_to(difference).SerializeToString(deterministic=True)


def parse_difference(data: bytes) -> Difference:
    """A difference from its bytes.

    Raises:
        UpdateError: not a difference, or one with a bad field.
    """
    return _difference_from(parsed(pb.Difference(), data, "head", "difference"))
