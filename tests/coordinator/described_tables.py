"""The tables of a SQLite file, line by line, however the statements that made them were written.

To write down those of the layout of today, in the commit that makes it:

    PYTHONPATH=. .venv/bin/python tests/coordinator/described_tables.py
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coordinator.store.database import Database, sqlite_url
from coordinator.store.layouts import LAYOUT

LANDED = Path(__file__).parent / "landed"


def described(path: Path) -> list[str]:
    """A sorted line for each column, unique key and foreign key. Indices that are not unique promise nothing, and are
    added without a new layout."""
    connection = sqlite3.connect(path)
    try:
        return sorted(_lines(connection))
    finally:
        connection.close()


def _lines(connection: sqlite3.Connection) -> Iterator[str]:
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in connection.execute(names).fetchall():
        for _, column, kind, required, default, key in connection.execute(f"PRAGMA table_info({table})"):
            # Two names of one kind of number; a step may use the one that PostgreSQL knows as well.
            words = [f"{table}.{column}", "FLOAT" if kind == "DOUBLE PRECISION" else kind]
            words += ["not null"] if required else []
            words += [f"default {str(default).strip(chr(39))}"] if default is not None else []
            words += [f"key {key}"] if key else []
            yield " ".join(words)
        for _, index, unique, origin, _ in connection.execute(f"PRAGMA index_list({table})").fetchall():
            if unique and origin != "pk":
                columns = [row[2] for row in connection.execute(f"PRAGMA index_info({index})")]
                yield f"{table}: unique ({', '.join(columns)})"
        keys: dict[int, list[tuple[str, str, str]]] = {}
        for number, _, other, here, there, *_ in connection.execute(f"PRAGMA foreign_key_list({table})"):
            keys.setdefault(number, []).append((here, other, there))
        for pairs in keys.values():
            own, other = [text for text, _, _ in pairs], [f"{table}.{column}" for _, table, column in pairs]
            yield f"{table}: ({', '.join(own)}) of ({', '.join(other)})"


def pinned(layout: int) -> Path:
    """The file that says what the tables of a layout are."""
    return LANDED / f"tables-{layout}.txt"


def changed(then: list[str], now: list[str]) -> list[str]:
    """What is otherwise in tables that were there then, each line with + or -. Tables that are new are made when an
    older database is opened; columns are not."""
    tables = {_table(line) for line in then}
    known = [line for line in now if _table(line) in tables]
    return [f"- {line}" for line in then if line not in known] + [f"+ {line}" for line in known if line not in then]


def _table(line: str) -> str:
    return line.partition(" ")[0].partition(".")[0].rstrip(":")


HOW = (
    "a layout that was written down keeps its tables: raise LAYOUT in coordinator/store/layouts.py, add the step that "
    "leads there to STEPS, and run tests/coordinator/described_tables.py"
)


def main() -> int:
    """Write it for the layout of today; tables that were written down stay, new ones are added."""
    path = pinned(LAYOUT)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.db"
        Database(sqlite_url(store)).close()
        lines = described(store)
    if path.exists() and (otherwise := changed(path.read_text().splitlines(), lines)):
        print(*otherwise, HOW, sep="\n", file=sys.stderr)
        return 2
    path.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
