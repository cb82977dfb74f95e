"""What a reader left out of a data set, and what it changed: counted by kind, each kind with one example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 6


@dataclass(frozen=True)
class Remark:
    """``count`` files of one kind, such as ".txt" or "turned upright by its EXIF tag", and the path of one of them."""

    kind: str
    count: int
    example: str


def printable(name: str) -> str:
    """A file's name as it can be printed on one line: bytes that are no UTF-8, and control characters, escaped.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    whole = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in whole
    )


class Tally:
    """Counts by kind, in the order in which kinds appear."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, kind: str, example: str) -> None:
        """One more of this kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, printable(example))

    def remarks(self) -> tuple[Remark, ...]:
        """What was counted."""
        return tuple(Remark(kind, count, self._examples[kind]) for kind, count in self._counts.items())


def listed(remarks: Iterable[Remark]) -> str:
    """`2 .txt (ant/notes.txt), 1 broken link (bee/zz.png)`; at most six kinds."""
    every = list(remarks)
    shown = [f"{remark.count} {remark.kind} ({remark.example})" for remark in every[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(every) - _SHOWN} more kinds" if len(every) > _SHOWN else "")
