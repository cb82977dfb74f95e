"""Lengths of time as people write them: 500ms, 30s, 2m, 12h, 7d."""

from __future__ import annotations

import re

from protos.errors import UsageError

__all__ = ["DAY_S", "duration_s"]

DAY_S = 86_400.0
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_WRITTEN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h|d|)")


def duration_s(text: str, where: str, *, most_s: float = 3650 * DAY_S) -> float:
    """Seconds; a number alone is seconds, too.

    >>> duration_s("30s", "--for"), duration_s("2m", "--for"), duration_s("500ms", "--for"), duration_s("15m", "--ttl")
    (30.0, 120.0, 0.5, 900.0)

    Raises:
        UsageError: it is none, or not above 0 and at most ``most_s``.
    """
    found = _WRITTEN.fullmatch(text.strip())
    length_s = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    if not 0 < length_s <= most_s:
        what = f"{text!r} is no length of time up to {most_s / DAY_S:g} days"
        raise UsageError(what, where=where, fix="write it like 500ms, 30s, 15m, 12h or 7d")
    return length_s
