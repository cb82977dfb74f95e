"""`coordinator report`: runs on one page that needs nothing else, with their figures as CSV beside it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.operator import as_json
from protos.commands.json_document import document
from protos.commands.program import version
from protos.errors import UsageError
from protos.extras import require


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="write runs as one page with their curves, energy and plan, and CSV beside it",
        description="One HTML page without scripts and without anything from elsewhere, light or dark, and fit to be "
        "printed. A run that still goes on is told as it is now. Beside REPORT.html: REPORT.rounds.csv, "
        "REPORT.devices.csv and REPORT.energy.csv.",
        **example("coordinator report digits -o report.html"),
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an id, the beginning of one, or a name")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="REPORT.html")
    parser.add_argument("--png", action="store_true", help="the curves as REPORT.png as well (extra: plot)")
    parser.add_argument("--parquet", action="store_true", help="the tables as Parquet as well (extra: parquet)")
    parser.add_argument("--again", action="store_true", help="replace files that are there")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write a report."""
    from coordinator.report.making import make

    if arguments.png:
        require(["matplotlib"], "plot")
    if arguments.parquet:
        require(["pyarrow"], "parquet")
    out: Path = arguments.output
    if out.is_dir():
        raise UsageError("is a folder", where=str(out), fix=f"name a file, such as {out / 'report.html'}")
    command = ["coordinator", "report", *arguments.runs, "-o", str(out), *(["--png"] if arguments.png else [])]
    command += ["--parquet"] if arguments.parquet else []
    with operator(arguments) as connection:
        report = make(
            connection,
            arguments.runs,
            out,
            version=version(),
            command=shlex.join(command),
            png=arguments.png,
            parquet=arguments.parquet,
            again=arguments.again,
        )
    if arguments.json:
        runs = [
            {"run_id": record.run.run_id, "name": record.run.name, "state": record.run.state}
            for record in report.records
        ]
        print(as_json.dump(document("report", {"runs": runs, "files": [str(path) for path in report.files]})))
        return 0
    for line in report.lines():
        print(line)
    return 0
