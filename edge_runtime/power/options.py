"""The options of a sensor's text, as in ``serial:/dev/ttyUSB0?sensor=1&shunt=0.02``: read, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from protos.errors import UsageError
from protos.ranges import Range

__all__ = ["bus_ppm", "choice", "number", "ohms", "refuse_others", "split", "whole"]

T = TypeVar("T")
WHERE = "sensor"


def split(spec: str) -> tuple[str, str, dict[str, str]]:
    """Kind, what stands after the colon, and the options.

    Raises:
        UsageError: an option twice, or without a value.

    >>> split("serial:/dev/ttyUSB0?sensor=1&shunt=0.02")
    ('serial', '/dev/ttyUSB0', {'sensor': '1', 'shunt': '0.02'})
    """
    name, _, query = spec.partition("?")
    kind, _, rest = name.partition(":")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as cause:
        raise UsageError(f"options {query!r}", where=WHERE, fix="write ?name=value&name=value") from cause
    options = dict(pairs)
    if len(options) < len(pairs):
        raise UsageError(f"an option stands twice in {query!r}", where=WHERE, fix="give each once")
    return kind, rest, options


def refuse_others(options: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Raise UsageError for an option that is not ``known``."""
    for name in sorted(set(options) - set(known)):
        fix = f"use {', '.join(f'{text}=' for text in known)}" if known else "this sensor has none"
        raise UsageError(f"unknown option {name!r}", where=WHERE, fix=fix)


def choice(options: Mapping[str, str], name: str, among: Mapping[str, T]) -> T | None:
    """The value that an option names; None without it. Raises UsageError."""
    if name not in options:
        return None
    if options[name] not in among:
        raise UsageError(f"unknown {name} {options[name]!r}", where=WHERE, fix=f"use {', '.join(among)}")
    return among[options[name]]


def number(options: Mapping[str, str], name: str, low: float, high: float, unit: str) -> float | None:
    """A number from ``low`` to ``high``; None without the option. Raises UsageError."""
    if name not in options:
        return None
    limits = Range(low, high)
    try:
        return limits.read(options[name])
    except ValueError:
        raise UsageError(f"{name} of {options[name]!r}", where=WHERE, fix=f"give it in {unit}, {limits}") from None


def ohms(options: Mapping[str, str], name: str) -> float | None:
    """A resistance in ohm, such as ``shunt=0.02``; None without the option. Raises UsageError."""
    return number(options, name, 1e-6, 1000.0, "ohm")


def bus_ppm(options: Mapping[str, str]) -> int | None:
    """``bus_ppm=``, what the bus voltage was found to be wrong by; None without it. Raises UsageError."""
    found = number(options, "bus_ppm", -50_000, 50_000, "parts per million")
    return None if found is None else round(found)


def whole(options: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number, decimal or 0x..; None without the option. Raises UsageError."""
    if name not in options:
        return None
    limits = Range(low, high, whole=True)
    try:
        return int(limits.read(options[name]))
    except ValueError:
        raise UsageError(f"{name} of {options[name]!r}", where=WHERE, fix=f"give {limits}") from None
