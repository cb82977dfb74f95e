"""Tables for people: with rich on a terminal, plain columns elsewhere. A figure that is not known is `?`, never 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

UNKNOWN = "?"


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


def show(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table to stdout."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        _show_rich(header, rows, title)
        return
    if title:
        print(title)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_rich(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    # Imported here: it takes longer to load than most commands run.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", box=None, header_style="bold")
    for name in header:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
