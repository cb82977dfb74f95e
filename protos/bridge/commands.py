"""Commands of the host to the power bridge, protocol 1.1 (see :mod:`protos.bridge.messages`).

Little-endian, packed, in the same frames::

    81 GET_HELLO    type u8                       answered by HELLO
    82 SYNC         type u8 | nonce u32           answered by SYNC
    83 SET_PROFILE  type u8 | profile u8          answered by ACK, then HELLO
    84 FLUSH        type u8 | sensor u8 (FF all)  answered by SAMPLES (what is there), STATS
    85 REBOOT       type u8 | key u16             answered by HELLO of the next boot
                    key B007h restarts; DEADh stops feeding the watchdog, which restarts it; B00Dh ends in the
                    bootloader; any other is refused
    86 SET_CALIBRATION  type u8 | sensor u8 | id u32 | shunt_uohm u32 | offset_nv i32 | gain_ppm i32 | day u16
                                                  answered by ACK, then HELLO
    87 SET_CONFIG   type u8 | sensor u8 (FF all) | config u16 | force u8 (0, 1)
                                                  answered by ACK, then HELLO. Until the next boot. Both conversions
                                                  continuous or BAD_VALUE; 12 bits for both REFUSED unless forced
    88 SET_RANGE    type u8 | sensor u8 (FF all) | pga u8 (0..3: 40, 80, 160, 320 mV)
                                                  answered by ACK, then HELLO. Kept beside the calibration
    89 SET_UID      type u8 | uid u8[8]           answered by ACK, then HELLO. Kept

87 to 89 since 1.1; a bridge of 1.0 answers ACK unknown.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from protos.bridge.hello import MalformedMessage, calibration_fields
from protos.energy.ina219 import Calibration

__all__ = [
    "ALL_SENSORS",
    "BOOTLOADER_KEY",
    "HANG_KEY",
    "REBOOT_KEY",
    "Command",
    "calibration_command",
    "command",
    "decode_command",
    "sync_command",
    "uid_command",
]

ALL_SENSORS = 0xFF
REBOOT_KEY = 0xB007
HANG_KEY = 0xDEAD
BOOTLOADER_KEY = 0xB00D

_COMMANDS = {
    0x81: struct.Struct("<B"),
    0x82: struct.Struct("<BI"),
    0x83: struct.Struct("<BB"),
    0x84: struct.Struct("<BB"),
    0x85: struct.Struct("<BH"),
    0x86: struct.Struct("<BBIIiiH"),
    0x87: struct.Struct("<BBHB"),
    0x88: struct.Struct("<BBB"),
    0x89: struct.Struct("<BQ"),
}


class Command(IntEnum):
    """Types of host-to-bridge messages."""

    GET_HELLO = 0x81
    SYNC = 0x82
    SET_PROFILE = 0x83
    FLUSH = 0x84
    REBOOT = 0x85
    SET_CALIBRATION = 0x86
    SET_CONFIG = 0x87
    SET_RANGE = 0x88
    SET_UID = 0x89


def command(kind: Command, *values: int) -> bytes:
    """A host-to-bridge message of ``kind`` with the fields of the table after its type.

    >>> command(Command.FLUSH, ALL_SENSORS).hex()
    '84ff'
    """
    return _COMMANDS[kind].pack(kind, *values)


def sync_command(nonce: int) -> bytes:
    """A SYNC request."""
    return command(Command.SYNC, nonce & 0xFFFFFFFF)


def calibration_command(sensor: int, calibration: Calibration) -> bytes:
    """A SET_CALIBRATION request."""
    return command(Command.SET_CALIBRATION, sensor, *calibration_fields(calibration))


def uid_command(uid: bytes) -> bytes:
    """A SET_UID request; ``uid`` has 8 bytes."""
    return command(Command.SET_UID, int.from_bytes(uid, "little"))


def decode_command(payload: bytes) -> tuple[Command, tuple[int, ...]]:
    """Read a host-to-bridge message: its kind and the fields after the type.

    Raises:
        MalformedMessage: unknown type or too short.
    """
    try:
        kind = Command(payload[0])
        return kind, _COMMANDS[kind].unpack_from(payload)[1:]
    except (ValueError, IndexError, struct.error) as cause:
        raise MalformedMessage(f"{len(payload)} bytes are no command") from cause
