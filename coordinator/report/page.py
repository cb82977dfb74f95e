"""A report as one HTML page: no script, nothing from elsewhere, and nothing that is not escaped."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.report.charts import MOST_POINTS, Line, lines
from coordinator.report.device_sections import LISTED
from coordinator.report.markup import Markup, element
from coordinator.report.record import RunRecord
from coordinator.report.sections import run_section
from coordinator.report.style import STYLE
from coordinator.report.tables import table
from coordinator.report.words import day, of_score, seconds, sum_of

__all__ = ["page"]

# The page asks for nothing: not even what a broken copy of it names could be loaded or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(records: Sequence[RunRecord], *, made_unix_s: float, version: str, command: str, files: Sequence[str]) -> str:
    """The page of one or several runs.

    Args:
        version: of the program that made it.
        command: that made it, as one line of a shell.
        files: names of what was written beside it.
    """
    names = [f"{record.run.name} ({record.run.run_id})" for record in records]
    title = names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(record.run.name for record in records)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Report: {title}"),
        element("style", Markup(STYLE)),
    )
    several = len(records) > 1
    body = element(
        "body",
        element("a", "To the figures", href="#figures", class_="skip"),
        element(
            "header",
            element("h1", title),
            element("p", f"Made {day(made_unix_s)} by edgejoule {version}.", class_="soft"),
            element("p", f"Beside it: {', '.join(files)}.", class_="soft") if files else None,
        ),
        element(
            "main",
            _together(records) if several else None,
            *(run_section(record, index, several=several) for index, record in enumerate(records)),
            _legend(command),
            id="figures",
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _together(records: Sequence[RunRecord]) -> Markup:
    """The runs beside each other."""
    measures = {record.measure for record in records}
    rows: list[list[Markup | str]] = []
    for index, record in enumerate(records):
        best = max((row.score for row in record.rounds if row.score is not None), default=None)
        closed = sum(row.state == "closed" and row.round > 0 for row in record.rounds)
        rows.append(
            [
                element("a", f"{record.run.name} ({record.run.run_id})", href=f"#run-{index}"),
                record.run.state,
                f"{closed}/{record.run.rounds_planned}",
                of_score(record.measure, best),
                sum_of(record.spent),
                str(sum(row.bytes_up for row in record.rounds)),
                str(sum(row.bytes_down for row in record.rounds)),
                seconds(_lasted(record)),
            ]
        )
    charts: list[Markup | None] = []
    if len(measures) == 1:
        measure = measures.pop()
        percent = measure == "accuracy"
        for title, x_label, along in (
            (f"{measure} by round", "round", lambda row: float(row.round)),
            (f"{measure} by joule", "joules of all devices so far", lambda row: row.known_so_far_j),
        ):
            series = [
                Line(
                    record.run.name
                    if sum(other.run.name == record.run.name for other in records) == 1
                    else record.run.run_id,
                    [along(row) for row in record.rounds],
                    [None if row.score is None else (100 if percent else 1) * row.score for row in record.rounds],
                )
                for record in records
                if x_label == "round" or record.spent.known
            ]
            charts.append(lines(series, title=title, x_label=x_label, y_label=f"{measure}{' (%)' if percent else ''}"))
    return element(
        "section",
        element("h2", "All runs", class_="first"),
        table(
            ["run", "state", "rounds", "best score", "spent J", "bytes up", "bytes down", "lasted"],
            rows,
            caption="Runs beside each other. Joules are of all devices, idling left out.",
        ),
        element("div", *charts, class_="charts") if any(charts) else None,
    )


def _lasted(record: RunRecord) -> float | None:
    return None if record.run.finished_unix_s is None else record.run.finished_unix_s - record.run.started_unix_s


def _legend(command: str) -> Markup:
    return element(
        "section",
        element("h2", "How to read this"),
        element(
            "ul",
            element("li", "A figure that is not known is ?, and never 0; - where there was nothing to measure."),
            element(
                "li",
                "Joules are of receiving, embedding, training, encoding and sending, of all devices, whatever came of "
                "their reports; idling has a column of its own. ≥ says that records without a figure are left out.",
            ),
            element(
                "li",
                "± is half the width of the 95 % interval that meters state. Errors of one sensor, or of one board "
                "table, go together and are added; those of different sensors are independent: "
                "u = sqrt(sum of squares).",
            ),
            element(
                "li",
                f"Lines of more than {MOST_POINTS} points are drawn by the first, lowest and highest of each stretch; "
                f"charts of devices show the {LISTED} that spent most. Tables and CSV files have all.",
            ),
        ),
        element("p", "This page again:"),
        element("pre", command),
    )
