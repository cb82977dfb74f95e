"""CSV and Parquet tables: a time series cut into windows, or a row an example, as a bundle's front end says.

The first row of a CSV file names its columns; commas, semicolons, tabs or bars divide them, whichever gives the columns
that are wanted. Where no comma divides, one may be the decimal sign. UTF-8, or UTF-16 with its mark. A Parquet file
names its columns itself; it is read a few thousand rows at a time, of the wanted columns alone, by the package pyarrow
where that is installed.

A window is so many rows in a row, all of one class; a row that lacks a number ends the stretch. Of a folder each file
is a recording of its own; those below ``test/`` are held out, and ``test.csv`` beside ``train.csv``.
"""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Tally, listed, printable
from protos.datafiles.classes import renumber
from protos.datafiles.formats.class_folders import below, split_of
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.front_end import TableRows, Windows
from protos.datafiles.renames import composed
from protos.errors import DataError, EmptyShardError
from protos.extras import missing
from protos.progress import progressed

__all__ = ["is_table", "read"]

# What programs call the column with the numbers of the rows.
_INDEX = {"", "index", "Unnamed: 0"}
_PANDAS = "__index_level_0__"
# What programs write where a class is missing, in small letters; "none" and "null" are classes of somebody's.
_MISSING = {"nan", "<na>", "na", "n/a", "#n/a"}
_BAD_ROW = "row without a number or a class"
_WITH_POINT = re.compile(r"-?[0-9]+\.0*")
_MOST_OF_DIGITS = 18
# A first line that tells spreadsheets what divides the columns.
_SEPARATOR = re.compile(r"sep=.\r?\n?", re.IGNORECASE)
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
    rows, left_out, aside = isinstance(spec, TableRows), Tally(), Tally()
    files = _found(path, spec.label, left_out) if path.is_dir() else {path: False}
    if not files:
        told = f"; it holds {listed(left_out.remarks())}" if left_out.remarks() else ""
        raise EmptyShardError(f"holds no table{told}", where=str(path), fix="give .csv, .tsv or .parquet files")
    blocks: list[NDArray[np.float32]] = []
    names: list[str] = []
    held_out: list[bool] = []
    for file, apart in files.items():
        progressed()
        windows = _of_rows(file, spec, left_out) if isinstance(spec, TableRows) else spec
        for block, name in _windows(file, windows, left_out, classes or ()):
            blocks.append(block[0] if rows else block)
            names.append(name)
            held_out.append(apart)
    if not blocks:
        fix = f"give tables with {spec.shape[0]} rows of one {spec.label} in a row"
        what = "has no window of one class"
        if rows:
            what, fix = "has no row with numbers and a class", f"give tables with a class in {spec.label}"
        what += f": {listed(bad)}" if (bad := left_out.remarks()) else ""
        if any(remark.kind == _BAD_ROW for remark in bad):
            columns = ", ".join(spec.columns) if isinstance(spec, Windows) else "the other columns"
            fix = f"let {columns} hold one number each, and {spec.label} a class; and " + fix
        raise EmptyShardError(what, where=str(path), fix=fix)
    names = _whole_numbers(names, classes or ())
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(names), key=_place)))
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


def _whole_numbers(names: list[str], classes: Sequence[str]) -> list[str]:
    """Classes as whole numbers, where all are such with a point behind: programs write 3 as 3.0 as soon as one row has
    none."""
    if not all(_WITH_POINT.fullmatch(name) for name in names) or set(names) & set(classes):
        return names
    return [name.partition(".")[0] for name in names]


def _place(name: str) -> tuple[int, str]:
    """Numbers in their own order, as programs number the classes of a table; names behind them in theirs."""
    return (int(name), "") if name.isdecimal() and len(name) < _MOST_OF_DIGITS else (sys.maxsize, name)


def _found(folder: Path, label: str, left_out: Tally) -> dict[Path, bool]:
    """The tables below a folder, and whether each is held out: below a folder ``test``, or, where another is called
    ``train.csv``, by its own name. One without classes, as contests hand out for tests, is left out then."""
    tables: list[Path] = []
    real = folder.resolve()
    for file in below(folder, tuple(real.parents)):
        kind = None if is_table(file) else file.suffix.lower() or "file without an ending"
        if file.is_dir():
            kind = "link to a folder above it"
        elif not file.is_file():
            kind = "broken link" if file.is_symlink() else "no plain file"
        if kind is None:
            tables.append(file)
        else:
            left_out.add(kind, str(file.relative_to(folder)))
    trained = any(split_of(file.stem) is False for file in tables)
    found: dict[Path, bool] = {}
    for file in sorted(tables):
        by_name = trained and split_of(file.stem) is True
        if by_name and label not in _columns(file, label):
            left_out.add("table without a class", str(file.relative_to(folder)))
            continue
        found[file] = by_name or any(split_of(part) for part in file.relative_to(folder).parts[:-1])
    return found


def _of_rows(file: Path, spec: TableRows, left_out: Tally) -> Windows:
    """Windows of one row, over all columns of this table but the class.

    Raises:
        DataError: there is another number of them.
    """
    names = _columns(file, spec.label)
    numbers = tuple(name for name in names if name != spec.label)
    if len(numbers) == spec.width + 1 and (names[0] in _INDEX or _PANDAS in names):
        counted = names[0] if names[0] in _INDEX else _PANDAS
        left_out.add("column of row numbers", f"{file.name}, {'the first' if counted == names[0] else 'the last'}")
        numbers = tuple(name for name in numbers if name != counted)
    if spec.label not in names or len(numbers) != spec.width:
        has = f"(it has {_told(names)})"
        what = f"has {len(numbers)} columns beside {spec.label!r} {has}, not {spec.width}"
        raise DataError(
            what if spec.label in names else f"has no column {spec.label!r} {has}",
            where=str(file), fix=f"the first row names the columns: one {spec.label}, and {spec.width} with numbers",
        )  # fmt: skip
    return Windows(1, 1, numbers, spec.label)


