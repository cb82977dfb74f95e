"""``measure --sensor replay:FILE``: a recording measured again, or a file of another instrument integrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from edge_runtime.measure.envelope import Envelope
from edge_runtime.measure.instruments.csv_trace import integrate_csv
from edge_runtime.measure.instruments.energy_runner import Replay, Window, integrate_trace, read_windows
from edge_runtime.measure.measurement import AFTER, BEFORE, Ended, Measurement
from edge_runtime.measure.replayed_period import Replayed, replay_periods
from edge_runtime.power.events import Block, Event
from protos.errors import UsageError

__all__ = ["FORMATS", "foreign", "foreign_document", "recorded", "recording_facts"]

FORMATS = ("mlperf-tiny", "csv")


def recorded(path: Path, envelope: Envelope | None = None) -> tuple[Measurement, Replayed]:
    """Measure a recording again; its curve goes into ``envelope``.

    Raises:
        DataError: the file is no recording, or cannot be read.
        SensorError: it holds no sample.
    """

    def hear(event: Event) -> None:
        if envelope is not None and isinstance(event, Block):
            envelope.add(event.trace)

    replayed = replay_periods(path, hear)
    by_name = {period.name: period for period in replayed.periods}
    main = next((period for period in replayed.periods if period.name not in (BEFORE, AFTER)), replayed.periods[-1])
    facts = replayed.facts
    command, code = facts.get("command"), facts.get("exit_code")
    ended: Ended = "recording"
    for word in get_args(Ended):
        ended = word if facts.get("ended") == word else ended
    words = tuple(map(str, command)) if isinstance(command, list) else None
    result = Measurement(
        main,
        replayed.identity,
        ended,
        words,
        code if isinstance(code, int) else None,
        by_name.get(BEFORE),
        by_name.get(AFTER),
    )
    return result, replayed


def recording_facts(path: Path, replayed: Replayed) -> dict[str, Any]:
    """What a report says of the recording that it rests on."""
    header = replayed.header
    return {
        "file": str(path),
        "begun_utc": header.begun_utc,
        "board": header.board,
        "software": header.software,
        "damage": asdict(replayed.damage),
    }


def foreign(path: Path, form: str, windows: Path | None, supply_v: float | None) -> Replay:
    """Integrate a file of another instrument, whole and over windows.

    Raises:
        UsageError: an unknown format, or ``--volts`` with one that has volts.
        DataError: the file, or that of the windows, cannot be read or is not of this format.
    """
    if form not in FORMATS:
        raise UsageError(f"{form!r} is not known", where="--format", fix=f"use {' or '.join(FORMATS)}")
    if supply_v is not None and not 0 < supply_v <= 1000:
        raise UsageError(f"{supply_v:g} is no supply voltage", where="--volts", fix="give volts over 0, such as 5.0")
    rows: Sequence[Window] = read_windows(windows) if windows is not None else ()
    if form == "csv":
        return integrate_csv(path, rows, supply_v=supply_v)
    if supply_v is not None:
        raise UsageError("is for --format csv", where="--volts", fix="leave it out")
    return integrate_trace(path, rows)


def foreign_document(path: Path, form: str, replay: Replay) -> dict[str, Any]:
    """The figures by name; unknown ones are None."""
    return {
        "schema": "edgejoule.replay/1",
        "sensor": f"replay:{path}",
        "format": form,
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
