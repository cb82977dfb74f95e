"""The words of `predict` and `bench`, apart from what they do: a command line must answer without numpy."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_runtime.config import SERVICE_CONFIG

__all__ = ["BENCH_EXAMPLE", "PREDICT_EXAMPLE", "add_bench", "add_place", "add_predict"]

PREDICT_EXAMPLE = """examples:
  edge-runtime predict photo.jpg
  edge-runtime predict --top 3 --json photos/
  edge-runtime predict examples.npz --energy
  cat photo.jpg | edge-runtime predict -

An .npz file has its examples in `x`. A folder means every image below it, or recording
where the model takes sound. `-` reads one image file from stdin."""
BENCH_EXAMPLE = """example:
  edge-runtime bench --seconds 30 --sensor serial:/dev/ttyUSB0

Stop the daemon first: it has the sensor, and its work would be in the figures. The board rests, is warmed up, measured,
and rests again; joules of a prediction are those beyond the board at rest. Unknown figures are ? and null."""


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options that name the state folder."""
    parser.add_argument("--state", metavar="DIR", help="state folder of the device (or EDGEJOULE_STATE, or --config)")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"settings of the device (default EDGEJOULE_CONFIG, or {SERVICE_CONFIG}, if there)",
    )


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Put the options of ``predict`` on a parser."""
    parser.add_argument("what", nargs="+", metavar="WHAT", help="IMAGE, FILE.npz, FOLDER, or - for stdin")
    parser.add_argument("--top", metavar="K", type=int, default=1, help="the best K classes of each (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each on stdout")
    parser.add_argument("--energy", action="store_true", help="with the joules of each prediction")
    add_place(parser)


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Put the options of ``bench`` on a parser."""
    parser.add_argument("--seconds", metavar="N", type=float, default=30.0, help="seconds of predictions (default 30)")
    parser.add_argument("--sensor", metavar="SPEC", help="what measures; that of the settings if not given")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    add_place(parser)
