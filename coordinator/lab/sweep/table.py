"""What a sweep says: a row a cell with means and 95 % intervals, differences over the same seeds, the Pareto front."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.lab.sweep.intervals import Mean, Paired, holm, mean_of, paired
from coordinator.lab.sweep.results import FIGURES, Result, by_cell

__all__ = ["Row", "csv_of", "differences", "front", "rows_of", "shown_differences", "shown_rows"]


@dataclass(frozen=True)
class Row:
    """A cell: its figures by name, and how many runs they are of."""

    cell: str
    figures: Mapping[str, Mean]
    runs: int
    measure: str


def rows_of(results: Sequence[Result], order: Sequence[str]) -> list[Row]:
    """A row for each cell that has a run, in this order."""
    found = by_cell(results)
    return [
        Row(
            cell,
            {name: mean_of([result.figure(name) for result in found[cell]]) for name in FIGURES},
            len(found[cell]),
            found[cell][0].measure,
        )
        for cell in order
        if cell in found
    ]


def front(rows: Sequence[Row], cost: str, gain: str = "best") -> set[str]:
    """Cells that no other is at least as good as in both ``gain`` and ``cost``, and better in one: by their means."""
    known = []
    for row in rows:
        high, low = row.figures[gain].mean, row.figures[cost].mean
        if high is not None and low is not None:
            known.append((row.cell, high, low))
    made = set()
    for cell, high, low in known:
        if not any(g >= high and c <= low and (g > high or c < low) for _, g, c in known):
            made.add(cell)
    return made


def differences(results: Sequence[Result], order: Sequence[str]) -> list[dict[str, Any]]:
    """Every cell less the first one, over the seeds that both have; p adjusted by Holm over a figure's cells."""
    found = by_cell(results)
    here = [cell for cell in order if cell in found]
    if len(here) < 2:
        return []
    base = {result.seed: result for result in found[here[0]]}
    made: list[dict[str, Any]] = []
    for figure in ("final", "best", "energy_j", "bytes_up"):
        tests: list[tuple[str, Paired]] = []
        for cell in here[1:]:
            mine = {result.seed: result for result in found[cell]}
            seeds = sorted(base.keys() & mine.keys())
            pairs = [(base[seed].figure(figure), mine[seed].figure(figure)) for seed in seeds]
            tests.append((cell, paired([a for a, _ in pairs], [b for _, b in pairs])))
        adjusted = holm([paired_test.p for _, paired_test in tests])
        for (cell, one), p in zip(tests, adjusted, strict=True):
            made.append(
                {
                    "figure": figure, "cell": cell, "against": here[0], "difference": one.difference.mean,
                    "half": one.difference.half, "pairs": one.difference.count, "higher": one.higher, "p": one.p,
                    "p_holm": p,
                }
            )  # fmt: skip
    return made


def _said(name: str, value: Mean, measure: str = "accuracy") -> str:
    if value.mean is None:
        return "?"
    if name in ("final", "best") and measure == "accuracy":
        text = f"{100 * value.mean:.2f}"
        return text if value.half is None else f"{text} ± {100 * value.half:.2f}"
    digits = 4 if name in ("final", "best") else 1 if name == "run_s" else 0 if name in ("rounds",) else None
    if digits is None:
        text = f"{value.mean:.4g}" if abs(value.mean) < 1e4 else f"{value.mean:.0f}"
        return text if value.half is None else f"{text} ± {value.half:.2g}" if value.half < 100 else (
            f"{text} ± {value.half:.0f}"
        )  # fmt: skip
    text = f"{value.mean:.{digits}f}"
    return text if value.half is None else f"{text} ± {value.half:.{digits}f}"


def shown_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The table for people: header and cells."""
    measure = rows[0].measure if rows else "accuracy"
    unit = " %" if measure == "accuracy" else ""
    header = ["cell", "runs", f"final {measure}{unit}", f"best{unit}", "J", "bytes up", "bytes down", "rounds", "s"]
    marks = front(rows, "energy_j"), front(rows, "bytes_up")
    body = []
    for row in rows:
        cells = [_said(name, row.figures[name], measure) for name in FIGURES]
        # On the front of accuracy and joules, or bytes.
        cells[2] += " *" if row.cell in marks[0] else ""
        cells[3] += " *" if row.cell in marks[1] else ""
        body.append([row.cell, str(row.runs), *cells])
    return header, body


def shown_differences(
    found: Sequence[Mapping[str, Any]], measure: str = "accuracy"
) -> tuple[list[str], list[list[str]]]:
    """Differences for people."""
    body = []
    for row in found:
        name = row["figure"]
        value = Mean(row["difference"], row["half"], row["pairs"])
        said = _said(name, value, measure)
        said = f"+{said}" if row["difference"] is not None and row["difference"] > 0 else said
        p = "?" if row["p_holm"] is None else f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "< 0.001"
        body.append([name, row["cell"], said, f"{row['higher']} of {row['pairs']}", p])
    return ["figure", "cell less the first", "difference", "higher in", "p (Holm)"], body


def csv_of(rows: Sequence[Row], results: Sequence[Result]) -> tuple[str, str]:
    """The table and the runs as CSV; what is not known is empty."""
    table, runs = io.StringIO(), io.StringIO()
    names = [f"{name}_{what}" for name in FIGURES for what in ("mean", "half95")]
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["cell", "runs", "measure", *names])
    for row in rows:
        figures = [value for name in FIGURES for value in (row.figures[name].mean, row.figures[name].half)]
        writer.writerow([row.cell, row.runs, row.measure, *("" if value is None else repr(value) for value in figures)])
    writer = csv.writer(runs, lineterminator="\n")
    if results:
        writer.writerow(asdict(results[0]))
    for result in results:
        writer.writerow("" if value is None else value for value in asdict(result).values())
    return table.getvalue(), runs.getvalue()
