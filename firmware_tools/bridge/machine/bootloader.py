"""Optiboot, the bootloader of the Arduino Uno, for machines that are to be flashed over their serial line.

Debian ships its source and a binary for the ATmega328P, in the package arduino-core-avr. That binary is 20 bytes too
long for the 512 bytes it is linked into, so that its end is missing in any flash; the source is compiled here for the
1 kB boot section instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from firmware_tools.bridge.machine.build import cache_folder
from protos.errors import EdgejouleError

__all__ = ["SOURCE", "VARIABLE", "find_optiboot"]

VARIABLE = "EDGEJOULE_OPTIBOOT_HEX"
SOURCE = Path("/usr/share/arduino/hardware/arduino/avr/bootloaders/optiboot/optiboot.c")
_FLAGS = (
    "-Os", "-mmcu=atmega328p", "-DF_CPU=16000000L", "-DBAUD_RATE=115200", "-DLED_START_FLASHES=3", "-nostartfiles",
    "-fno-inline-small-functions", "-fno-split-wide-types", "-mrelax",
    "-Wl,--section-start=.text=0x7c00,--section-start=.version=0x7ffe",
)  # fmt: skip
_COPY = ("-j", ".text", "-j", ".version", "--set-section-flags", ".version=alloc,load", "-O", "ihex")


def find_optiboot(*, source: Path = SOURCE, cache: Path | None = None) -> Path:
    """Intel hex of Optiboot at 115,200 baud: the file that EDGEJOULE_OPTIBOOT_HEX names, or compiled from ``source``.

    Raises:
        EdgejouleError: neither is there, or it cannot be compiled.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise EdgejouleError("no such file", where=f"{VARIABLE}={named}", fix="correct or unset it")
        return Path(named)
    if not source.is_file():
        raise EdgejouleError(
            "Optiboot is not installed", where=str(source), fix=f"apt-get install arduino-core-avr, or set {VARIABLE}"
        )
    if shutil.which("avr-gcc") is None:
        raise EdgejouleError("avr-gcc is not installed", where="Optiboot", fix="apt-get install gcc-avr avr-libc")
    folder = cache or cache_folder()
    digest = hashlib.sha256(repr((_FLAGS, _COPY)).encode() + source.read_bytes()).hexdigest()[:16]
    finished = folder / f"optiboot-{digest}.hex"
    if finished.exists():
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        elf, hexadecimal = Path(temporary) / "optiboot.elf", Path(temporary) / "optiboot.hex"
        commands = (
            ["avr-gcc", *_FLAGS, "-o", str(elf), str(source)],
            ["avr-objcopy", *_COPY, str(elf), str(hexadecimal)],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EdgejouleError(f"{command[0]} failed: {done.stderr.strip()[-200:]}", where=str(source))
        hexadecimal.replace(finished)
    return finished
