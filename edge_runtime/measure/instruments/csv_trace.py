"""Joules from a table of another instrument: PPK2, Joulescope, Otii, an oscilloscope, a logger, or our own export.

The first line that names columns is the header. A column is known by its name and its unit, in brackets or behind an
underscore: ``time_s``, ``Timestamp(ms)``, ``Main current [A]``, ``power_w``. Needed are a time and either power, or
current and voltage (or current and ``--volts``). ``start_s`` and ``stop_s`` give each sample its own interval; with a
single time a sample counts until the next one, and for three median steps at most: what is beyond is not covered, and
nothing is interpolated into it.

The table is read in blocks: memory does not grow with its length.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from edge_runtime.measure.instruments.energy_runner import Replay, Window, window_energy
from protos.energy.trace import Floats
from protos.errors import DataError

__all__ = ["integrate_csv"]

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "w": 1.0, "mw": 1e-3, "uw": 1e-6, "µw": 1e-6,
          "a": 1.0, "ma": 1e-3, "ua": 1e-6, "µa": 1e-6, "na": 1e-9, "v": 1.0, "mv": 1e-3}  # fmt: skip
_ROLES = {
    "start": ("s", ("start", "begin")),
    "stop": ("s", ("stop", "end")),
    "time": ("s", ("time", "timestamp", "t", "seconds")),
    "power": ("w", ("power", "watts", "watt", "p")),
    "current": ("a", ("current", "amps", "amperes", "i")),
    "voltage": ("v", ("voltage", "volts", "volt", "u", "v")),
}
"""Role: its SI unit, and the words by which a column of that role is called."""
_BLOCK_LINES = 1 << 16
_HEADER_LINES = 50
_LONGEST_LINE = 1 << 16
_HOLDS_STEPS = 3.0
_FIX = "give a header such as time_s,power_w or Timestamp(ms),Current(uA),Voltage(V)"


@dataclass(frozen=True, slots=True)
class _Column:
    role: str
    at: int
    scale: float


def integrate_csv(path: Path, windows: Sequence[Window] = (), *, supply_v: float | None = None) -> Replay:
    """Integrate a table, whole and over ``windows`` (seconds as in its time column; they may nest and overlap).

    Args:
        path: the table; separated by comma, semicolon or tab.
        windows: stretches to integrate.
        supply_v: voltage to multiply a current by when the table has none.

    Raises:
        DataError: the file cannot be read, lacks a column, holds what is no number, or goes back in time.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _integrate(file, windows, supply_v, str(path))
    except OSError as cause:
        raise DataError(f"cannot be read: {cause.strerror or cause}", where=str(path)) from cause


class _Sums:
    """Energy and covered time grown up to each edge, sample by sample; overlaps count once, for the earlier one."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._edges = np.array([edge for window in windows for edge in (window.start_s, window.stop_s)], np.float64)
        self._energy_j, self._covered_s = np.zeros(len(self._edges)), np.zeros(len(self._edges))
        self.total_j = self.covered_s = 0.0
        self.samples, self.peak_w = 0, -math.inf
        self.first_s, self.last_s = math.inf, -math.inf

    def add(self, start: Floats, stop: Floats, watts: Floats) -> None:
        """Take in samples that begin no earlier than those before."""
        if not len(start):
            return
        self.samples += len(start)
        self.peak_w = max(self.peak_w, float(watts.max()))
        self.first_s = min(self.first_s, float(start[0]))
        reached = np.maximum.accumulate(np.concatenate([[self.last_s], stop[:-1]]))
        start = np.minimum(np.maximum(start, reached), np.maximum(stop, reached))
        width = np.maximum(0.0, stop - start)
        joules = np.concatenate([[0.0], np.cumsum(width * watts)])
        seconds = np.concatenate([[0.0], np.cumsum(width)])
        knots = np.column_stack([start, start + width]).ravel()
        for grown, sums in ((self._energy_j, joules), (self._covered_s, seconds)):
            grown += np.interp(self._edges, knots, np.column_stack([sums[:-1], sums[1:]]).ravel(), left=0.0)
        self.total_j += float(joules[-1])
        self.covered_s += float(seconds[-1])
        self.last_s = max(self.last_s, float(stop.max()))

    def replay(self, windows: Sequence[Window]) -> Replay:
        """The figures."""
        energy, covered = (np.diff(grown)[::2].tolist() for grown in (self._energy_j, self._covered_s))
        rows = tuple(window_energy(*row) for row in zip(windows, energy, covered, strict=True))
        return Replay(self.total_j, self.covered_s, self.samples / self.covered_s, self.samples, self.peak_w, rows)


def _integrate(file: TextIO, windows: Sequence[Window], supply_v: float | None, where: str) -> Replay:
    columns, separator, line = _header(file, where)
    roles = {column.role for column in columns}
    if not roles & {"time", "start"} or not roles & {"power", "current"}:
        raise DataError("has no column of time, or none of power or current", where=where, fix=_FIX)
    if "power" not in roles and "voltage" not in roles and supply_v is None:
        raise DataError("has a current and no voltage", where=where, fix="say the supply voltage, such as --volts 5.0")
    blocks = _watts(_rows(file, columns, separator, line, where), supply_v)
    sums = _Sums(windows)
    for start, stop, watts in _own(blocks, where) if {"start", "stop"} <= roles else _held(blocks, where):
        sums.add(start, stop, watts)
    if sums.covered_s <= 0:
        raise DataError("holds fewer than two samples", where=where, fix="give the instrument's whole export")
    return sums.replay(windows)


_Rows = dict[str, Floats]


def _watts(blocks: Iterator[_Rows], supply_v: float | None) -> Iterator[_Rows]:
    for rows in blocks:
        if "power" not in rows:
            rows["power"] = rows["current"] * rows.get("voltage", np.float64(supply_v or 0.0))
        yield rows


def _own(blocks: Iterator[_Rows], where: str) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Samples that say when they end."""
    last_s = -math.inf
    for rows in blocks:
        last_s = _refuse_going_back(rows["start"], last_s, where)
        yield rows["start"], rows["stop"], rows["power"]


