"""What the emulated boards showed: a table of what, value and limit, printed at the end and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row. ``limit`` is empty where the value only informs; ``ok`` is what the tests assert."""

    machine: str
    what: str
    value: str
    limit: str = ""
    ok: bool = True


@dataclass
class Figures:
    """The rows of one run of the tests, in the order in which they were found."""

    rows: list[Figure] = field(default_factory=list)

    def note(self, machine: str, what: str, value: object, *, limit: str = "", ok: bool = True) -> None:
        """Put a row down, and fail the test that found it when it is not within its limit."""
        # Comparisons of arrays give numpy's own bool, which JSON does not know.
        self.rows.append(Figure(machine, what, str(value), limit, bool(ok)))
        assert ok, f"{machine}, {what}: {value}, limit {limit}"

    def lines(self) -> list[str]:
        """The table."""
        head = Figure("machine", "what", "value", "limit")
        rows = [(row.machine, row.what, row.value, row.limit, "" if row.ok else "FAIL") for row in (head, *self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

    def write(self, path: Path, *, skipped: list[str]) -> None:
        """All of it as JSON."""
        rows = [asdict(row) for row in self.rows]
        document = {"schema": "edgejoule.arm/1", "figures": rows, "skipped": skipped}
        path.write_text(json.dumps(document, indent=2) + "\n")
