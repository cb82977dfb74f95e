"""Many keys in one statement: databases bound how many values a statement may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# SQLite took 999 at most for a long time.
_KEYS_AT_ONCE = 500


def batched(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys in lists that fit in one statement.

    >>> [len(some) for some in batched(str(one) for one in range(1001))]
    [500, 500, 1]
    """
    some: list[str] = []
    for key in keys:
        some.append(key)
        if len(some) == _KEYS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some