def _held(blocks: Iterator[_Rows], where: str) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Samples that count until the next one; the last one for a median step."""
    last_s, step_s = -math.inf, math.nan
    start, watts = np.empty(0), np.empty(0)
    for rows in blocks:
        times = rows["time"] if "time" in rows else rows["start"]
        last_s = _refuse_going_back(times, last_s, where)
        start, watts = np.concatenate([start[-1:], times]), np.concatenate([watts[-1:], rows["power"]])
        if len(start) < 2:
            continue
        if math.isnan(step_s):
            step_s = float(np.median(np.diff(start)))
        yield start[:-1], np.minimum(start[1:], start[:-1] + _HOLDS_STEPS * step_s), watts[:-1]
    if step_s > 0:
        yield start[-1:], start[-1:] + step_s, watts[-1:]


def _refuse_going_back(times: Floats, last_s: float, where: str) -> float:
    steps = np.diff(times, prepend=last_s)
    if (steps < 0).any():
        at = float(times[int(np.argmax(steps < 0))])
        raise DataError(f"goes back in time at {at:g} s", where=where, fix="sort the rows by time")
    return float(times[-1])


def _header(file: TextIO, where: str) -> tuple[tuple[_Column, ...], str, int]:
    """The columns, what separates them, and the number of the line that names them."""
    for number in range(1, _HEADER_LINES + 1):
        text = file.readline(_LONGEST_LINE)
        if not text:
            break
        for separator in (",", ";", "\t"):
            cells = next(csv.reader([text], delimiter=separator), [])
            columns = [found for at, cell in enumerate(cells) if (found := _column(cell, at))]
            if len(columns) >= 2:
                first = {column.role: column for column in reversed(columns)}
                return tuple(first.values()), separator, number
    raise DataError("has no line that names its columns", where=where, fix=_FIX)


def _column(cell: str, at: int) -> _Column | None:
    """The column that a cell of the header names, if it is one of ours."""
    name = cell.strip().lower().replace("μ", "µ")
    found = re.fullmatch(r"(.*?)[\s_]*[(\[]\s*([^\s)\]]+)\s*[)\]]|(.+)_([^_\s]+)", name)
    words, unit = (found[1] or found[3], found[2] or found[4]) if found else (name, None)
    if unit is not None and unit not in _UNITS:
        words, unit = name, None
    for role, (si, called) in _ROLES.items():
        if set(re.split(r"[\s_-]+", words)) & set(called) and (unit is None or unit.endswith(si)):
            return _Column(role, at, _UNITS[unit or si])
    return None


def _rows(
    file: TextIO, columns: Sequence[_Column], separator: str, line: int, where: str
) -> Iterator[dict[str, Floats]]:
    """The table, block by block, in SI units."""
    wanted = [column.at for column in columns]
    while lines := list(itertools.islice(file, _BLOCK_LINES)):
        filled = [text for text in lines if text.strip()]
        if filled:
            try:
                table = np.loadtxt(
                    filled, np.float64, delimiter=separator, usecols=wanted, ndmin=2, comments=None, quotechar='"'
                )
                good = bool(np.isfinite(table).all())
            except ValueError:
                good = False
            if not good:
                raise DataError(_first_bad(lines, wanted, separator, line), where=where, fix=_FIX)
            yield {column.role: table[:, at] * column.scale for at, column in enumerate(columns)}
        line += len(lines)


def _first_bad(lines: Sequence[str], wanted: Sequence[int], separator: str, line: int) -> str:
    """Says which line is not a row of numbers."""
    for number, text in enumerate(lines, line + 1):
        cells = next(csv.reader([text], delimiter=separator), [])
        for at in wanted if text.strip() else ():
            cell = cells[at].strip() if at < len(cells) else ""
            try:
                good = math.isfinite(float(cell))
            except ValueError:
                good = False
            if not good:
                return f"line {number}, column {at + 1}: {cell[:30]!r} is no number"
    return f"line {line + 1} and those that follow are no rows of numbers"
