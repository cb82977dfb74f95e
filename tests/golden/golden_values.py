"""Values as JSON, for what is written by one version and read by another. Imports nothing of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np


def said(value: Any) -> Any:
    """A value as JSON would give it back: dataclasses as objects, bytes as hexadecimal, arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: said(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): said(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [said(item) for item in value]
    return value


def without_news(today: Any, then: Any) -> Any:
    """What is said today, without the fields that were not known then; those must say that nothing was said."""
    if isinstance(today, dict) and isinstance(then, dict):
        for name in today.keys() - then.keys():
            assert today[name] in (None, "", 0, False, [], {}), f"{name} = {today[name]!r} was never said"
        return {name: without_news(one, then[name]) for name, one in today.items() if name in then}
    if isinstance(today, list) and isinstance(then, list) and len(today) == len(then):
        return [without_news(*pair) for pair in zip(today, then, strict=True)]
    return today
