"""CSV and Parquet tables: a time series cut into windows, or a row an example, as a bundle's front end says.

The first row of a CSV file names its columns; commas, semicolons, tabs or bars divide them, whichever gives the columns
that are wanted. Where no comma divides, one may be the decimal sign. UTF-8, or UTF-16 with its mark. A Parquet file
names its columns itself; it is read a few thousand rows at a time, of the wanted columns alone, by the package pyarrow
where that is installed.

A window is so many rows in a row, all of one class; a row that lacks a number ends the stretch. Of a folder each file
is a recording of its own; those below ``test/`` are held out.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Tally, listed
from protos.datafiles.classes import renumber
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.front_end import TableRows, Windows
from protos.datafiles.renames import composed
from protos.errors import DataError, EmptyShardError
from protos.extras import missing
from protos.progress import progressed

__all__ = ["is_table", "read"]

# What programs call the column with the numbers of the rows.
_INDEX = {"", "index", "Unnamed: 0"}
_HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval"}
_CSV, _PARQUET = (".csv", ".tsv"), (".parquet", ".pq")
_ROWS_AT_ONCE = 4096
# Below what a field may have for the module `csv`, which would say it in other words.
_MOST_OF_A_LINE = 100_000


def is_table(path: Path) -> bool:
    """Whether a name ends as that of a table does."""
    return path.suffix.lower() in (*_CSV, *_PARQUET)


def read(
    path: Path,
    choose: Choose,
    spec: Windows | TableRows,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
) -> tuple[NDArray[np.float32], Columns]:
    """Read a table, or all tables of a folder.

    Returns:
        x, float32 [M, length, columns] of windows, [M, width] of rows, and its columns.

    Raises:
        DataError: a column is not there. LabelError: a class that the model has not. EmptyShardError: no window.
        UsageError: a Parquet file, and what reads it is not installed.
    """
    rows, files = isinstance(spec, TableRows), [path]
    if path.is_dir():
        files = sorted(each_path for each_path in path.rglob("*") if is_table(each_path) and each_path.is_file())
    blocks: list[NDArray[np.float32]] = []
    names: list[str] = []
    held_out: list[bool] = []
    left_out, aside = Tally(), Tally()
    for file in files:
        progressed()
        apart = any(part.lower() in _HELD_OUT for part in file.relative_to(path).parts[:-1])
        for block, name in _windows(
            file, _of_rows(file, spec, left_out) if isinstance(spec, TableRows) else spec, left_out
        ):
            blocks.append(block[0] if rows else block)
            names.append(name)
            held_out.append(apart)
    if not blocks:
        fix = f"give tables with {spec.shape[0]} rows of one {spec.label} in a row"
        what = "has no window of one class"
        if rows:
            what, fix = "has no row with numbers and a class", f"give tables with a class in {spec.label}"
        if bad := left_out.remarks():
            columns = ", ".join(spec.columns) if isinstance(spec, Windows) else "the other columns"
            what += f": {listed(bad)}"
            fix = f"let {columns} hold one number each, and {spec.label} a class; and " + fix
        raise EmptyShardError(what, where=str(path), fix=fix)
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(names))))
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(name)] for name in names], np.int32)
    y, class_names = renumber(y, stored, classes, str(path), renames, tolerant=tolerant)
    described = Columns(y, np.array(held_out, np.bool_), None, class_names, left_out.remarks())
    chosen = choose(described)
    kept = np.arange(len(y)) if chosen is None else chosen
    for row in kept[y[kept] == NO_LABEL]:
        aside.add(f"of class {names[row]!r}, which the model has not", f"{'row' if rows else 'window'} {row}")
    kept = kept[y[kept] != NO_LABEL]
    x = np.stack([blocks[row] for row in kept.tolist()]) if len(kept) else np.empty((0, *spec.shape), np.float32)
    return x, replace(described.select(kept), set_aside=aside.remarks())


def _of_rows(file: Path, spec: TableRows, left_out: Tally) -> Windows:
    """Windows of one row, over all columns of this table but the class.

    Raises:
        DataError: there is another number of them.
    """
    with reading(str(file), "a table"), _as_text(file):
        names = _columns(file, spec.label)
    numbers = tuple(name for name in names if name != spec.label)
    if len(numbers) == spec.width + 1 and names[0] in _INDEX:
        left_out.add("column of row numbers", f"{file.name}, the first")
        numbers = tuple(name for name in numbers if name != names[0])
    if spec.label not in names or len(numbers) != spec.width:
        has = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise DataError(
            f"has {len(numbers)} columns beside {spec.label!r} (it has {has or 'nothing'}), not {spec.width}",
            where=str(file), fix=f"the first row names the columns: one {spec.label}, and {spec.width} with numbers",
        )  # fmt: skip
    return Windows(1, 1, numbers, spec.label)


def _columns(file: Path, label: str) -> list[str]:
    """Names of the columns of a table, in their order."""
    if file.suffix.lower() not in _CSV:
        try:
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise missing("pyarrow") from error
        with parquet.ParquetFile(file) as table:
            return list(table.schema_arrow.names)
    with file.open(newline="", encoding=_encoding(file)) as stream:
        first = next(_lines(stream, file), "")
    # What divides them gives the most columns, and the class among them.
    found = [
        [text.strip() for text in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])]
        for divider in _DIVIDERS
    ]
    return max(found, key=lambda names: (label in names, len(names)))


_DIVIDERS = (",", ";", "\t", "|")
_Row = tuple[int, str, list[float] | None]


def _windows(file: Path, spec: Windows, left_out: Tally) -> list[tuple[NDArray[np.float32], str]]:
    rows = _of_csv if file.suffix.lower() in _CSV else _of_parquet
    with reading(str(file), "a table"):
        stretch: list[list[float]] = []
        found: list[tuple[NDArray[np.float32], str]] = []
        label: str | None = None
        for number, name, values in rows(file, spec):
            if values is None or not name:
                left_out.add("row without a number or a class", f"{file.name}:{number}")
                name = ""
            if name != label:
                found += _cut(stretch, spec, label)
                stretch, label = [], name
            if values is not None and name:
                stretch.append(values)
        return found + _cut(stretch, spec, label)


def _of_csv(file: Path, spec: Windows) -> Iterator[_Row]:
    """Class and values of each row, by the number of its line."""
    with _as_text(file):
        yield from _of_text(file, spec, _encoding(file))


@contextmanager
def _as_text(file: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        fix = "close its quotes, or write cells without any"
        raise DataError(f"is no table of cells ({error})", where=str(file), fix=fix) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"is no text in {_encoding(file).removesuffix('-sig').upper()}", where=str(file),
            fix="save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8, or the program that wrote it",
        ) from error  # fmt: skip


def _of_text(file: Path, spec: Windows, encoding: str) -> Iterator[_Row]:
    with file.open(newline="", encoding=encoding) as stream:
        lines = _lines(stream, file)
        first = next(lines, "")
        divider = _divider(first, (*spec.columns, spec.label))
        names = [text.strip() for text in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])]
        _require(names, spec, file)
        decimals = _Decimals(divider)
        rows: Any = csv.DictReader(lines, names, delimiter=divider, skipinitialspace=True)
        for number, row in enumerate(rows, 2):
            # More cells than columns: a comma that was meant as a decimal sign moves all that come behind it.
            moved = any(cell.strip() for cell in row.get(None) or ())
            yield number, (row[spec.label] or "").strip(), None if moved else _numbers(row, spec.columns, decimals)


def _lines(stream: TextIO, file: Path) -> Iterator[str]:
    """The lines of a text, each of a length that a row may have: one without an end would be read as a whole."""
    number = 0
    while line := stream.readline(_MOST_OF_A_LINE):
        number += 1
        if len(line) >= _MOST_OF_A_LINE:
            what = f"has no end of line {number} within {_MOST_OF_A_LINE} characters"
            raise DataError(what, where=str(file), fix="write one row a line")
        yield line


def _of_parquet(file: Path, spec: Windows) -> Iterator[_Row]:
    """The same by the number of its row, the first 1; a class that is a whole number is named by its digits."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise missing("pyarrow") from error
    with parquet.ParquetFile(file) as table:
        _require(table.schema_arrow.names, spec, file)
        wanted, number = list(dict.fromkeys((*spec.columns, spec.label))), 0
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            columns = [batch.column(name).to_pylist() for name in wanted]
            for values in zip(*columns, strict=True):
                number += 1
                row = dict(zip(wanted, values, strict=True))
                name = "" if row[spec.label] is None else str(row[spec.label]).strip()
                yield number, name, _reals([row[column] for column in spec.columns])
            progressed()


