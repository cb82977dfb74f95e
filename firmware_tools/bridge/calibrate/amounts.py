"""Reads amounts as people write them: ``1.234A``, ``250 mA``, ``3.85W``, and a meter's error, ``0.1%+2mA``."""

from __future__ import annotations

import re

from firmware_tools.bridge.calibrate.calibration import MeterError
from protos.errors import UsageError

__all__ = ["parse_amount", "parse_meter_error"]

_AMOUNT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(u|µ|m|k)?(A|W|V)?", re.IGNORECASE)
_FACTOR = {None: 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "µ": 1e-6}


def parse_amount(text: str, unit: str, *, where: str) -> float:
    """An amount in ``unit`` ("A", "W" or "V"), which the text may leave out.

    >>> parse_amount("250mA", "A", where="--current")
    0.25

    Raises:
        UsageError: it is no amount, or of another unit.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or (found[3] and found[3].upper() != unit):
        raise UsageError(f"{text!r} is no amount in {unit}", where=where, fix=f"for example 1.234{unit} or 250m{unit}")
    return float(found[1]) * _FACTOR[found[2].lower() if found[2] else None]


def parse_meter_error(text: str, unit: str, *, where: str) -> MeterError:
    """A limit of error: a percentage of the reading, an amount, or both with ``+``.

    >>> parse_meter_error("0.1%+2mA", "A", where="--meter-error")
    MeterError(relative=0.001, fixed=0.002)

    Raises:
        UsageError: it is neither.
    """
    relative = fixed = 0.0
    for part in text.split("+"):
        if part.strip().endswith("%"):
            relative += parse_amount(part.strip()[:-1], unit, where=where) / 100
        else:
            fixed += parse_amount(part, unit, where=where)
    if relative < 0 or fixed < 0 or relative + fixed == 0:
        raise UsageError(f"{text!r} is no limit of error", where=where, fix="for example 0.1%+2mA")
    return MeterError(relative, fixed)
