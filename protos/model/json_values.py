"""JSON values as the dataclasses of a manifest, strictly: a key that is dropped silently would change an identity."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any

from protos.errors import ModelError

# Metadata of a field that is left out of the JSON when it is None.
LEFT_OUT = {"left_out": True}


def refuse(what: str) -> ModelError:
    """The error of a manifest that cannot be."""
    return ModelError(what, where="manifest")


def require(holds: bool, what: str) -> None:
    """Raise `refuse` of `what` unless it holds."""
    if not holds:
        raise refuse(what)


def no_constant(token: str) -> float:
    """For `json.loads`: NaN and infinity, which Python reads, are no JSON."""
    raise ValueError(f"{token} is no JSON number")


def decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``, which is a dataclass, tuple, dict, optional, or plain JSON type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else decode(inner, value, where)
    if origin is tuple:
        require(isinstance(value, list), f"{where} must be a list")
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        require(isinstance(value, dict), f"{where} must be an object")
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    if kind is float and type(value) is int:
        require(abs(value) < 1 << 53, f"{where} is too large a number")
        return float(value)
    require(type(value) is kind, f"{where} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _decode_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    require(isinstance(value, dict), f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise refuse(f"unknown key {key[:80]!r} in {where}{hint}")
    for field in dataclasses.fields(kind):
        if field.metadata != LEFT_OUT:
            require(field.name in value, f"{where} lacks {field.name!r}")
        else:
            # Two ways to write one thing would be two identities of it.
            require(value.get(field.name, 0) is not None, f"{where}.{field.name} must be left out, not null")
    return kind(**{key: decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})
