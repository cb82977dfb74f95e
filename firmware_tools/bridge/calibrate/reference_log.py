"""A reference meter's own record of the time of a calibration: a CSV file with a header.

Columns ``unix_s`` (seconds since 1970-01-01, UTC) and ``current_a`` or ``power_w``; others are ignored. The rows within
the time of the measurement count.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.errors import DataError

__all__ = ["ReferenceMean", "read_reference"]

LEAST_ROWS = 3


@dataclass(frozen=True, slots=True)
class ReferenceMean:
    """Mean of the rows, its standard error, and the unit ("A" or "W")."""

    mean: float
    standard: float
    unit: str
    rows: int


def read_reference(path: Path, from_s: float, to_s: float) -> ReferenceMean:
    """The meter's mean between two instants, seconds since 1970.

    Raises:
        DataError: no such file, no such columns, no number, or fewer than three rows in that time.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"cannot be read: {cause}", where=str(path), fix="check the path") from cause
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("current_a", "power_w") if name in columns), None)
    if column is None or "unix_s" not in columns:
        fix = "write a header with unix_s and current_a or power_w"
        raise DataError("no columns of a reference", where=str(path), fix=fix)
    values = []
    for number, row in enumerate(rows, 2):
        try:
            at_s, value = float(row["unix_s"]), float(row[column])
        except (TypeError, ValueError) as cause:
            raise DataError("not a number", where=f"{path}:{number}", fix="correct or remove the line") from cause
        if from_s <= at_s <= to_s and math.isfinite(value):
            values.append(value)
    if len(values) < LEAST_ROWS:
        what = f"{len(values)} rows between {from_s:.3f} and {to_s:.3f}, the time of the measurement"
        raise DataError(what, where=str(path), fix="let the meter record meanwhile, and compare the clocks")
    standard = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return ReferenceMean(float(np.mean(values)), standard, "A" if column == "current_a" else "W", len(values))
