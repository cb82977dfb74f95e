"""``edge-runtime measure``: from parsed arguments to figures on stdout, or in a file.

Exit codes: the command's own (128 + n when signal n ended it), 0 for a period, else the code of the error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.config import SERVICE_CONFIG, configured_sensor
from edge_runtime.measure.signal_queue import SignalQueue
from protos.durations import duration_s
from protos.errors import StoreError, UsageError

if TYPE_CHECKING:
    from edge_runtime.power.meters.meter import MeterIdentity

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """examples:
  edge-runtime measure --sensor serial:/dev/ttyUSB0 --for 30s
  edge-runtime measure --sensor serial:/dev/ttyUSB0 --baseline 10s --record run.ejr --plot run.png -- python3 work.py
  edge-runtime measure --sensor replay:run.ejr --json -
  edge-runtime measure --sensor replay:ppk2.csv --format csv --volts 3.3

Without --for and without a command it measures until Ctrl-C. The exit code is the command's, 128 + n when signal n
ended it; 0 for a period. Joules are those of the whole board while the command runs. With --json on stdout the
command's own stdout goes to stderr. Unknown figures are ? and null."""

_LONGEST_S = 30 * 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the options of ``measure`` on a parser."""
    parser.add_argument(
        "--sensor",
        metavar="SPEC",
        help="what measures, as in the device's settings, or replay:FILE (or EDGEJOULE_SENSOR, or --config)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"settings that name the sensor (default {SERVICE_CONFIG}, if there)",
    )
    parser.add_argument("--for", dest="period", metavar="TIME", help="such as 30s, 2m, 500ms; default until Ctrl-C")
    parser.add_argument("--baseline", metavar="TIME", help="measure the board at rest for so long before and after")
    parser.add_argument("--record", metavar="FILE", type=Path, help="write every sample to FILE, which must be new")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw power over time as a PNG (extra: plot)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="OUT", help="write JSON to OUT; without OUT, or with -, to stdout"
    )
    parser.add_argument("--format", metavar="NAME", help="replay a FILE of another instrument: mlperf-tiny or csv")
    parser.add_argument("--windows", metavar="FILE", type=Path, help="windows of such a FILE (*-timestamps.json)")
    parser.add_argument("--volts", metavar="V", type=float, help="supply of a csv that has a current and no voltage")
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="after --: the command to measure")


def run(given: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run ``measure``; the exit code.

    Raises:
        EdgejouleError: the options contradict each other, the sensor cannot be opened, the command cannot be
            started, a recording cannot be read, or a file cannot be written.
    """
    out = None if given.json in (None, "-") else Path(given.json)
    for option, path in (("--json", out), ("--plot", given.plot), ("--record", given.record)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(
                "is no file that can be written", where=str(path), fix=f"give {option} a file in an existing folder"
            )
    if given.plot is not None:
        from edge_runtime.measure.plot import require

        require()
    sensor = given.sensor or configured_sensor(environ, given.config) or "none"
    if sensor.startswith("replay:"):
        return _replay(given, Path(sensor.removeprefix("replay:")), out)
    for option, value in (("--format", given.format), ("--windows", given.windows), ("--volts", given.volts)):
        if value is not None:
            raise UsageError("is for a recording", where=option, fix="use it with --sensor replay:FILE")
    if given.words and given.period is not None:
        raise UsageError("a command is measured until it ends", where="--for", fix="leave out --for or the command")
    if sensor.startswith("estimate:") and given.words:
        raise UsageError(
            "an estimate knows the CPU time of this process alone, not that of a command",
            where=sensor,
            fix="use --sensor serial:PATH",
        )
    if sensor.startswith("estimate:") or sensor == "none":
        for option, value in (("--record", given.record), ("--plot", given.plot), ("--baseline", given.baseline)):
            if value is not None:
                raise UsageError("needs samples, and there are none", where=option, fix="use --sensor serial:PATH")
    return _measure(given, sensor, out)


def _measure(given: argparse.Namespace, sensor: str, out: Path | None) -> int:
    for_s = None if given.period is None else duration_s(given.period, "--for", most_s=_LONGEST_S)
    baseline_s = None if given.baseline is None else duration_s(given.baseline, "--baseline", most_s=_LONGEST_S)
    to_stdout = given.json == "-"
    with SignalQueue() as signals:
        # Only now: threads that numpy and the meter start must begin with the signals blocked.
        from edge_runtime.measure.display import LiveLine
        from edge_runtime.measure.envelope import Envelope
        from edge_runtime.measure.measure_opening import opened
        from edge_runtime.measure.measurement import INCOMPLETE, measure
        from edge_runtime.measure.report import document, lines
        from edge_runtime.power.wiring import explained

        envelope = Envelope() if given.plot is not None else None
        with opened(sensor, record=given.record, envelope=envelope) as meter:
            begun = meter.meter.identity
            if begun.method != "measured":
                print(f"edge-runtime: {_warning(begun)}", file=sys.stderr)
            live = LiveLine(sys.stderr) if _may_draw(bool(given.words), to_stdout, environ=os.environ) else None
            try:
                result = measure(
                    meter,
                    signals,
                    for_s=for_s,
                    command=given.words,
                    command_stdout=sys.stderr.fileno() if to_stdout and given.words else None,
                    baseline_s=baseline_s,
                    show=live.show if live else None,
                )
            finally:
                if live:
                    live.clear()
            for flag in result.main.energy.flags:
                # Of a sensor that was wrong from the beginning it has been said.
                if flag != begun.quality and (why := explained(flag)) != flag:
                    print(f"edge-runtime: {result.main.energy.sensor} did not see the load: {why}", file=sys.stderr)
        if meter.warning is not None:
            print(f"edge-runtime: {meter.warning}", file=sys.stderr)
            result = result.flagged(INCOMPLETE)
    _hand_out(document(result), lines(result), given.json, out)
    if envelope is not None:
        from edge_runtime.measure.plot import draw

        draw(given.plot, envelope, result.periods, title=" ".join(given.words))
    return result.exit_code or 0


def _replay(given: argparse.Namespace, path: Path, out: Path | None) -> int:
    for option, value in (("--for", given.period), ("--baseline", given.baseline), ("--record", given.record)):
        if value is not None:
            raise UsageError("a recording has its own time", where=option, fix="leave it out with replay:FILE")
    if given.words:
        raise UsageError("a recording has its own time", where="--sensor", fix="leave out the command")
    from edge_runtime.measure.display import replay_lines
    from edge_runtime.measure.envelope import Envelope
    from edge_runtime.measure.replay import foreign, foreign_document, recorded, recording_facts
    from edge_runtime.measure.report import document, lines

    if given.format is not None:
        if given.plot is not None:
            raise UsageError("is for our own recordings", where="--plot", fix="leave it out with --format")
        replay = foreign(path, given.format, given.windows, given.volts)
        _hand_out(foreign_document(path, given.format, replay), replay_lines(replay), given.json, out)
        return 0
    for option, value in (("--windows", given.windows), ("--volts", given.volts)):
        if value is not None:
            fix = "add --format mlperf-tiny or csv"
            raise UsageError("is for a file of another instrument", where=option, fix=fix)
    envelope = Envelope() if given.plot is not None else None
    result, replayed = recorded(path, envelope)
    facts = recording_facts(path, replayed)
    _hand_out(document(result) | {"recording": facts}, lines(result), given.json, out)
    if envelope is not None:
        from edge_runtime.measure.plot import draw

        draw(given.plot, envelope, result.periods, title=" ".join(result.command or ()))
    return 0


def _warning(identity: MeterIdentity) -> str:
    from edge_runtime.power.wiring import FIXES, explained

    if identity.quality in FIXES:
        return f"{identity.sensor} does not see the load: {explained(identity.quality)}"
    if identity.method == "estimated":
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
