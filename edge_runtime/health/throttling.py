"""Whether the board runs slower than it could, and whether its supply sags.

What a Raspberry Pi's firmware says, as bits (raspberrypi.com, "vcgencmd", get_throttled):

    0  under-voltage now                16  the same, earlier
    1  clock of the processor capped    17
    2  throttled                        18
    3  soft limit of temperature        19

Bit 2 stands for both causes, too hot and too little voltage (raspberrypi/firmware issue 615): with bit 0, waiting until
the board is cool mends nothing. Bit 3 alone is usual on a Pi 3B+ from 60 degrees on.

Where the bits come from:

* ``vcgencmd get_throttled`` asks the firmware through ``/dev/vcio``; "earlier" means since the start of the board.
* ``.../soc:firmware/get_throttled`` of Raspberry Pi's kernel, hexadecimal without 0x. It is what the kernel's voltage
  driver got when it last asked, which it does every two seconds while it clears the history: "earlier" means since the
  look before. The first reading after a start leaves a warning "deprecated" in the kernel's log and no other harm
  (drivers/firmware/raspberrypi.c, raspberrypi/linux pull requests 2397 and 2706).
* hwmon ``rpi_volt``, ``in0_lcrit_alarm``: under-voltage in the last two seconds, in every kernel since 4.19
  (drivers/hwmon/raspberrypi-hwmon.c).
* ``/sys/class/thermal/cooling_deviceN``, for other boards: above 0, the kernel itself holds the clock down for heat.
* cpufreq: with the governor ``performance`` the clock is the highest there is, or something holds it down. Under other
  governors a low clock says nothing, so it is not asked there.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Protocol

__all__ = ["SOURCES", "Bits", "Throttling", "ThrottlingSource", "decode", "find_sources", "read_all", "vcgencmd"]

SOURCES = ("kernel", "vcgencmd", "none")
"""What the setting ``throttled_from`` may say."""
COMMAND = ("vcgencmd", "get_throttled")
ANSWER_S = 2.0
VCGENCMD_EVERY_S = 5.0
"""Starting a program costs milliseconds of processor time, a file microseconds."""
_FIRMWARE = ("soc*/soc*:firmware/get_throttled", "scb*/soc*:firmware/get_throttled")
# Drivers whose clock is what the table says; others go above their nominal clock and back at will.
_PLAIN_DRIVERS = ("cpufreq-dt", "scmi", "scpi-cpufreq", "mtk-cpufreq")
_SLOW = 0.95


class Bits(IntFlag):
    """The firmware's bits 0 to 3."""

    UNDER_VOLTAGE = 1
    CAPPED = 2
    THROTTLED = 4
    SOFT_LIMIT = 8


_NOTHING = Bits(0)


@dataclass(frozen=True, slots=True)
class Throttling:
    """What is known of it.

    Attributes:
        now: at this moment.
        earlier: since the board was started, or since the kernel last looked; see the module.
        sources: who said so; empty when nobody can.
    """

    now: Bits = _NOTHING
    earlier: Bits = _NOTHING
    sources: tuple[str, ...] = ()

    @property
    def under_voltage(self) -> bool:
        return bool(self.now & Bits.UNDER_VOLTAGE)

    @property
    def slowed(self) -> bool:
        """The clock is lower than it could be, whatever the cause."""
        return bool(self.now & (Bits.CAPPED | Bits.THROTTLED | Bits.SOFT_LIMIT))

    @property
    def slowed_by_heat(self) -> bool:
        """It is held down, and not for want of voltage."""
        return bool(self.now & (Bits.CAPPED | Bits.THROTTLED)) and not self.under_voltage


class ThrottlingSource(Protocol):
    """One place that tells."""

    name: str

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        """Bits of now and of earlier, or None when it does not tell."""
        ...


