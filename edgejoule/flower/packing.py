"""A coded change as one array of bytes, since Flower's records know arrays and not our tensors.

Four bytes, little-endian, say how long the header is; the header is JSON, one row a tensor: its name, shape, kind, and
the fields of that kind (:mod:`protos.update.tensors`); bytes of fields follow in their order. What is read is held
against the types of the fields before it becomes a tensor; what the numbers may be, decoding checks.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.tensors import EncodedTensor, Values

_KINDS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Values)}
_MOST_HEADER = 1 << 20


def pack(tensors: Iterable[EncodedTensor]) -> npt.NDArray[np.uint8]:
    """Bytes of encoded tensors, uint8 [N]."""
    parts: list[bytes] = []
    rows = [
        {"name": one.name, "shape": list(one.shape), "values": _written(one.values, parts)} for one in tensors
    ]  # fmt: skip
    header = json.dumps(rows, separators=(",", ":")).encode()
    return np.frombuffer(b"".join((len(header).to_bytes(4, "little"), header, *parts)), np.uint8)


def unpack(data: npt.NDArray[np.uint8]) -> tuple[EncodedTensor, ...]:
    """Encoded tensors from bytes; their numbers are not looked at yet.

    Raises:
        UpdateError: the bytes are not what :func:`pack` makes.
    """
    whole = data.tobytes()
    length = int.from_bytes(whole[:4], "little")
    if len(whole) < 4 or length > min(_MOST_HEADER, len(whole) - 4):
        raise UpdateError("a coded change is cut short")
    try:
        rows = json.loads(whole[4 : 4 + length])
        rest = _Rest(whole[4 + length :])
        made = tuple(
            EncodedTensor(
                _is(str, row["name"]), tuple(_is(int, size) for size in row["shape"]), _read(row["values"], rest)
            )
            for row in rows
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpdateError(f"a coded change cannot be read ({type(error).__name__}: {error})") from error
    if rest.left:
        raise UpdateError(f"{rest.left} bytes too many behind a coded change")
    return made


class _Rest:
    """Bytes that are still to be read."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError(f"{count} bytes of {self.left}")
        self._at += count
        return self._data[self._at - count : self._at]


def _written(values: Values, parts: list[bytes]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": type(values).__name__}
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if isinstance(value, bytes):
            parts.append(value)
            value = len(value)
        elif dataclasses.is_dataclass(value):
            value = _written(typing.cast(Values, value), parts)
        row[field.name] = value
    return row


def _read(row: Any, rest: _Rest) -> Values:
    kind = _KINDS[row["kind"]]
    hints = typing.get_type_hints(kind)
    fields = {field.name: _field(hints[field.name], row[field.name], rest) for field in dataclasses.fields(kind)}
    made: Values = kind(**fields)
    return made


def _field(hint: Any, value: Any, rest: _Rest) -> Any:
    allowed = typing.get_args(hint) or (hint,)
    if value is None and type(None) in allowed:
        return None
    if bytes in allowed:
        return rest.take(_is(int, value))
    if isinstance(value, dict):
        made = _read(value, rest)
        if type(made) not in allowed:
            raise ValueError(f"{type(made).__name__} within another kind")
        return made
    if float in allowed and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return _is(bool if bool in allowed else int, value)


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value
