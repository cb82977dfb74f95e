"""Watts that a panel gives over a day, as a table that repeats: what a device may harvest.

A trace is a CSV file with a header, two columns: seconds since midnight UTC (or hours, as the header says) and watts.
Between rows watts are linear; after the last row the day begins again.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protos.errors import DataError

DAY_S = 86_400.0
_MOST_ROWS = 100_000
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Trace:
    """``watts[i]`` >= 0 at ``seconds[i]`` of the day, ascending from 0 to DAY_S at most; float64 [N], N >= 2."""

    seconds: npt.NDArray[np.float64]
    watts: npt.NDArray[np.float64]

    def joules(self, start_s: float, stop_s: float) -> float:
        """Harvest between two times, seconds of any epoch that begins at midnight UTC, in joules."""
        return max(0.0, self._since_epoch(stop_s) - self._since_epoch(start_s))

    @property
    def day_j(self) -> float:
        """Joules of one day."""
        return self._since_midnight(DAY_S)

    def _since_epoch(self, t_s: float) -> float:
        days, rest_s = divmod(t_s, DAY_S)
        return days * self.day_j + self._since_midnight(rest_s)

    def _since_midnight(self, t_s: float) -> float:
        at = np.append(self.seconds[self.seconds < t_s], t_s)
        first = np.interp(0.0, self.seconds, self.watts, period=DAY_S)
        watts = np.interp(at, self.seconds, self.watts, period=DAY_S)
        watts, at = np.append(first, watts), np.append(0.0, at)
        return float(np.diff(at) @ (watts[1:] + watts[:-1]) / 2)


def read_table(path: Path) -> bytes:
    """A CSV file that is a trace, as it is.

    Raises:
        DataError: it cannot be read, or is no trace.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix="check budget.harvest") from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"has more than {_MOST_BYTES} bytes", where=str(path), fix="give fewer rows")
    parse_trace(data, where=str(path))
    return data


def read_trace(path: Path) -> Trace:
    """The trace in a CSV file.

    Raises:
        DataError: it cannot be read, or is no trace.
    """
    return parse_trace(read_table(path), where=str(path))


def parse_trace(data: bytes, *, where: str) -> Trace:
    """The trace that the bytes of a CSV file are.

    Raises:
        DataError: they are none.
    """
    fix = "two columns with a header: seconds,watts (or hours,watts), ascending"
    try:
        file = io.StringIO(data.decode("utf-8"), newline="")
        rows = [row for _, row in zip(range(_MOST_ROWS), csv.reader(file), strict=False) if row]
        unit = {"seconds": 1.0, "hours": 3600.0}[rows[0][0].strip().lower()]
        table = np.array([[float(row[0]), float(row[1])] for row in rows[1:]], np.float64)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("is no table of a harvest", where=where, fix=fix) from error
    if len(table) < 2 or not np.isfinite(table).all() or (table[:, 1] < 0).any():
        raise DataError("needs two rows or more, with watts of 0 or more", where=where, fix=fix)
    seconds = table[:, 0] * unit
    if (np.diff(seconds) <= 0).any() or seconds[0] < 0 or seconds[-1] > DAY_S:
        raise DataError("times must ascend within one day", where=where, fix=fix)
    return Trace(seconds, table[:, 1])