def _columns(file: Path, label: str) -> list[str]:
    """Names of the columns of a table, in their order."""
    with reading(str(file), "a table"), _as_text(file):
        return _names_of(file, label)


def _names_of(file: Path, label: str) -> list[str]:
    if file.suffix.lower() not in _CSV:
        try:
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise missing("pyarrow") from error
        with parquet.ParquetFile(file) as table:
            return list(table.schema_arrow.names)
    with file.open(newline="", encoding=_encoding(file)) as stream:
        first = _first(_lines(stream, file), file)
    # What divides them gives the most columns, and the class among them.
    found = [_cells(first, divider) for divider in _DIVIDERS]
    return max(found, key=lambda names: (label in names, len(names)))


def _first(lines: Iterator[str], file: Path) -> str:
    """The line that names the columns.

    Raises:
        DataError: it is no text.
    """
    first = next(lines, "")
    if _SEPARATOR.fullmatch(first):
        first = next(lines, "")
    if "\0" in first:
        raise DataError("is no text, or one in UTF-16 without its mark", where=str(file),
                        fix="save it as UTF-8: iconv -f UTF-16LE -t UTF-8, or the program that wrote it")  # fmt: skip
    return first


def _cells(first: str, divider: str) -> list[str]:
    """The names in a line; one that ends with a divider names no column behind it."""
    names = [text.strip() for text in next(csv.reader([first], delimiter=divider, skipinitialspace=True), [])]
    while names and not names[-1]:
        names.pop()
    return names


_DIVIDERS = (",", ";", "\t", "|")
_Row = tuple[int, str, list[float] | None]


def _windows(
    file: Path, spec: Windows, left_out: Tally, classes: Sequence[str]
) -> list[tuple[NDArray[np.float32], str]]:
    rows = _of_csv if file.suffix.lower() in _CSV else _of_parquet
    missing_names = _MISSING - {name.casefold() for name in classes}
    with reading(str(file), "a table"):
        stretch: list[list[float]] = []
        found: list[tuple[NDArray[np.float32], str]] = []
        label: str | None = None
        begun = 0
        for number, name, values in rows(file, spec):
            if name.casefold() in missing_names:
                name = ""
            if values is None or not name:
                left_out.add(_BAD_ROW, f"{file.name}:{number}")
                name = ""
            if name != label:
                found += _cut(stretch, spec, label, left_out, f"{file.name}:{begun}")
                stretch, label, begun = [], name, number
            if values is not None and name:
                stretch.append(values)
        return found + _cut(stretch, spec, label, left_out, f"{file.name}:{begun}")


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
        first = _first(lines, file)
        divider = _divider(first, (*spec.columns, spec.label))
        names = _cells(first, divider)
        _require(names, spec, file)
        decimals = _Decimals(divider)
        # Strict: a quote that is never closed would take the rest of the file into one cell.
        rows: Any = csv.DictReader(lines, names, delimiter=divider, skipinitialspace=True, strict=True)
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
                yield number, _named(row[spec.label]), _reals([row[column] for column in spec.columns])
            progressed()


def _named(cell: Any) -> str:
    """The class that a cell of a Parquet table names; empty where it names none."""
    if cell is None:
        return ""
    return (cell.decode("utf-8") if isinstance(cell, bytes) else str(cell)).strip()


def _reals(cells: Sequence[Any]) -> list[float] | None:
    try:
        values = [float("nan" if cell is None else cell) for cell in cells]
    except (TypeError, ValueError):
        return None
    return values if _are_reals(values) else None


def _are_reals(values: list[float]) -> bool:
    """Whether all are numbers that float32 holds."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.array(values, np.float32)).all())


def _told(names: Sequence[str]) -> str:
    return printable(", ".join(name[:40] for name in names[:8])) + (", ..." if len(names) > 8 else "") or "nothing"


def _require(names: Sequence[str], spec: Windows, file: Path) -> None:
    for column in (*spec.columns, spec.label):
        if list(names).count(column) != 1:
            has = _told(names)
            how = "no column" if column not in names else f"{list(names).count(column)} columns"
            raise DataError(f"has {how} {column!r} (it has {has})", where=str(file), fix="name one so")


def _encoding(file: Path) -> str:
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _divider(first: str, wanted: Sequence[str]) -> str:
    """What divides the columns: the sign that gives the most of those that are wanted."""

    def given(divider: str) -> int:
        return len(set(_cells(first, divider)) & set(wanted))

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
    return values if _are_reals(values) else None


def _cut(
    stretch: list[list[float]], spec: Windows, label: str | None, left_out: Tally, where: str
) -> list[tuple[NDArray[np.float32], str]]:
    """The windows of a stretch of rows of one class; one that is too short for any is counted."""
    if not label or not stretch:
        return []
    if len(stretch) < spec.length:
        left_out.add("stretch of one class, shorter than a window", where)
        return []
    values = np.array(stretch, np.float32)
    starts = range(0, len(values) - spec.length + 1, spec.hop)
    return [(values[start : start + spec.length], label) for start in starts]
