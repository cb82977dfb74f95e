"""Tables of named things, and answers for a name that is not in one.

A table maps a name to a value. :func:`pick` returns the value, or raises an error that offers the nearest name
and lists the rest, so that a typing mistake costs one reading.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from protos.errors import EdgejouleError, UsageError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when none is near.

    >>> nearest("rounts", ["rounds", "seed"])
    'rounds'
    """
    spelled = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    return spelled[close[0]] if close else None


def hint(name: str, known: Iterable[str]) -> str:
    """What to do about an unknown name: the nearest good one, and the list when it is short enough to read."""
    known = sorted(known)
    if not known:
        return "leave it out, there are none"
    near = nearest(name, known)
    listed = ", ".join(known) if len(known) <= 12 else ""
    if near:
        return f"did you mean {near!r}?" + (f" (known: {listed})" if listed else "")
    return f"use one of: {', '.join(known)}"


def pick(
    table: Mapping[str, T],
    name: str,
    *,
    what: str,
    where: str | None = None,
    error: type[EdgejouleError] = UsageError,
) -> T:
    """The entry of ``table`` called ``name``.

    Args:
        what: the kind of thing, for the message ("codec", "objective").
        where: file and key that named it.
        error: class to raise.

    >>> pick({"iid": 1}, "iid", what="partition")
    1
    """
    if name not in table:
        raise error(f"no {what} is called {name!r}", where=where, fix=hint(name, table))
    return table[name]
