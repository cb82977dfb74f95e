"""Which boards a command is about: names, kinds and groups, with counts, such as ``pi4*3,coral``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coordinator.testbed.inventory import Board
from protos.catalog import hint
from protos.errors import UsageError

__all__ = ["chosen"]

_TERM = re.compile(r"(?P<word>[A-Za-z0-9._-]+)(?:\s*\*\s*(?P<count>\d{1,6}))?")


def chosen(boards: Sequence[Board], wanted: str | None) -> tuple[Board, ...]:
    """The boards that ``wanted`` names, in the order of the inventory; all of them where it is None.

    Terms stand between commas. A term is a board's name, a kind, a group, or ``all``; with ``*N`` it is the first N of
    them that no term before it has taken.

    Raises:
        UsageError: a term that is none, that fits no board, or that wants more boards than are left.
    """
    if wanted is None:
        return tuple(boards)
    taken: dict[str, Board] = {}
    for text in wanted.split(","):
        found = _TERM.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"{text.strip()!r} is no choice of boards", where="--on", fix="such as pi4*3,coral")
        word, count = found["word"], found["count"]
        fitting = [board for board in boards if word in ("all", board.name, board.kind, *board.groups)]
        if not fitting:
            known = sorted({word for board in boards for word in (board.name, board.kind, *board.groups) if word})
            raise UsageError(f"no board is called or of kind {word!r}", where="--on", fix=hint(word, known))
        if count is not None:
            left = [board for board in fitting if board.name not in taken]
            if not 0 < int(count) <= len(left):
                what = f"{text.strip()!r} wants {count}, and {len(left)} of {word!r} are left"
                raise UsageError(what, where="--on", fix="ask for fewer, or add boards to the inventory")
            fitting = left[: int(count)]
        taken |= {board.name: board for board in fitting}
    return tuple(board for board in boards if board.name in taken)
