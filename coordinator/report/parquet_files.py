"""The tables of a report as Parquet: the columns of the CSV with their types, an unknown figure null."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from coordinator.report.csv_files import Cell

__all__ = ["TableWriter"]

_TEXT = {
    "run_id", "run", "state", "measure", "head_version", "device", "board", "version", "meter", "outcome", "phase",
    "method", "sensor", "flags",
}  # fmt: skip
_WHOLE = {
    "round", "asked", "accepted", "late", "rejected", "missing", "spent_unknown_phases", "bytes_up", "bytes_down",
    "steps_done", "steps_planned", "examples",
}  # fmt: skip
# Rows that are held at a time.
_GROUP = 20_000


class TableWriter:
    """Parquet into an open file of bytes, group by group."""

    def __init__(self, file: IO[bytes], header: Iterable[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {**dict.fromkeys(_TEXT, pa.string()), **dict.fromkeys(_WHOLE, pa.int64())}
        self._schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in header])
        self._file: Any = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[list[Cell]] = []

    def write(self, row: Iterable[Cell]) -> None:
        """One row."""
        self._rows.append(list(row))
        if len(self._rows) >= _GROUP:
            self._flush()

    def done(self) -> None:
        """Hand the file back, with all rows in it."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = list(zip(*self._rows, strict=True)) if self._rows else [()] * len(self._schema)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._file.write_table(pa.table(arrays, schema=self._schema))
        self._rows = []
