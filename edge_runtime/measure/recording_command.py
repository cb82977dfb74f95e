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
from typing import IO, TYPE_CHECKING, Any, TextIO

from protos.commands.json_document import document
from protos.commands.program import example
from protos.errors import EdgejouleError, StoreError, UsageError
from protos.extras import require

if TYPE_CHECKING:
    from edge_runtime.power.recording.blocks import Damage
    from edge_runtime.power.recording.export import Row

__all__ = ["EXAMPLE", "add_arguments", "run"]

# Of the instruments whose files these are: 2 MHz.
MOST_HZ = 2_000_000

EXAMPLE = """examples:
  edge-runtime recording info run.ejr
  edge-runtime recording export run.ejr --csv -o run.csv
  edge-runtime recording export run.ejr --ppk2 --volts 5.1 -o run.ppk2
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
    form.add_argument("--oml", action="store_true", help="OML text, as FIT IoT-LAB's nodes write it")
    form.add_argument("--ppk2", action="store_true", help="a session of Nordic's Power Profiler; needs --volts")
    form.add_argument("--jls", action="store_true", help="a file of Joulescope's programs (extra: jls)")
    export.add_argument(
        "--volts", metavar="V", type=float, help="with --ppk2, which has amperes: what the board runs at"
    )
    export.add_argument(
        "--rate", metavar="HZ", type=int, help="with --ppk2 and --jls: samples in a second (default: the sensor's)"
    )
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

    name = next((text for text in ("oml", "ppk2", "jls") if getattr(given, text)), None)
    if given.volts is not None and name != "ppk2":
        raise UsageError("--volts is of .ppk2 alone", where="--volts", fix="add --ppk2, or leave it out")
    if given.rate is not None and name not in ("ppk2", "jls"):
        raise UsageError("--rate is of .ppk2 and JLS alone", where="--rate", fix="add --ppk2 or --jls, or leave it out")
    if name is not None:
        return _export_as(name, given)
    table = rows(given.file)
    write = _write_json if given.json else _write_csv
    if given.output is None:
        write(sys.stdout, table)
        return 0
    with _whole(given.output) as file:
        write(file, table)
    return 0


def _export_as(name: str, given: argparse.Namespace) -> int:
    """Write the format of another instrument; 0."""
    from edge_runtime.power.recording.export import rows
    from edge_runtime.power.recording.reader import Recording

    if given.output is None:
        raise UsageError("is no text for a terminal", where=f"--{name}", fix="give -o FILE")
    header = Recording(given.file).header
    rate_hz = given.rate if given.rate is not None else max(1, round(header.capabilities.rate_hz or 0))
    if not 1 <= rate_hz <= MOST_HZ:
        raise UsageError(f"{rate_hz} is no rate", where="--rate", fix=f"give 1 to {MOST_HZ}")
    if name == "ppk2" and not (given.volts is not None and 0.1 <= given.volts <= 60):
        raise UsageError("watts are no amperes", where="--ppk2", fix="add --volts V, 0.1 to 60: what the board runs at")
    count, missing = 0, 0
    table, sensor = rows(given.file), header.identity.sensor
    if name == "jls":
        require(["pyjls"], "jls")
        from edge_runtime.power.recording.formats import jls

        with _beside(given.output) as path:
            count, missing = jls.write(
                path, table, rate_hz=rate_hz, begun_utc=header.begun_utc, name=sensor, version=header.software
            )
    else:
        with _whole_bytes(given.output) as file:
            if name == "oml":
                from edge_runtime.power.recording.formats import oml

                oml.write(file, table, begun_utc=header.begun_utc, name=sensor)
            else:
                from edge_runtime.power.recording.formats import ppk2

                count, missing = ppk2.write(file, table, rate_hz=rate_hz, volts=given.volts, begun_utc=header.begun_utc)
    if missing:
        what = "NaN" if name == "jls" else "0 uA, for the format has no gaps"
        print(f"{missing} of {count} samples were not measured, and are {what}", file=sys.stderr)
    return 0


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path for a library that opens files by itself; what it wrote appears at ``path`` whole or not at all."""
    from protos.atomic import written_beside

    try:
        with written_beside(path) as made:
            yield made
    except OSError as cause:
        if isinstance(cause, EdgejouleError):
            raise
        raise StoreError(f"cannot be written: {cause.strerror or cause}", where=str(path)) from cause


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears whole or not at all."""
    with _whole_bytes(path) as binary:
        text = io.TextIOWrapper(binary, "utf-8", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def _whole_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears whole or not at all."""
    from protos.atomic import write_whole

    try:
        with write_whole(path) as binary:
            yield binary
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
