"""Runs asked of a coordinator, page by page, made a report with its files: all of them, or none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coordinator.operator.client import Operator
from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.report import csv_files
from coordinator.report.csv_files import RowWriter
from coordinator.report.page import page
from coordinator.report.parquet_files import TableWriter
from coordinator.report.record import RunRecord, gather
from coordinator.report.words import sum_of
from protos.atomic import write_whole
from protos.errors import EdgejouleError, StoreError, UsageError

__all__ = ["Report", "make", "names_of"]

_KINDS = ("rounds", "devices", "energy")


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        files: the page first.
        records: of the runs, in the order in which they were asked for.
    """

    files: tuple[Path, ...]
    records: tuple[RunRecord, ...]

    def lines(self) -> Iterable[str]:
        """What to tell of it."""
        for one in self.records:
            closed = sum(row.state == "closed" and row.round > 0 for row in one.rounds)
            yield (
                f"{one.run.run_id} {one.run.name}: {one.run.state}, {closed} of {one.run.rounds_planned} rounds, "
                f"{len(one.devices)} devices, {sum_of(one.spent)} J"
            )
        for path in self.files:
            yield f"{path}: {path.stat().st_size} bytes"


def names_of(out: Path, *, png: bool, parquet: bool = False) -> dict[str, Path]:
    """The files of a report, by kind: beside ``report.html`` there are ``report.rounds.csv`` and others."""
    stem = out.name.removesuffix(out.suffix) or out.name
    made = {"page": out, **{kind: out.with_name(f"{stem}.{kind}.csv") for kind in _KINDS}}
    if parquet:
        made |= {f"{kind} as parquet": out.with_name(f"{stem}.{kind}.parquet") for kind in _KINDS}
    return made | ({"png": out.with_name(f"{stem}.png")} if png else {})


def make(
    connection: Operator,
    runs: Sequence[str],
    out: Path,
    *,
    version: str,
    command: str,
    png: bool = False,
    parquet: bool = False,
    again: bool = False,
) -> Report:
    """Make a report of runs.

    Args:
        runs: ids, beginnings of ids, or names.
        command: that made it, for the page.
        png: a picture of its curves as well.
        parquet: its tables as Parquet as well.
        again: replace files that are there.

    Raises:
        UsageError: a file is there already, or a run is named twice.
        StoreError: a file cannot be written; then none was.
        EdgejouleError: see :class:`coordinator.operator.client.Operator`.
    """
    paths = names_of(out, png=png, parquet=parquet)
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not again:
        raise UsageError("is there already", where=", ".join(there), fix="choose another -o, or add --again")
    records: list[RunRecord] = []
    try:
        with ExitStack() as stack:
            files = {kind: stack.enter_context(write_whole(path)) for kind, path in paths.items()}
            energy = _writers(files, "energy", csv_files.ENERGY)

            def told(run: RunStatus, this_round: RoundStatus) -> None:
                for row in csv_files.energy_rows(run, this_round):
                    for writer in energy:
                        writer.write(row)

            cards = connection.devices()
            for name in runs:
                record = gather(connection.pages(name), cards=cards, on_round=told)
                run_id = record.run.run_id
                if any(each_record.run.run_id == run_id for each_record in records):
                    raise UsageError("is named twice", where=name, fix="name each run once")
                records.append(
                    RunRecord(
                        record.run,
                        connection.details(run_id),
                        record.rounds,
                        record.devices,
                        {budget.device_id: budget for budget in connection.budgets(run_id)},
                        record.cards,
                    )
                )
            for writer in energy:
                writer.done()
            for kind, header, rows in (
                ("rounds", csv_files.ROUNDS, csv_files.round_rows),
                ("devices", csv_files.DEVICES, csv_files.device_rows),
            ):
                for writer in _writers(files, kind, header):
                    for record in records:
                        for row in rows(record):
                            writer.write(row)
                    writer.done()
            beside = [path.name for kind, path in paths.items() if kind != "page"]
            text = page(records, made_unix_s=time.time(), version=version, command=command, files=beside)
            files["page"].write(text.encode())
            if png:
                from coordinator.report.pictures import draw

                draw(files["png"], records)
    except EdgejouleError:
        raise  # some of ours are OSErrors as well
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise StoreError(what, where=str(out), fix="choose another -o") from error
    return Report(tuple(paths.values()), tuple(records))


def _writers(files: Mapping[str, IO[bytes]], kind: str, header: Sequence[str]) -> list[RowWriter | TableWriter]:
    """Of one table, as CSV and, where it was asked for, as Parquet."""
    made: list[RowWriter | TableWriter] = [RowWriter(files[kind], header)]
    other = files.get(f"{kind} as parquet")
    return made if other is None else [*made, TableWriter(other, header)]
