"""What a plan's values may be: types from the annotations of a section's fields, limits from their metadata; and how a
value is held against them."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from protos.errors import PlanError
from protos.ranges import Range

NUMBER = (int, float)
# What a further input of a training step, or a budget of a device, may be.
_ANY = Range(-1e9, 1e9)
WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
# What a value of a field with this annotation is in TOML.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": NUMBER,
    "bool": (bool,),
    "Mapping[str, float]": (dict,),
    "tuple[str, ...]": (list,),
}
_LIMITS = "limits"


class Rule(NamedTuple):
    """What the value of one key may be; ``limits`` is None where it is no number."""

    types: tuple[type, ...]
    limits: Range | None


def within(least: float, most: float, *, default: Any) -> Any:
    """A field of a section: a number from ``least`` to ``most``, and what it is where the plan does not say."""
    return dataclasses.field(default=default, metadata={_LIMITS: (least, most)})


def rules_of(section: type[Any]) -> dict[str, Rule]:
    """The rules of a section, by key, from the fields of its dataclass (annotations as text)."""
    rules = {}
    for field in dataclasses.fields(section):
        types = _TYPES[cast(str, field.type).removesuffix(" | None")]
        limits = None
        if _LIMITS in field.metadata:
            least, most = field.metadata[_LIMITS]
            limits = Range(least, most, whole=types == (int,))
        rules[field.name] = Rule(types, limits)
    return rules


def checked(value: Any, rule: Rule, place: str) -> Any:
    """The value, as its section holds it: equal plans are equal values, whether a file says 1 or 1.0."""
    types, limits = rule
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        kind = WORDS.get(type(value), "a date or time")
        raise PlanError(f"{shown(value)} is {kind}, not {WORDS[types[-1]]}", where=place)
    if limits is not None:
        try:
            limits.number(value)
        except ValueError as error:
            raise PlanError(f"{shown(value)} is {error}", where=place) from None
    if isinstance(value, dict):
        return numbers(value, place)
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise PlanError(f"{shown(value)} is not a list of names", where=place)
        return tuple(value)
    return float(cast(float, value)) if types == NUMBER else value


def numbers(table: Mapping[str, Any], place: str) -> dict[str, float]:
    for key, value in table.items():
        try:
            _ANY.number(value)
        except ValueError as error:
            raise PlanError(f"{shown(value)} is {error}", where=f"{place}.{key}") from None
    return {key: float(value) for key, value in table.items()}


def shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits, and TOML has hexadecimal ones
        return "what is written"