def _reals(cells: Sequence[Any]) -> list[float] | None:
    try:
        values = [float("nan" if cell is None else cell) for cell in cells]
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None


def _require(names: Sequence[str], spec: Windows, file: Path) -> None:
    for column in (*spec.columns, spec.label):
        if list(names).count(column) != 1:
            has = ", ".join(names) or "nothing"
            how = "no column" if column not in names else f"{list(names).count(column)} columns"
            raise DataError(f"has {how} {column!r} (it has {has})", where=str(file), fix="name one so")


def _encoding(file: Path) -> str:
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _divider(first: str, wanted: Sequence[str]) -> str:
    """What divides the columns: the sign that gives the most of those that are wanted."""

    def given(divider: str) -> int:
        names = {text.strip() for text in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])}
        return len(names & set(wanted))

    return max(_DIVIDERS, key=given)


class _Decimals:
    """The decimal sign of one table: a point or a comma, as its first number with either says. Never both: a number
    with the other sign is none, since nobody knows whether it divides thousands."""

    def __init__(self, divider: str) -> None:
        self._sign = "." if divider == "," else ""

    def read(self, text: str) -> float:
        """The number. Raises ValueError where it is none."""
        if "_" in text:  # Python would read 1_000
            raise ValueError(text)
        self._sign = self._sign or next((one for one in text if one in ".,"), "")
        if self._sign == ",":
            if "." in text:
                raise ValueError(text)
            text = text.replace(",", ".")
        return float(text)


def _numbers(row: Mapping[str, str | None], columns: Sequence[str], decimals: _Decimals) -> list[float] | None:
    try:
        values = [decimals.read(row[column] or "nan") for column in columns]
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _cut(stretch: list[list[float]], spec: Windows, label: str | None) -> list[tuple[NDArray[np.float32], str]]:
    if not label or len(stretch) < spec.length:
        return []
    values = np.array(stretch, np.float32)
    starts = range(0, len(values) - spec.length + 1, spec.hop)
    return [(values[start : start + spec.length], label) for start in starts]
