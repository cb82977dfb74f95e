"""``edge-runtime recording``: what is in a recording, and its samples as a table."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from protos.commands.json_document import document
from protos.commands.program import example
from protos.errors import EdgejouleError, StoreError

if TYPE_CHECKING:
    from edge_runtime.power.recording.blocks import Damage
    from edge_runtime.power.recording.export import Row

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """examples:
  edge-runtime recording info run.ejr
  edge-runtime recording export run.ejr --csv -o run.csv
  edge-runtime measure --sensor replay:run.ejr

Recordings are written by edge-runtime measure --record FILE. A file that was cut by a power failure, or damaged, is
read as far as it is whole; what is missing is told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the verbs of ``recording`` on a parser."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    info = verbs.add_parser(
        "info",
        help="who measured what and when, how much, and what is damaged",
        **example("edge-runtime recording info run.ejr --json"),
    )
    info.add_argument("file", metavar="FILE", type=Path)
    info.add_argument("--json", action="store_true", help="print JSON on stdout")
    export = verbs.add_parser(
        "export", help="every sample as a row", **example("edge-runtime recording export run.ejr --csv -o run.csv")
    )
    export.add_argument("file", metavar="FILE", type=Path)
    form = export.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="a table with a header (the default)")
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    export.add_argument("-o", "--output", metavar="OUT", type=Path, help="write to OUT instead of stdout")


def run(given: argparse.Namespace) -> int:
    """Run ``recording``; the exit code.

    Raises:
        EdgejouleError: the file is no recording or cannot be read, or OUT cannot be written.
    """
    return _info(given.file, as_json=given.json) if given.verb == "info" else _export(given)


def _info(path: Path, *, as_json: bool) -> int:
    from edge_runtime.power.recording.reader import Recording

    recording = Recording(path)
    overview, header = recording.overview(), recording.header
    length_s = 0.0 if math.isnan(overview.begin_s) else overview.end_s - overview.begin_s
    if as_json:
        facts: dict[str, Any] = {
            "file": str(path),
            "size_bytes": overview.size_bytes,
            "blocks": overview.blocks,
            "samples": overview.samples,
            "duration_s": length_s,
            "length_s": length_s,
            "damage": asdict(overview.damage),
            "header": header.as_json(),
        }
        print(json.dumps(document("recording-info", facts), indent=2))
        return 0
    per_sample = f", {overview.size_bytes / overview.samples:.2f} bytes a sample" if overview.samples else ""
    for line in (
        f"begun     {header.begun_utc} on {header.board}, edgejoule {header.software}",
        f"sensor    {header.identity.sensor}, {header.capabilities.rate_hz:.4g} Hz nominal",
        f"method    {header.identity.method} ({header.identity.quality}, calibration {header.identity.calibration_id})",
        f"length    {length_s:.3f} s, {overview.samples} samples in {overview.blocks} blocks",
        f"size      {overview.size_bytes} bytes{per_sample}",
        f"damage    {_damage(overview.damage)}",
    ):
        print(line)
    return 0


def _damage(damage: Damage) -> str:
    told = {
        "bytes at the end belong to no whole block": damage.cut_bytes,
        "bytes in between belong to no whole block": damage.skipped_bytes,
        "blocks are missing": damage.missing_blocks,
        "blocks cannot be read": damage.strange_blocks,
    }
    return "; ".join(f"{count} {what}" for what, count in told.items() if count) or "none"


def _export(given: argparse.Namespace) -> int:
    from edge_runtime.power.recording.export import rows

    table = rows(given.file)
    write = _write_json if given.json else _write_csv
    if given.output is None:
        write(sys.stdout, table)
        return 0
    with _whole(given.output) as file:
        write(file, table)
    return 0


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears whole or not at all."""
    from protos.atomic import write_whole

    try:
        with write_whole(path) as binary:
            text = io.TextIOWrapper(binary, "utf-8", newline="")
            yield text
            text.flush()
            text.detach()
    except OSError as cause:
        if isinstance(cause, EdgejouleError):
            raise
        raise StoreError(f"cannot be written: {cause.strerror or cause}", where=str(path)) from cause


def _write_csv(file: TextIO, table: Iterable[Row]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["start_s", "stop_s", "power_w", "flags", "period"])
    for row in table:
        numbers = (f"{row.start_s:.6f}", f"{row.stop_s:.6f}", f"{row.power_w:.9g}")
        writer.writerow([*numbers, " ".join(row.flags), row.period])


def _write_json(file: TextIO, table: Iterable[Row]) -> None:
    for row in table:
        file.write(json.dumps(document("sample", asdict(row))) + "\n")
