"""``firmware-tools bridge flash`` and ``verify``: put the firmware onto a board; show that a board runs it."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_tools.bridge.images.avrdude import BAUD, OLD_BAUD
from firmware_tools.bridge.images.chosen_image import BOARD_CODES, ChosenImage, wanted_image
from firmware_tools.bridge.images.flash import BACK_S, flash_by_drive, flash_by_serial, verify
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_flash", "add_verify"]

_FLASH = """\
examples:
  firmware-tools bridge flash --port /dev/ttyUSB0 --dry-run
  firmware-tools bridge flash --port /dev/ttyUSB0
  firmware-tools bridge flash --port /dev/ttyUSB0 --old-bootloader        # Nanos made before 2018
  firmware-tools bridge flash --board rp2040 --volume /media/pi/RPI-RP2   # plugged in with BOOTSEL held
an rp2040 measures over a USB-UART adapter (3.3 V) at GP0 and GP1: --port is the adapter's; its own USB is the drive
exit codes: 0 done, or it runs this build already; 1 no avrdude; 7 the image is not the one of its manifest;
14 no such port or drive; 16 what runs there is newer, changed, or another board;
20 not written; 21 holds or runs another build"""

_VERIFY = """\
examples:
  firmware-tools bridge verify --port /dev/ttyUSB0
  firmware-tools bridge verify --port /dev/ttyUSB0 --read
exit codes: 0 it runs the image; 14 nobody answers; 20 the flash could not be read; 21 it runs or holds another one"""


def add_flash(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``flash``; it sets ``run``."""
    parser = verbs.add_parser(
        "flash",
        help="put the firmware onto a board",
        description="Flash the committed image, or another, and check that the board then says so.",
        epilog=_FLASH,
        formatter_class=HelpFormatter,
    )
    _add_image(parser)
    parser.add_argument("--port", help="serial port of the board")
    parser.add_argument(
        "--volume", type=Path, metavar="DIR", help="drive of an RP2040 in its bootloader (default: looked for)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check image and board, print the command, write nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace newer or changed firmware; write the same again")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep what avrdude says")
    parser.add_argument(
        "--wait", type=float, default=BACK_S, metavar="SECONDS", help=f"for the board to come back (default {BACK_S:g})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_flash)


def add_verify(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``verify``; it sets ``run``."""
    parser = verbs.add_parser(
        "verify",
        help="does a board run this firmware",
        description="Compare what a board says it runs with the committed image, or another.",
        epilog=_VERIFY,
        formatter_class=HelpFormatter,
    )
    _add_image(parser)
    parser.add_argument("--port", required=True, help="serial port of the board")
    parser.add_argument("--read", action="store_true", help="compare the flash too, by avrdude (atmega328p)")
    parser.add_argument("--wait", type=float, default=4.0, metavar="SECONDS", help="for its answer (default 4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_verify)


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", choices=sorted(BOARD_CODES), default="atmega328p", help="(default atmega328p)")
    parser.add_argument(
        "--hex", type=Path, metavar="FILE",
        help="image of bridge build, Intel hex or (rp2040) UF2 (default: the one that comes with this program)",
    )  # fmt: skip
    parser.add_argument(
        "--old-bootloader", dest="baud", action="store_const", const=OLD_BAUD, default=BAUD,
        help=f"the board's bootloader runs at {OLD_BAUD} baud, not {BAUD}",
    )  # fmt: skip


def _flash(args: argparse.Namespace) -> int:
    wanted = wanted_image(args.board, args.hex)
    say = _say(args, wanted)
    if args.board == "rp2040":
        outcome = flash_by_drive(
            args.port, args.volume, wanted, say=say, force=args.force, dry_run=args.dry_run, back_s=args.wait
        )
    else:
        if args.port is None or args.volume is not None:
            raise UsageError(
                f"{args.board} is flashed over its port", where="bridge flash", fix="give --port PATH only"
            )
        outcome = flash_by_serial(
            args.port, wanted, say=say, baud=args.baud, force=args.force, dry_run=args.dry_run, log=args.log,
            back_s=args.wait,
        )  # fmt: skip
    if args.json:
        told = {"command": outcome.action, "before": outcome.before, "after": outcome.after, "written": outcome.written}
        print(json.dumps(document("bridge-flash", _image(wanted) | told)))
    return 0


def _verify(args: argparse.Namespace) -> int:
    if args.read and args.board != "atmega328p":
        raise UsageError(
            f"the drive of an {args.board} gives no flash back", where="--read", fix="leave it away, or use picotool"
        )
    wanted = wanted_image(args.board, args.hex)
    hello = verify(
        args.port, wanted, say=_say(args, wanted), read=args.read, baud=args.baud, wait_s=args.wait
    )  # fmt: skip
    if args.json:
        print(json.dumps(document("bridge-verify", _image(wanted) | {"running": hello, "read_back": args.read})))
    return 0


def _say(args: argparse.Namespace, wanted: ChosenImage) -> Callable[[str], None]:
    """Prints each step as it is done; with --json nothing but the end is printed."""
    if args.json:
        return lambda text: None
    known = f"firmware {wanted.firmware}, " if wanted.firmware else ""
    print(f"image    {wanted.path.name}: {known}build {wanted.build_id}", flush=True)
    return lambda text: print(text, flush=True)


def _image(wanted: ChosenImage) -> dict[str, str | None]:
    return {
        "board": wanted.board,
        "image": str(wanted.path),
        "sha256": hashlib.sha256(wanted.data).hexdigest(),
        "build_id": wanted.build_id,
        "firmware": wanted.firmware,
    }
