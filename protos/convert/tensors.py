"""Encoded tensors and their messages."""

from __future__ import annotations

from collections.abc import Iterable

from protos.convert.checks import checked_name, count_at_most
from protos.errors import UpdateError
from protos.update.tensors import EncodedTensor, Float16, Float32, UniformGrid, Values
from protos.v1 import edgejoule_pb2 as pb

MAX_TENSORS = 4096
MAX_DIMENSIONS = 8


def tensors_to(tensors: Iterable[EncodedTensor]) -> list[pb.Tensor]:
    """Encoded tensors as messages."""
    return [_tensor_to(tensor) for tensor in tensors]


def _tensor_to(tensor: EncodedTensor) -> pb.Tensor:
    message = pb.Tensor(name=tensor.name, shape=tensor.shape)
    match tensor.values:
        case Float32(data):
            message.float32 = data
        case Float16(data):
            message.float16 = data
        case UniformGrid(bits, bucket, step, offset, codes):
            grid = pb.UniformGrid(bits=bits, bucket=bucket, step=step, offset=offset, codes=codes)
            message.uniform_grid.CopyFrom(grid)
    return message


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
            return UniformGrid(grid.bits, grid.bucket, grid.step, grid.offset, grid.codes)
        case _:
            raise UpdateError("holds no values that this version can read", where=message.name)
