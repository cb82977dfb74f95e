"""``firmware-tools inspect``: show a bundle from its files and re-check their hashes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from firmware_tools.child import run_in_child
from firmware_tools.inspect.text import lines
from protos.commands.program import HelpFormatter

_EXAMPLES = """\
examples:
  firmware-tools inspect bundle/
  firmware-tools inspect bundle/ --json | jq .backbone.operators
  firmware-tools inspect model.tflite

exit codes: 0 sound; 6 a model or the manifest is malformed; 7 a file is missing or changed"""


def add_command(commands: Any) -> None:
    """Add ``inspect`` to the sub-commands of an argparse parser."""
    parser = commands.add_parser(
        "inspect",
        help="show a bundle from its files and re-check its hashes",
        description="Show what a bundle (or one .tflite file) holds, read from its files, and re-check its hashes.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Read the bundle in a child process and print the report.

    Raises:
        ModelError: the bundle or a model in it is malformed.
        IntegrityError: a file is missing or changed.
    """
    path = options.bundle
    single = path.is_file() and path.suffix.lower() == ".tflite"
    report = run_in_child(
        f"firmware_tools.inspect.bundle:{'report_model' if single else 'report'}",
        {"model" if single else "bundle": str(path)},
        where=str(path),
        progress=lambda line: None,
    )
    print(json.dumps(report, indent=2) if options.json else "\n".join(lines(report)))
    return 0
