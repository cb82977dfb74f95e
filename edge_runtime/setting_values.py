"""From a string, or a value of the TOML file, to the value of a setting. What it cannot be is a ValueError in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.systemd.logging_setup import LEVELS
from protos.datafiles.renames import read_renames
from protos.model.edge_tpu import DEVICE
from protos.ranges import Range


def text(value: Any) -> str:
    """A printable text, its ends trimmed."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("not a text")
    found = str(value).strip()
    if not found or not found.isprintable():
        raise ValueError("empty, or holds unprintable characters")
    return found


def device_id(value: Any) -> str:
    """A name that may stand in paths and tables."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError("not 1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit")
    return name


def path(value: Any) -> Path:
    """A path; ``~`` is a home."""
    return Path(text(value)).expanduser()


def renames(value: Any) -> str:
    """Class names of the data and of the bundle, as text; see :func:`protos.datafiles.renames.read_renames`."""
    found = text(value)
    read_renames(found)
    return found


def number(low: float, high: float, *, above: bool = False) -> Callable[[Any], float]:
    """Reads numbers from ``low`` to ``high``, or ``above`` low."""
    limits = Range(low, high, above=above)
    return lambda value: limits.read(value) if isinstance(value, str) else limits.number(value)


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Reads whole numbers from ``low`` to ``high``."""
    limits = Range(low, high, whole=True)
    return lambda value: int(limits.read(value) if isinstance(value, str) else limits.number(value))


def head_bits(value: Any) -> int:
    """A width of a kernel's weights: 2 to 16, or 32 for weights as they are."""
    found = whole(2, 32)(value)
    if 16 < found < 32:
        raise ValueError("not 2 to 16, or 32 for weights as they come")
    return found


def level(value: Any) -> str:
    """A level of the log."""
    found = text(value).lower()
    if found not in LEVELS:
        raise ValueError(f"not one of {', '.join(LEVELS)}")
    return found


def one_of(*names: str) -> Callable[[Any], str]:
    """Reads one of these words."""

    def read(value: Any) -> str:
        if (found := text(value)) not in names:
            raise ValueError(f"not one of {', '.join(names)}")
        return found

    return read


def edgetpu_device(value: Any) -> str:
    """Which Edge TPU; see :data:`protos.model.edge_tpu.DEVICE`."""
    if not DEVICE.fullmatch(found := text(value)):
        raise ValueError("not usb, pci, or one of several, such as usb:0")
    return found
