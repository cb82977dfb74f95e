"""``firmware-tools bridge build``: make the firmware, or show that the committed image comes from these sources."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_tools.bridge.images.build import BOARDS, build, check
from firmware_tools.bridge.images.manifest import IMAGES, read_manifest, write_manifest
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_build"]

_EXAMPLES = """\
examples:
  firmware-tools bridge build --check
  firmware-tools bridge build --out /tmp/firmware
  firmware-tools bridge build --board rp2040 --out /tmp/firmware
exit codes: 0 done; 1 no compiler, or it refuses; 3 the committed image is not what these sources give"""


def add_build(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``build``; it sets ``run``."""
    parser = verbs.add_parser(
        "build",
        help="build the firmware of the bridge",
        description="Build the firmware. Without --out, the committed image and its manifest are replaced.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--board", default="atmega328p", help=f"{', '.join(BOARDS)} (default atmega328p)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="put the image and a manifest there")
    parser.add_argument("--check", action="store_true", help="build, compare with the committed image, write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_build)


def _build(args: argparse.Namespace) -> int:
    if args.check:
        if args.out is not None:
            raise UsageError("--check writes nothing", where="bridge build", fix="leave --out away")
        image = check(args.board)
        told = json.dumps(document("bridge-build", asdict(image)))
        print(told if args.json else f"{image.file}  {image.sha256}  comes from these sources")
        return 0
    folder = IMAGES if args.out is None else args.out
    built = build(args.board, release=args.out is None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(folder / built.image.file) as file:
            file.write(built.data)
        write_manifest(read_manifest(folder) | {args.board: built.image}, folder)
    except OSError as cause:
        raise UsageError(
            f"cannot be written: {cause.strerror}", where=str(folder), fix="choose another --out"
        ) from cause
    figures = {"flash_bytes": built.flash_bytes, "ram_bytes": built.ram_bytes, "changed": built.changed}
    if args.json:
        print(
            json.dumps(
                document("bridge-build", {"path": str(folder / built.image.file)} | asdict(built.image) | figures)
            )
        )
    else:
        print(f"{folder / built.image.file}  build {built.image.build_id}")
        print(f"{built.flash_bytes} bytes of flash, {built.ram_bytes} of RAM before the stack")
    return 0
