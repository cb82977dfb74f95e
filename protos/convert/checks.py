"""What any field that came from a peer must be: known, finite, of sensible size. Else an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

from protos.errors import UpdateError
from protos.ranges import Range

MAX_NAME = 256
# Far beyond joules, seconds and counts of any run, and far enough from infinity that sums stay finite.
MAX_NUMBER = 1e15
# A device that is told to wait longer is as good as lost to its fleet, and no clock of the system sleeps for 1e15 s.
MAX_WAIT_S = 86_400.0

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M", bound=Message)


def known(table: Mapping[K, V], key: K, field: str) -> V:
    """What ``key`` means.

    Raises:
        UpdateError: nothing.

    >>> known({1: "measured"}, 1, "method")
    'measured'
    """
    if key not in table:
        raise UpdateError(f"{key!r} has no meaning", where=field)
    return table[key]


def parsed(message: M, data: bytes, field: str, what: str) -> M:
    """The empty ``message``, filled from its bytes.

    Args:
        what: the noun of the error, such as "report".

    Raises:
        UpdateError: the bytes are no such message.
    """
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError is not the same class in every backend
        raise UpdateError(f"bytes that are no {what}", where=field) from error
    return message


def finite(value: float, field: str, *, at_least: float = 0.0, at_most: float = MAX_NUMBER) -> float:
    """The value itself, when it is a number from ``at_least`` to ``at_most``.

    Raises:
        UpdateError: NaN, infinite, or out of range.
    """
    limits = Range(at_least, at_most)
    if value not in limits:
        raise UpdateError(f"{value:g} is not {limits}", where=field)
    return value


def checked_name(value: str, field: str, *, empty: bool = False) -> str:
    """The name itself, when it is printable and not too long.

    Raises:
        UpdateError: over :data:`MAX_NAME` characters, unprintable, or empty where it must not be.
    """
    if len(value) > MAX_NAME or (not value and not empty):
        raise UpdateError(f"a name of {len(value)} characters; 1 to {MAX_NAME} are allowed", where=field)
    if not value.isprintable():
        raise UpdateError("a name with unprintable characters", where=field)
    return value


def said(text: str, limit: int) -> str:
    """Free text of a peer, cut to ``limit`` characters and safe to write to a log or a terminal.

    >>> said("out of \\x1b[31mdisk\\n", 32)
    'out of  [31mdisk '
    """
    return "".join(character if character.isprintable() else " " for character in text[:limit])


def count_at_most(count: int, limit: int, field: str) -> None:
    """Raise when a list is longer than it can honestly be.

    Raises:
        UpdateError: it is.
    """
    if count > limit:
        raise UpdateError(f"{count} entries; {limit} at most", where=field)
