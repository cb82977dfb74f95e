"""Encoded tensors and their messages."""

from __future__ import annotations

from collections.abc import Iterable

from protos.convert.checks import checked_name, count_at_most
from protos.errors import UpdateError
from protos.update.tensors import (
    Codebook,
    DecodedAhead,
    EncodedTensor,
    EntropyCoded,
    Float16,
    Float32,
    Rotated,
    Sparse,
    UniformGrid,
    Values,
)
from protos.v1 import edgejoule_pb2 as pb

MAX_TENSORS = 4096
MAX_DIMENSIONS = 8


def tensors_to(tensors: Iterable[EncodedTensor]) -> list[pb.Tensor]:
    """Encoded tensors as messages."""
    return [_tensor_to(tensor) for tensor in tensors]


def _tensor_to(tensor: EncodedTensor) -> pb.Tensor:
    message = pb.Tensor(name=tensor.name, shape=tensor.shape)
    _put_values(message, tensor.values)
    return message


def _put_values(message: pb.Tensor, values: Values) -> None:
    match values:
        case Float32(data):
            message.float32 = data
        case Float16(data):
            message.float16 = data
        case UniformGrid():
            message.uniform_grid.CopyFrom(pb.UniformGrid(**vars(values)))
        case Codebook():
            message.codebook.CopyFrom(pb.Codebook(**vars(values)))
        case EntropyCoded():
            # An absent seed is None, which protobuf takes for "not set".
            message.entropy_coded.CopyFrom(pb.EntropyCoded(**vars(values)))
        case DecodedAhead(coded):
            _put_values(message, coded)
        case Rotated():
            message.rotated.CopyFrom(pb.Rotated(**vars(values)))
        case Sparse(kept, low, high, inner):
            message.sparse.CopyFrom(pb.Sparse(kept=kept, low=low, high=high))
            _put_values(message.sparse.values, inner)


def tensors_from(messages: Iterable[pb.Tensor]) -> tuple[EncodedTensor, ...]:
    """Encoded tensors from messages. The numbers inside are checked when they are decoded, not here."""
    tensors: list[EncodedTensor] = []
    for message in messages:
        count_at_most(len(tensors) + 1, MAX_TENSORS, "update")
        name = checked_name(message.name, "tensor")
        count_at_most(len(message.shape), MAX_DIMENSIONS, f"{name}.shape")
        tensors.append(EncodedTensor(name, tuple(message.shape), _values_from(message)))
    return tuple(tensors)


def _values_from(message: pb.Tensor) -> Values:
    match message.WhichOneof("values"):
        case "float32":
            return Float32(message.float32)
        case "float16":
            return Float16(message.float16)
        case "uniform_grid":
            grid = message.uniform_grid
            return UniformGrid(grid.bits, grid.bucket, grid.step, grid.offset, grid.codes, grid.centred)
        case "codebook":
            book = message.codebook
            return Codebook(book.bits, book.levels, book.codes)
        case "entropy_coded":
            return _entropy_coded_from(message.entropy_coded)
        case "rotated":
            turned = message.rotated
            return Rotated(turned.chunk, turned.seed, turned.bits, turned.mixed, turned.scale, turned.codes)
        case "sparse":
            return _sparse_from(message)
        case _:
            raise UpdateError("holds no values that this version can read", where=message.name)


def _entropy_coded_from(coded: pb.EntropyCoded) -> EntropyCoded:
    return EntropyCoded(
        coded.step,
        coded.seed if coded.HasField("seed") else None,
        coded.share,
        coded.inset_first,
        coded.inset_rest,
        coded.levels,
        coded.gains,
        coded.table,
        coded.codes,
        coded.low,
        coded.tails,
    )


def _sparse_from(message: pb.Tensor) -> Sparse:
    outer = message.sparse
    if outer.values.WhichOneof("values") == "sparse" or outer.values.name or outer.values.shape:
        raise UpdateError("sparse values that are sparse again, or have a name or a shape", where=message.name)
    inner = _values_from(outer.values)
    assert not isinstance(inner, Sparse | DecodedAhead)
    return Sparse(outer.kept, outer.low, outer.high, inner)
