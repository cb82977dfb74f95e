"""Putting an image onto a bridge, and asking a bridge which image it runs.

First it is asked what runs there: newer firmware, or a build of changed sources, is not replaced without ``force``.
Afterwards it must say the build id of the image; a write that was verified is not enough.

The USB drive of a bootloader: finding it, and copying a UF2 image onto it.

A board with a boot ROM for UF2 (RP2040: hold BOOTSEL while plugging in) shows a FAT drive with ``INFO_UF2.TXT``. It
flashes blocks as they are written and restarts after the last one, so the drive may vanish before the copy is closed.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_tools.bridge.client.wiretap import NoAnswer, read_hello, send_command
from firmware_tools.bridge.images.avrdude import BAUD, avrdude_line, require_avrdude, run_avrdude
from firmware_tools.bridge.images.chosen_image import BOARD_CODES, ChosenImage
from firmware_tools.bridge.images.uf2 import unpack
from protos.bridge.commands import BOOTLOADER_KEY, Command, command
from protos.bridge.hello import PROTOCOL, Feature
from protos.errors import DataError, MismatchError, RefusedError, SensorError, UsageError

__all__ = [
    "ASK_S",
    "BACK_S",
    "INFO",
    "MOUNTS",
    "Outcome",
    "board_id",
    "check_hello",
    "copy_image",
    "find_drives",
    "flash_by_drive",
    "flash_by_serial",
    "verify",
]

INFO = "INFO_UF2.TXT"
MOUNTS = Path("/proc/self/mounts")
_FAT = frozenset({"vfat", "msdos", "exfat"})
_GONE = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOENT})


def find_drives(board: str = "RPI-RP2", *, mounts: Path = MOUNTS) -> list[Path]:
    """Mounted drives of boards in their bootloader, in order of mounting.

    Args:
        board: what their ``Board-ID`` begins with.
        mounts: table in the form of ``/proc/self/mounts``. Only FAT is looked at: a dead network share would hang us.
    """
    return [folder for folder in _fat_folders(mounts) if (told := board_id(folder)) and told.startswith(board)]


def board_id(folder: Path) -> str | None:
    """``Board-ID`` of the drive at ``folder``; None when it is no such drive."""
    try:
        text = (folder / INFO).read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^Board-ID:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else None


def copy_image(data: bytes, folder: Path, name: str) -> Path:
    """Copy a UF2 file onto a drive and wait until all of it has left this computer; the path it was given there.

    Raises:
        DataError: ``data`` is no UF2 of one RP2040 image.
        UsageError: ``folder`` is no drive of a bootloader.
        SensorError: the drive went away before the last block, is full, or may not be written.
    """
    unpack(data, where=name)
    if board_id(folder) is None:
        raise UsageError(
            f"has no {INFO}", where=str(folder), fix="plug the board in with BOOTSEL held, mount its drive"
        )
    path = folder / name
    written = 0
    try:
        # Not a temporary file and a rename: the board restarts at the last block.
        with open(path, "wb", buffering=0) as file:
            while written < len(data):
                written += file.write(data[written:])
            os.fsync(file.fileno())
    except OSError as cause:
        if written < len(data) or cause.errno not in _GONE:
            raise SensorError(
                f"the copy failed after {written} of {len(data)} bytes ({cause.strerror})", where=str(path),
                fix="plug the board in again with BOOTSEL held",
            ) from cause  # fmt: skip
    return path


def _fat_folders(mounts: Path) -> Iterable[Path]:
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError as cause:
        raise DataError(
            f"cannot be read: {cause.strerror}", where=str(mounts), fix="name the drive by --volume"
        ) from cause
    for line in lines:
        _, folder, kind, *_ = [*line.split(), "", "", ""]
        if kind in _FAT:
            yield Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), folder))


ASK_S = 4.0
"""A board that opening the port resets is in its bootloader for 1 s before it says anything."""
BACK_S = 10.0
"""To start, and for its port to come back."""
DRIVE_S = 10.0
CHANGED_SOURCES = 1

Hello = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done.

    Args:
        action: the very command, or the copy, that writes the image.
        before: HELLO before; None when nobody answered or nobody was asked.
        after: HELLO after; None when nothing was written, or there is no port to ask.
        written: whether the flash was written.
    """

    action: str
    before: Hello | None
    after: Hello | None
    written: bool


def flash_by_serial(
    port: str, wanted: ChosenImage, *, say: Say, baud: int = BAUD, force: bool = False, dry_run: bool = False,
    log: Path | None = None, back_s: float = BACK_S,
) -> Outcome:  # fmt: skip
    """Flash an AVR through its serial bootloader.

    Raises:
        RefusedError: what runs there is not to be replaced, or is another kind of board.
        SensorError: the port does not open.
        EdgejouleError: avrdude is not installed.
        FlashError, MismatchError: it was not written; or it was, and the board does not run it.
    """
    require_avrdude()
    line = avrdude_line(port, wanted.path, baud=baud)
    action = shlex.join(line)
    before = _before(port, wanted, say, force=force)
    say(f"command  {action}")
    if dry_run or _runs_already(before, wanted, say, force=force):
        return Outcome(action, before, None, False)
    run_avrdude(line, log=log)
    say("written, read back, the same")
    return Outcome(action, before, check_hello(port, wanted, say, wait_s=back_s), True)


