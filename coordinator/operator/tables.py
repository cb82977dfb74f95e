"""Tables for people. A figure that is not known is `?`, never 0, and no figure and no name is ever cut.

On a terminal a table is laid out for its width: what does not fit beside the first column is stacked below, in a table
of its own that repeats that column; words in a last column are wrapped. Elsewhere, as in a pipe, all columns stand in
one line however long it is, for programs that read it, unless COLUMNS is set, as `watch` sets it.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Sequence

UNKNOWN = "?"
# The narrowest column in which words are wrapped.
_LEAST_WRAPPED = 16
_GAP = "  "
_KEPT = "\x00±\x00"
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals, or `?`.

    >>> number(None), number(2.0, 2)
    ('?', '2.00')
    """
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def joules(value: float | None) -> str:
    """Joules with three digits, or `?`. Small ones never round to nothing.

    >>> joules(None), joules(0.00123), joules(12.34)
    ('?', '0.00123', '12.3')
    """
    return UNKNOWN if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share as percent, or `-` where there is nothing to measure."""
    return "-" if value is None else f"{100 * value:.2f} %"


def when(unix_s: float) -> str:
    """A time of the day with its date, here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def ago(unix_s: float, now_unix_s: float) -> str:
    """How long ago, as people say it; the date when that was more than a day ago.

    >>> ago(100, 102), ago(100, 417), ago(0, 3 * 3600 + 40)
    ('2 s ago', '5 min ago', '3 h ago')
    """
    age_s = max(0.0, now_unix_s - unix_s)
    if age_s >= _DAY_S:
        return when(unix_s)
    if age_s >= _HOUR_S:
        return f"{age_s / _HOUR_S:.0f} h ago"
    return f"{age_s / _MINUTE_S:.0f} min ago" if age_s >= 100 else f"{age_s:.0f} s ago"


def width_of(text: str) -> int:
    """Columns of a terminal that a text takes.

    >>> width_of("pi"), width_of("\\u732b")
    (2, 2)
    """
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "FW" else 1 for one in text
    )


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, or that is behind the pipe by what COLUMNS says; else None."""
    said = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty() and not said.isdecimal():
        return None
    return shutil.get_terminal_size((80, 24)).columns


def say(text: str) -> None:
    """Print sentences to stdout, each line of them a line; on a terminal, broken between words, under its beginning."""
    columns = terminal_width()
    for line in text.split("\n"):
        if columns is None:
            print(line)
            continue
        inset = line[: len(line) - len(line.lstrip())]
        print("\n".join(inset + part for part in _wrapped(line.lstrip(), max(_LEAST_WRAPPED, columns - len(inset)))))


def show(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table to stdout, for the width of its terminal."""
    columns = terminal_width()
    if title:
        say(title)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    for index, block in enumerate(blocks(header, rows, columns)):
        if index:
            print()
        for place, line in enumerate(lines(*block)):
            print(f"\x1b[1m{line}\x1b[0m" if bold and not place else line)


Block = tuple[Sequence[str], Sequence[Sequence[str]], Sequence[int]]


def blocks(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None) -> list[Block]:
    """A table as one or several that are no wider than ``columns``: header, rows, and the width of each column.

    A cell of a single column that is wider still, such as a long name, stays whole, and the terminal wraps it.
    """
    widths = [max(width_of(row[i]) for row in [header, *rows]) for i in range(len(header))]
    if columns is None or _total(widths) <= columns:
        return [(header, rows, widths)]
    said = [index for index in range(len(header)) if not index or any(row[index] for row in rows)]
    if len(said) < len(header):
        # A column in which nobody has anything to say.
        return blocks([header[index] for index in said], [[row[index] for index in said] for row in rows], columns)
    left = columns - _total(widths[:-1]) - len(_GAP)
    if left >= max(_LEAST_WRAPPED, _longest_word(header, rows)):
        return [(header, rows, [*widths[:-1], left])]
    made: list[Block] = []
    taken = [0]
    for index in range(1, len(header)):
        if len(taken) > 1 and _total([widths[one] for one in [*taken, index]]) > columns:
            made.append(_picked(header, rows, widths, taken, columns))
            taken = [0]
        taken.append(index)
    made.append(_picked(header, rows, widths, taken, columns))
    return made


def lines(header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """The lines of a table, header first. Only words of the last column are wrapped, below their beginning."""
    made = []
    for row in [header, *rows]:
        wrapped = _wrapped(row[-1], widths[-1]) if width_of(row[-1]) > widths[-1] else [row[-1]]
        cells = [*row[:-1], wrapped[0]]
        made.append(_GAP.join(_padded(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        indent = " " * (_total(widths[:-1]) + len(_GAP)) if len(widths) > 1 else ""
        made += [indent + more for more in wrapped[1:]]
    return made


def _picked(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], taken: Sequence[int], columns: int
) -> Block:
    chosen = [widths[index] for index in taken]
    left = columns - _total(chosen[:-1]) - len(_GAP)
    if chosen[-1] > left >= _LEAST_WRAPPED:
        chosen[-1] = left
    return [header[index] for index in taken], [[row[index] for index in taken] for row in rows], chosen


def _wrapped(text: str, width: int) -> list[str]:
    # A figure and its deviation stay together.
    kept = text.replace(" ± ", _KEPT)
    wrapped = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [line.replace(_KEPT, " ± ") for line in wrapped]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * max(0, len(widths) - 1)


def _longest_word(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return max(width_of(word) for row in [header, *rows] for word in [*_wrapped(row[-1], 1), ""])