def decode(text: str) -> tuple[Bits, Bits]:
    """The firmware's number: of ``vcgencmd``, or of the kernel's file.

    Raises:
        ValueError: it is none.

    >>> decode("throttled=0x50004")
    (<Bits.THROTTLED: 4>, <Bits.UNDER_VOLTAGE|THROTTLED: 5>)
    >>> decode("80008")
    (<Bits.SOFT_LIMIT: 8>, <Bits.SOFT_LIMIT: 8>)
    """
    value = int(text.strip().rpartition("=")[2], 16)
    return Bits(value & 0xF), Bits(value >> 16 & 0xF)


class _FirmwareFile:
    name = "kernel"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        try:
            return decode(self._path.read_text())
        except (OSError, ValueError):
            return None


class _VoltageAlarm:
    name = "rpi_volt"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        value = _number(self._path)
        return None if value is None else (Bits.UNDER_VOLTAGE if value else _NOTHING, _NOTHING)


class _Cooling:
    name = "cooling"

    def __init__(self, devices: Sequence[Path]) -> None:
        self._states = [device / "cur_state" for device in devices]

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        values = [value for value in map(_number, self._states) if value is not None]
        return (Bits.THROTTLED if any(values) else _NOTHING, _NOTHING) if values else None


class _FullClock:
    name = "cpufreq"

    def __init__(self, policies: Sequence[Path]) -> None:
        self._policies = policies

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        slow, known = False, False
        for policy in self._policies:
            current, most = _number(policy / "scaling_cur_freq"), _number(policy / "cpuinfo_max_freq")
            if _text(policy / "scaling_governor") == "performance" and current is not None and most:
                known, slow = True, slow or current < _SLOW * most
        return (Bits.CAPPED if slow else _NOTHING, _NOTHING) if known else None


class _Vcgencmd:
    name = "vcgencmd"

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._next_s: float | None = None
        self._last: tuple[Bits, Bits] | None = None

    def read(self, now_s: float) -> tuple[Bits, Bits] | None:
        if self._next_s is None or now_s >= self._next_s:
            self._next_s = now_s + VCGENCMD_EVERY_S
            self._last = vcgencmd(self._command)
        return self._last


def vcgencmd(command: Sequence[str] = COMMAND) -> tuple[Bits, Bits] | None:
    """Ask the firmware; None when the program is not there, may not ask, or does not answer in two seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
        return decode(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def find_sources(sysfs: Path, source: str = "kernel", *, command: Sequence[str] = COMMAND) -> list[ThrottlingSource]:
    """All that this machine has.

    Args:
        sysfs: ``/sys``, or a folder like it.
        source: of :data:`SOURCES`; ``vcgencmd`` asks that program beside the kernel's files.
    """
    if source == "none":
        return []
    found: list[ThrottlingSource] = [_Vcgencmd(command)] if source == "vcgencmd" else []
    platform = sysfs / "devices" / "platform"
    found += [_FirmwareFile(path) for pattern in _FIRMWARE for path in sorted(platform.glob(pattern))]
    for folder in sorted((sysfs / "class" / "hwmon").glob("hwmon*")):
        if _text(folder / "name") == "rpi_volt":
            found.append(_VoltageAlarm(folder / "in0_lcrit_alarm"))
    cooling = sorted((sysfs / "class" / "thermal").glob("cooling_device*"))
    if cpu := [path for path in cooling if re.search(r"cpufreq|^Processor$", _text(path / "type"))]:
        found.append(_Cooling(cpu))
    policies = sorted((sysfs / "devices" / "system" / "cpu" / "cpufreq").glob("policy*"))
    if plain := [policy for policy in policies if _text(policy / "scaling_driver") in _PLAIN_DRIVERS]:
        found.append(_FullClock(plain))
    return found


def read_all(sources: Sequence[ThrottlingSource], now_s: float) -> Throttling:
    """What the sources say together: a bit is set when one of them sets it."""
    now, earlier = _NOTHING, _NOTHING
    told: list[str] = []
    for source in sources:
        if (found := source.read(now_s)) is not None:
            now, earlier = now | found[0], earlier | found[1]
            told.append(source.name)
    return Throttling(now, earlier, tuple(told))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