def flash_by_drive(
    port: str | None, volume: Path | None, wanted: ChosenImage, *, say: Say, force: bool = False, dry_run: bool = False,
    back_s: float = BACK_S, drive_s: float = DRIVE_S,
) -> Outcome:  # fmt: skip
    """Flash a board whose bootloader is a USB drive.

    Args:
        port: of the bridge; it is asked what it runs, and told to go into its bootloader when it can do that itself.
        volume: folder of the drive; None looks for it among the mounts.

    Raises:
        RefusedError: what runs there is not to be replaced, or is another kind of board.
        UsageError: more than one drive.
        SensorError: no drive, or it went away too early.
        MismatchError: the board does not run the image.
    """
    before = None
    if port is not None and Path(port).exists():
        before = _before(port, wanted, say, force=force)
    name = wanted.path.name
    action = shlex.join(["cp", str(wanted.path), f"{volume or 'RPI-RP2'}/{name}"])
    if dry_run or _runs_already(before, wanted, say, force=force):
        say(f"command  {action}")
        return Outcome(action, before, None, False)
    sent = port is not None and before is not None and bool(before["features"] & Feature.BOOTLOADER)
    if port is not None and sent:
        send_command(port, command(Command.REBOOT, BOOTLOADER_KEY))
        say("told it to go into its bootloader")
    folder = _drive(volume, wait_s=drive_s if sent else 0.0)
    action = shlex.join(["cp", str(wanted.path), str(folder / name)])
    say(f"command  {action}")
    copy_image(wanted.data, folder, name)
    say("copied")
    if port is None:
        say("not asked what it runs now: no --port (that of the USB-UART adapter at GP0 and GP1; its own USB has none)")
        return Outcome(action, before, None, True)
    return Outcome(action, before, check_hello(port, wanted, say, wait_s=back_s), True)


def verify(port: str, wanted: ChosenImage, *, say: Say, read: bool = False, baud: int = BAUD, wait_s: float) -> Hello:
    """HELLO of a bridge that runs the image.

    Args:
        read: compare the flash as well, byte by byte, through the bootloader.

    Raises:
        MismatchError: it runs or holds something else.
        SensorError: nobody answers.
        FlashError: the flash could not be read.
    """
    hello = read_hello(port, wait_s)
    _compare(port, hello, wanted)
    say(f"runs     {_named(hello)}")
    if read:
        require_avrdude()
        line = avrdude_line(port, wanted.path, baud=baud, write=False)
        say(f"command  {shlex.join(line)}")
        run_avrdude(line)
        say("read back, the same")
    return hello


def check_hello(port: str, wanted: ChosenImage, say: Say, *, wait_s: float) -> Hello:
    """Wait for the board to come back and say the build id of the image.

    Raises:
        MismatchError: it says another one, or nothing.
    """
    end_s = time.monotonic() + wait_s
    while True:
        try:
            hello = read_hello(port, max(0.5, end_s - time.monotonic()))
            break
        except SensorError as cause:
            if time.monotonic() >= end_s:
                raise MismatchError(
                    f"written, but it does not say HELLO ({cause.what})",
                    where=port,
                    fix="pull the cable, and try again",
                ) from cause
            time.sleep(0.1)
    _compare(port, hello, wanted)
    say(f"runs     {_named(hello)}")
    return hello


def _before(port: str, wanted: ChosenImage, say: Say, *, force: bool) -> Hello | None:
    try:
        hello = read_hello(port, ASK_S)
    except NoAnswer:
        say(f"before   nobody says HELLO on {port}: empty, or another program")
        return None
    say(f"before   {_named(hello)}")
    if hello["board"] not in (0, BOARD_CODES[wanted.board]):
        raise RefusedError(
            f"board {hello['board']:#04x} is no {wanted.board}", where=port, fix="choose its --board, or another port"
        )
    if not force and (reason := _objection(hello, wanted)):
        raise RefusedError(reason, where=port, fix="add --force to replace it")
    return hello


def _objection(hello: Hello, wanted: ChosenImage) -> str | None:
    if hello["protocol"][0] > PROTOCOL[0]:
        return f"it speaks protocol {hello['protocol'][0]}, newer than this program's {PROTOCOL[0]}"
    if hello["flags"] & CHANGED_SOURCES:
        return "it runs a build of changed sources, which no release can bring back"
    if wanted.version is not None and tuple(hello["firmware"]) > wanted.version:
        return f"it runs firmware {_version(hello)}, newer than {wanted.firmware}"
    return None


def _runs_already(hello: Hello | None, wanted: ChosenImage, say: Say, *, force: bool) -> bool:
    if force or hello is None or hello["build"] != wanted.build_id:
        return False
    say("nothing to do: it runs this build already")
    return True


def _compare(port: str, hello: Hello, wanted: ChosenImage) -> None:
    if hello["build"] != wanted.build_id:
        raise MismatchError(
            f"runs {_named(hello)}, the image is build {wanted.build_id}", where=port,
            fix=f"firmware-tools bridge flash --board {wanted.board} --port {port}",
        )  # fmt: skip


def _drive(volume: Path | None, *, wait_s: float) -> Path:
    """The drive of the one board in its bootloader, or ``volume`` once it is such a drive."""
    end_s = time.monotonic() + wait_s
    while not (found := find_drives() if volume is None else [volume] if board_id(volume) else []):
        if time.monotonic() >= end_s:
            raise SensorError(
                "no RP2040 in its bootloader", where=str(volume or "mounted drives"),
                fix="hold BOOTSEL while plugging it in, mount its drive RPI-RP2, and name it by --volume",
            )  # fmt: skip
        time.sleep(0.2)
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} boards are in their bootloader", where="bridge flash",
            fix=f"choose by --volume: {', '.join(map(str, found))}",
        )  # fmt: skip
    return found[0]


def _named(hello: Hello) -> str:
    changed = ", changed sources" if hello["flags"] & CHANGED_SOURCES else ""
    return f"firmware {_version(hello)}, build {hello['build']}{changed}"


def _version(hello: Hello) -> str:
    return ".".join(map(str, hello["firmware"]))
