"""What to simulate: sensors, board, line, and what can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from firmware_tools.bridge.machine.loads import PiecewiseLoad
from protos.errors import UsageError

__all__ = ["FAULTS", "USB", "MachineSpec", "SensorSpec", "Usb"]

Usb = Literal["none", "frames", "ftdi"]
USB: dict[str, int] = {"none": 0, "frames": 1, "ftdi": 2}

FAULTS = {
    "address-nack": "so many addresses of this sensor are not acknowledged",
    "data-nack": "so many data bytes to this sensor are not acknowledged",
    "arbitration": "so many times arbitration is lost",
    "absent": "the sensor does not answer",
    "wires-swapped": "VIN+ and VIN- are swapped",
    "minus-open": "nothing is connected to VIN-",
    "low-side": "the sensor is in the ground line",
    "bypassed": "the current flows past the shunt",
    "sda-stuck": "a slave holds SDA low until SCL has risen so often by hand (True: 9)",
    "sensor-brown-out": "the sensor's registers fall back to their power-on values",
    "i2c-flip": "probability that a byte on the bus has one bit changed",
    "to-host-flip": "probability that a byte to the host has one bit changed",
    "to-host-drop": "probability that a byte to the host is lost",
    "to-mcu-flip": "probability that a byte to the bridge has one bit changed",
    "to-mcu-drop": "probability that a byte to the bridge is lost",
}
"""What ``FirmwareMachine.fault`` knows."""


@dataclass(frozen=True, slots=True)
class SensorSpec:
    """One INA219 and what it measures.

    Args:
        load: text of :func:`~firmware_tools.bridge.machine.loads.parse_load`, or a load.
        address: 0x40 to 0x4F.
        shunt_ohm: what the shunt is nominally; its error is in ``gain``.
        supply_v: of an ideal supply.
        source_ohm: all resistance between that supply and IN-, shunt included; 0: the voltage at IN- is stiff.
        offset_v: shunt voltage read with no current.
        gain, bus_gain: relative errors of current (shunt included) and bus voltage.
        oscillator: relative error of the conversion times; the data sheet allows 0.1.
        noise_v: standard deviation of one 12-bit shunt conversion.
        absent: not on the bus at power-on.
    """

    load: str | PiecewiseLoad = "constant:2.5"
    address: int = 0x40
    shunt_ohm: float = 0.02
    supply_v: float = 5.0
    source_ohm: float = 0.0
    offset_v: float = 0.0
    gain: float = 0.0
    bus_gain: float = 0.0
    oscillator: float = 0.0
    noise_v: float = 0.0
    absent: bool = False

    def __post_init__(self) -> None:
        if not (0x40 <= self.address <= 0x4F and self.shunt_ohm > 0 and self.supply_v > 0 and self.source_ohm >= 0):
            raise UsageError(
                "a sensor needs an address in 0x40..0x4F, a shunt and a supply", where="sensor", fix="correct them"
            )
        if abs(self.oscillator) > 0.5 or self.noise_v < 0:
            raise UsageError("oscillator error over 50 %, or negative noise", where="sensor", fix="correct them")


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What to simulate.

    Args:
        hex: Intel hex file of the firmware; None leaves the flash empty: sensors only.
        sensors: one to four.
        bootloader: Intel hex file of a bootloader; resets then begin in it.
        seed: of noise, faults and the content of SRAM at power-on.
        crystal_ppm: how much faster than true time the microcontroller's clock runs.
        eeprom: file that keeps the EEPROM from one run to the next.
        usb: from the line to the host: "none" at once, "frames" of 1 ms, "ftdi" with its latency timer of 16 ms.
    """

    hex: Path | None
    sensors: tuple[SensorSpec, ...] = (SensorSpec(),)
    bootloader: Path | None = None
    seed: int = 0
    crystal_ppm: float = 0.0
    eeprom: Path | None = None
    usb: Usb = "none"

    def __post_init__(self) -> None:
        if not 1 <= len(self.sensors) <= 4 or len({s.address for s in self.sensors}) < len(self.sensors):
            raise UsageError("a bridge has one to four sensors, each with its address", fix="correct them")
        if self.usb not in USB:
            raise UsageError(f"unknown usb {self.usb!r}", where="usb", fix=f"use {', '.join(USB)}")
