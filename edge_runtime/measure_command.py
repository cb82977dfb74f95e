"""``edge-runtime measure``: from parsed arguments to figures on stdout, or in a file.

Exit codes: the command's own (128 + n when signal n ended it), 0 for a period, else the code of the error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.signal_queue import SignalQueue
from protos.errors import StoreError, UsageError

__all__ = ["EXAMPLE", "add_arguments", "run", "seconds"]

EXAMPLE = """examples:
  edge-runtime measure --sensor serial:/dev/ttyUSB0 --for 30s
  edge-runtime measure --sensor serial:/dev/ttyUSB0 --json joules.json -- python3 work.py
  edge-runtime measure --sensor replay:trace1-energy.bin --format mlperf-tiny \\
      --windows trace1-timestamps.json --json -

Without --for and without a command it measures until Ctrl-C. The exit code is the command's, 128 + n when signal n
ended it; 0 for a period. Joules are those of the whole board while the command runs. With --json on stdout the
command's own stdout goes to stderr. Unknown figures are ? and null."""

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_LONGEST_S = 30 * 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the options of ``measure`` on a parser."""
    parser.add_argument(
        "--sensor",
        metavar="SPEC",
        help="serial:PATH, estimate:BOARD, none, or replay:FILE (or EDGEJOULE_SENSOR; default none)",
    )
    parser.add_argument("--for", dest="period", metavar="TIME", help="such as 30s, 2m, 500ms; default until Ctrl-C")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="OUT", help="write JSON to OUT; without OUT, or with -, to stdout"
    )
    parser.add_argument("--format", metavar="NAME", help="format of a replayed FILE: mlperf-tiny")
    parser.add_argument("--windows", metavar="FILE", type=Path, help="windows of a replayed FILE (*-timestamps.json)")
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="after --: the command to measure")


def seconds(text: str) -> float:
    """A length of time as seconds.

    Raises:
        UsageError: it is none, or not above 0 and at most 30 days.

    >>> seconds("30s"), seconds("2m"), seconds("500ms")
    (30.0, 120.0, 0.5)
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h|)", text.strip())
    length_s = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < length_s <= _LONGEST_S:
        raise UsageError(f"{text!r} is no length of time up to 30 days", where="--for", fix="give 30s, 2m or 500ms")
    return length_s


def run(given: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run ``measure``; the exit code.

    Raises:
        EdgejouleError: the options contradict each other, the sensor cannot be opened, the command cannot be
            started, a recording cannot be read, or OUT cannot be written.
    """
    sensor = given.sensor or environ.get("EDGEJOULE_SENSOR") or "none"
    out = None if given.json in (None, "-") else Path(given.json)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(
            "is no file that can be written", where=str(out), fix="give --json a file in an existing folder"
        )
    if sensor.startswith("replay:"):
        return _replay(given, Path(sensor.removeprefix("replay:")), out)
    for option, value in (("--format", given.format), ("--windows", given.windows)):
        if value is not None:
            raise UsageError("is for a recording", where=option, fix="use it with --sensor replay:FILE")
    if given.words and given.period is not None:
        raise UsageError("a command is measured until it ends", where="--for", fix="leave out --for or the command")
    if given.words and sensor.startswith("estimate:"):
        raise UsageError(
            "an estimate knows the CPU time of this process alone, not that of a command",
            where=sensor,
            fix="use --sensor serial:PATH",
        )
    return _measure(given, sensor, out)


def _measure(given: argparse.Namespace, sensor: str, out: Path | None) -> int:
    for_s = None if given.period is None else seconds(given.period)
    to_stdout = given.json == "-"
    with SignalQueue() as signals:
        # Only now: threads that numpy and the meter start must begin with the signals blocked.
        from edge_runtime.measure import measure
        from edge_runtime.measure_display import LiveLine, measurement_lines
        from edge_runtime.power.opening import open_meter

        meter = open_meter(sensor)
        try:
            if meter.identity.method != "measured":
                print(f"edge-runtime: {_warning(meter.identity.method)}", file=sys.stderr)
            live = LiveLine(sys.stderr) if _may_draw(bool(given.words), to_stdout, environ=os.environ) else None
            result = measure(
                meter,
                signals,
                for_s=for_s,
                command=given.words,
                command_stdout=sys.stderr.fileno() if to_stdout and given.words else None,
                show=live.show if live else None,
            )
            if live:
                live.clear()
        finally:
            meter.close()
    _hand_out(result.as_json(), measurement_lines(result), given.json, out)
    return result.exit_code or 0


def _replay(given: argparse.Namespace, path: Path, out: Path | None) -> int:
    if given.words or given.period is not None:
        raise UsageError("a recording has its own time", where="--sensor", fix="leave out --for and the command")
    from edge_runtime.measure_display import replay_lines
    from edge_runtime.power.replay import FORMATS, integrate_trace, read_windows

    if given.format not in FORMATS:
        what = "is needed to read a recording" if given.format is None else f"{given.format!r} is not known"
        raise UsageError(what, where="--format", fix=f"use {' or '.join(FORMATS)}")
    replay = integrate_trace(path, read_windows(given.windows) if given.windows is not None else ())
    document = {
        "schema": "edgejoule.replay/1",
        "sensor": f"replay:{path}",
        "format": given.format,
        "total_j": replay.total_j,
        "duration_s": replay.duration_s,
        "rate_hz": replay.rate_hz,
        "samples": replay.samples,
        "mean_w": replay.total_j / replay.duration_s,
        "peak_w": replay.peak_w,
        "uncertainty_j": None,
        "windows": [
            {
                "number": row.window.number,
                "start_s": row.window.start_s,
                "stop_s": row.window.stop_s,
                "energy_j": row.energy_j,
                "mean_w": row.mean_w,
                "inferences": row.window.inferences,
                "per_inference_j": row.per_inference_j,
                "coverage": row.coverage,
                "flags": list(row.flags),
            }
            for row in replay.windows
        ],
    }
    _hand_out(document, replay_lines(replay), given.json, out)
    return 0


def _warning(method: str) -> str:
    if method == "estimated":
        return "estimate: idle watts of the board plus the CPU time of this process alone; nothing else is in it"
    return "no sensor: the energy stays unknown; give --sensor serial:PATH"


def _may_draw(command: bool, to_stdout: bool, *, environ: Mapping[str, str]) -> bool:
    """Whether there is a terminal line that nobody else writes on."""
    if not sys.stderr.isatty() or environ.get("TERM", "dumb") == "dumb":
        return False
    return not command or (not to_stdout and not sys.stdout.isatty())


def _hand_out(document: dict[str, Any], lines: list[str], wanted: str | None, out: Path | None) -> None:
    text = json.dumps(document, indent=2, allow_nan=False)
    if wanted == "-":
        print(text)
        return
    if out is not None:
        from protos.atomic import write_whole

        try:
            with write_whole(out) as file:
                file.write(f"{text}\n".encode())
        except OSError as cause:
            print("\n".join(lines))
            raise StoreError(f"cannot be written: {cause.strerror or cause}", where=str(out)) from cause
    print("\n".join(lines))
