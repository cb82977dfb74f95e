"""``firmware-tools bridge decode``: print the messages of a captured byte stream."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_tools.bridge.client.wiretap import decode_capture
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import DataError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_decode"]


def add_decode(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``decode``; it sets ``run``."""
    decode = verbs.add_parser(
        "decode",
        help="print the messages of a captured byte stream",
        epilog="example:\n  firmware-tools bridge decode capture.bin --json | head",
        formatter_class=HelpFormatter,
    )
    decode.add_argument("file", type=Path, help="bytes as they came from the port; - for standard input")
    decode.add_argument("--json", action="store_true", help="one JSON object per line")
    decode.set_defaults(run=_decode)


def _decode(args: argparse.Namespace) -> int:
    try:
        data = sys.stdin.buffer.read() if str(args.file) == "-" else args.file.read_bytes()
    except OSError as cause:
        raise DataError(f"cannot be read: {cause.strerror}", where=str(args.file), fix="check the path") from cause
    messages, drops = decode_capture(data)
    for message in messages:
        if args.json:
            print(json.dumps(document("bridge-message", message)))
        else:
            print(message.pop("type"), *(f"{key}={value}" for key, value in message.items()))
    print(
        f"{len(messages)} messages; dropped: {drops.crc} by check, {drops.framing} by framing, "
        f"{drops.oversize} too long, {drops.skipped_bytes} bytes before the first frame",
        file=sys.stderr,
    )
    return 0
