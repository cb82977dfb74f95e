"""HELLO, the message in which a power bridge says who it is (layout: :mod:`protos.bridge.messages`)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from protos.energy.ina219 import Calibration

__all__ = [
    "MAGIC",
    "MAX_SENSORS",
    "PROTOCOL",
    "Feature",
    "Hello",
    "MalformedMessage",
    "ResetCause",
    "SensorRecord",
    "calibration_fields",
    "read_hello",
]

PROTOCOL = (1, 1)
MAGIC = b"EJPB"
MAX_SENSORS = 4
_HELLO = struct.Struct("<B4sBBBBBBB4s8s8sHHBHIQBBB")
_PREFIX = struct.Struct("<B4sBB")
_SENSOR = struct.Struct("<BHBIIiiH")


class MalformedMessage(ValueError):
    """A payload with a valid check that is no message of this protocol."""


class Feature(IntFlag):
    """What a bridge can do beyond protocol 1.0 (``features`` of HELLO)."""

    MARKER = 1
    """It has a marker input and sends MARKER."""
    PERSISTENT = 2
    """Calibration, range and uid survive a power cut."""
    CONFIG = 4
    """It takes SET_CONFIG and SET_RANGE."""
    HANG = 8
    """It takes the key of REBOOT that lets the watchdog bite (a test of recovery)."""
    BOOTLOADER = 16
    """It takes the key of REBOOT that ends in its bootloader."""
    DITHER = 32
    """It varies the rhythm of conversions, so that no periodic load can lock to it."""


class ResetCause(IntFlag):
    """Why the bridge started (bits of the ATmega's MCUSR)."""

    POWER_ON = 1
    EXTERNAL = 2
    BROWN_OUT = 4
    WATCHDOG = 8


@dataclass(frozen=True, slots=True)
class SensorRecord:
    """One sensor of a bridge, as HELLO describes it."""

    address: int
    config: int
    state: int
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Hello:
    """Who the bridge is. Fields as in the module's table; of another major version only ``protocol`` is read."""

    firmware: tuple[int, int, int]
    boot: int
    tick: int
    profile: int
    sensors: tuple[SensorRecord, ...]
    protocol: tuple[int, int] = PROTOCOL
    board: int = 0
    flags: int = 0
    git: bytes = bytes(4)
    build: bytes = bytes(8)
    uid: bytes = bytes(8)
    boots: int = 1
    reset: int = ResetCause.POWER_ON
    features: int = 0
    tick_hz: int = 1_000_000
    batch: int = 16

    def encode(self) -> bytes:
        head = _HELLO.pack(
            0x01, MAGIC, *self.protocol, self.board, *self.firmware, self.flags, self.git, self.build, self.uid,
            self.boot, self.boots, self.reset, self.features, self.tick_hz, self.tick, self.profile, self.batch,
            len(self.sensors),
        )  # fmt: skip
        return head + b"".join(
            _SENSOR.pack(s.address, s.config, s.state, *calibration_fields(s.calibration)) for s in self.sensors
        )


def calibration_fields(calibration: Calibration) -> tuple[int, int, int, int, int]:
    return (
        calibration.id,
        calibration.shunt_uohm,
        calibration.offset_nv,
        calibration.gain_ppm,
        calibration.day,
    )


def read_hello(payload: bytes) -> Hello:
    """Read a HELLO; of another major version only the first four fields.

    Raises:
        MalformedMessage: no HELLO, or a value outside its range.
        struct.error: too short.
    """
    _, magic, major, minor = _PREFIX.unpack_from(payload)
    if magic != MAGIC:
        raise MalformedMessage("HELLO without its magic")
    if major != PROTOCOL[0]:
        return Hello((0, 0, 0), 0, 0, 0, (), (major, minor))
    fields = _HELLO.unpack_from(payload)
    (_, _, _, _, board, fw_major, fw_minor, fw_patch, flags, git, build, uid) = fields[:12]
    (boot, boots, reset, features, tick_hz, tick, profile, batch, count) = fields[12:]
    if not 1 <= count <= MAX_SENSORS or tick_hz == 0:
        raise MalformedMessage(f"HELLO with {count} sensors at {tick_hz} Hz")
    sensors = []
    for number in range(count):
        address, config, state, *rest = _SENSOR.unpack_from(payload, _HELLO.size + number * _SENSOR.size)
        calibration = Calibration(*rest)
        if calibration.shunt_uohm == 0:
            raise MalformedMessage("HELLO with a shunt of zero ohm")
        sensors.append(SensorRecord(address, config, state, calibration))
    return Hello(
        (fw_major, fw_minor, fw_patch), boot, tick, profile, tuple(sensors), (major, minor), board, flags,
        git, build, uid, boots, reset, features, tick_hz, batch,
    )  # fmt: skip
