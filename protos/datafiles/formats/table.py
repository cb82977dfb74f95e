"""CSV tables of a time series, cut into windows by a bundle's front end.

The first row names the columns; commas, semicolons, tabs or bars divide them, whichever gives the columns that are
wanted. Where no comma divides, one may be the decimal sign. UTF-8, or UTF-16 with its mark. A window is so many rows in
a row, all of one class; a row that lacks a number ends the stretch. Of a folder each file is a recording of its own;
those below ``test/`` are held out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Tally
from protos.datafiles.classes import renumber
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.front_end import Windows
from protos.datafiles.renames import composed
from protos.errors import DataError, EmptyShardError
from protos.progress import progressed

__all__ = ["is_table", "read"]

_HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval"}


def is_table(path: Path) -> bool:
    """Whether a name ends as that of a table does."""
    return path.suffix.lower() == ".csv"


def read(
    path: Path,
    choose: Choose,
    spec: Windows,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
) -> tuple[NDArray[np.float32], Columns]:
    """Read a table, or all tables of a folder.

    Returns:
        x, float32 [M, length, columns], and its columns.

    Raises:
        DataError: a column is not there. LabelError: a class that the model has not. EmptyShardError: no window.
    """
    files = sorted(one for one in path.rglob("*.csv") if one.is_file()) if path.is_dir() else [path]
    blocks: list[NDArray[np.float32]] = []
    names: list[str] = []
    held_out: list[bool] = []
    left_out, aside = Tally(), Tally()
    for file in files:
        progressed()
        apart = any(one.lower() in _HELD_OUT for one in file.relative_to(path).parts[:-1])
        for block, name in _windows(file, spec, left_out):
            blocks.append(block)
            names.append(name)
            held_out.append(apart)
    if not blocks:
        fix = f"give tables with {spec.length} rows of one {spec.label} in a row"
        raise EmptyShardError("has no window of one class", where=str(path), fix=fix)
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(names))))
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(name)] for name in names], np.int32)
    y, class_names = renumber(y, stored, classes, str(path), renames, tolerant=tolerant)
    described = Columns(y, np.array(held_out, np.bool_), None, class_names, left_out.remarks())
    rows = choose(described)
    kept = np.arange(len(y)) if rows is None else rows
    for row in kept[y[kept] == NO_LABEL]:
        aside.add(f"of class {names[row]!r}, which the model has not", f"window {row}")
    kept = kept[y[kept] != NO_LABEL]
    x = np.stack([blocks[row] for row in kept.tolist()]) if len(kept) else np.empty((0, *spec.shape), np.float32)
    return x, replace(described.select(kept), set_aside=aside.remarks())


_DIVIDERS = (",", ";", "\t", "|")


def _windows(file: Path, spec: Windows, left_out: Tally) -> list[tuple[NDArray[np.float32], str]]:
    with reading(str(file), "a table"), file.open(newline="", encoding=_encoding(file)) as stream:
        wanted = (*spec.columns, spec.label)
        first = stream.readline()
        divider = _divider(first, wanted)
        names = [one.strip() for one in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])]
        for one in wanted:
            if names.count(one) != 1:
                has = ", ".join(names) or "nothing"
                how = "no column" if one not in names else f"{names.count(one)} columns"
                raise DataError(f"has {how} {one!r} (it has {has})", where=str(file), fix="name one so")
        rows = csv.DictReader(stream, names, delimiter=divider, skipinitialspace=True)
        decimals = _Decimals(divider)
        stretch: list[list[float]] = []
        found: list[tuple[NDArray[np.float32], str]] = []
        label: str | None = None
        for number, row in enumerate(rows, 2):
            name, values = (row[spec.label] or "").strip(), _numbers(row, spec.columns, decimals)
            if values is None or not name:
                left_out.add("row without a number or a class", f"{file.name}:{number}")
                name = ""
            if name != label:
                found += _cut(stretch, spec, label)
                stretch, label = [], name
            if values is not None and name:
                stretch.append(values)
        return found + _cut(stretch, spec, label)


def _encoding(file: Path) -> str:
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _divider(first: str, wanted: Sequence[str]) -> str:
    """What divides the columns: the sign that gives the most of those that are wanted."""

    def given(divider: str) -> int:
        names = {one.strip() for one in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])}
        return len(names & set(wanted))

    return max(_DIVIDERS, key=given)


class _Decimals:
    """The decimal sign of one table: a point or a comma, as its first number with either says. Never both: a number
    with the other sign is none, since nobody knows whether it divides thousands."""

    def __init__(self, divider: str) -> None:
        self._sign = "." if divider == "," else ""

    def read(self, text: str) -> float:
        """The number. Raises ValueError where it is none."""
        self._sign = self._sign or next((one for one in text if one in ".,"), "")
        if self._sign == ",":
            if "." in text:
                raise ValueError(text)
            text = text.replace(",", ".")
        return float(text)


def _numbers(row: Mapping[str, str | None], columns: Sequence[str], decimals: _Decimals) -> list[float] | None:
    try:
        values = [decimals.read(row[one] or "nan") for one in columns]
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _cut(stretch: list[list[float]], spec: Windows, label: str | None) -> list[tuple[NDArray[np.float32], str]]:
    if not label or len(stretch) < spec.length:
        return []
    values = np.array(stretch, np.float32)
    starts = range(0, len(values) - spec.length + 1, spec.hop)
    return [(values[start : start + spec.length], label) for start in starts]
