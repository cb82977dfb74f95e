"""Messages of the power bridge, protocol 1.1. All integers little-endian, packed, sizes fixed.

Ticks are microseconds of the bridge's own clock since its boot. ``boot`` is a number that changes with each boot,
so that a restart is never mistaken for loss. A host refuses another *major* version; a higher *minor* may append
fields to the end of any message and add types, and a reader ignores both.

Bridge to host::

    01 HELLO    type u8 | magic "EJPB" | major u8 | minor u8    (these keep their place in every major version)
                | board u8 | firmware major u8, minor u8, patch u8 |
                flags u8 (1 built from changed sources, 2 setting forced) | git u8[4] | build u8[8] | uid u8[8] |
                boot u16 | boots u16 | reset u8 (1 power-on, 2 external, 4 brown-out, 8 watchdog) |
                features u16 (bits of :class:`protos.bridge.hello.Feature`) | tick_hz u32 | tick u64 |
                profile u8 (0: a setting of SET_CONFIG) | batch u8 | sensors u8 = N (1..4), then N times:
                  address u8 | config u16 | state u8 (0 working, 1 absent, 2 failing) | calibration id u32 |
                  shunt_uohm u32 | offset_nv i32 | gain_ppm i32 | day u16
    02 SAMPLES  type u8 | sensor u8 | boot u16 | seq u16 | flags u8 (1 the bridge lost samples before this batch) |
                profile u8 | dt_shift u8 | count u8 = n | t0 u32 (low half of the tick), then n times:
                  dt u16 | shunt i16 | bus u16
                Sample k ends at t0 + sum(dt[0..k]) << dt_shift and begins where sample k - 1 ended. A longer pause
                closes the batch. shunt and bus are the sensor's registers 01h and 02h as read. seq counts the
                batches of this sensor since boot.
    03 STATS    type u8 | sensor u8 | boot u16 | seq u16 | state u8 | last_error u8 | tick u64 | end u64 | samples u32 |
                time i64 | charge i64 | voltage i64 | energy i64 | overflows u16 | i2c_errors u16 | restores u16 |
                tx_dropped u16 | rx_errors u16
                Sums over every sample of the batches before ``seq`` (sent or lost), the last of which ended at tick
                ``end``; each modulo 2^64, with dt in microseconds and bus = register >> 3:
                  time = sum dt, charge = sum shunt dt, voltage = sum bus dt, energy = sum shunt bus dt
                Each second, and after FLUSH.
    04 SYNC     type u8 | boot u16 | nonce u32 | received u64 | sent u64        (ticks)
    05 ACK      type u8 | command u8 | status u8 (0 done, 1 unknown, 2 refused, 3 bad value) | boot u16
    06 MARKER   type u8 | level u8 (of the marker input after the edge: 0, 1) | boot u16 | seq u16 | tick u64
                An edge of the marker input, stamped in hardware. seq counts edges since boot, so that a lost MARKER
                is known to be lost. Since 1.1.

Minor versions: 1.1 added MARKER, the feature bits, and the commands SET_CONFIG, SET_RANGE and SET_UID.

What the host sends is in :mod:`protos.bridge.commands`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from protos.bridge.hello import MAX_SENSORS, Hello, MalformedMessage, read_hello

__all__ = [
    "Ack",
    "Marker",
    "Message",
    "Samples",
    "Stats",
    "Status",
    "SyncReply",
    "decode",
    "wrap",
]

SAMPLE = np.dtype([("dt", "<u2"), ("shunt", "<i2"), ("bus", "<u2")])

_SAMPLES = struct.Struct("<BBHHBBBBI")
_STATS = struct.Struct("<BBHHBBQQIqqqqHHHHH")
_SYNC = struct.Struct("<BHIQQ")
_ACK = struct.Struct("<BBBH")
_MARKER = struct.Struct("<BBHHQ")


class Status(IntEnum):
    """Answers in ACK."""

    DONE = 0
    UNKNOWN = 1
    REFUSED = 2
    BAD_VALUE = 3


@dataclass(frozen=True, slots=True)
class Samples:
    """A batch: ``dt_us`` int64 [n], ``shunt`` int16 [n], ``bus`` uint16 [n]; ``t0`` is the low half of a tick."""

    sensor: int
    boot: int
    seq: int
    flags: int
    profile: int
    t0: int
    dt_us: npt.NDArray[np.int64]
    shunt: npt.NDArray[np.int16]
    bus: npt.NDArray[np.uint16]
    dt_shift: int = 0

    def encode(self) -> bytes:
        rows = np.empty(len(self.dt_us), SAMPLE)
        rows["dt"], rows["shunt"], rows["bus"] = self.dt_us >> self.dt_shift, self.shunt, self.bus
        head = _SAMPLES.pack(
            0x02, self.sensor, self.boot, self.seq, self.flags, self.profile, self.dt_shift, len(rows), self.t0
        )
        return head + rows.tobytes()


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums of one sensor since boot, up to a batch boundary. Fields as in the module's table."""

    sensor: int
    boot: int
    seq: int
    tick: int
    end: int
    samples: int
    time: int
    charge: int
    voltage: int
    energy: int
    state: int = 0
    last_error: int = 0
    overflows: int = 0
    i2c_errors: int = 0
    restores: int = 0
    tx_dropped: int = 0
    rx_errors: int = 0

    def encode(self) -> bytes:
        return _STATS.pack(
            0x03, self.sensor, self.boot, self.seq, self.state, self.last_error, self.tick, self.end,
            self.samples & 0xFFFFFFFF, wrap(self.time), wrap(self.charge), wrap(self.voltage), wrap(self.energy),
            *(min(n, 0xFFFF) for n in (self.overflows, self.i2c_errors, self.restores, self.tx_dropped)),
            min(self.rx_errors, 0xFFFF),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SyncReply:
    """The bridge's two stamps of a four-stamp exchange."""

    boot: int
    nonce: int
    received: int
    sent: int

    def encode(self) -> bytes:
        return _SYNC.pack(0x04, self.boot, self.nonce, self.received, self.sent)


@dataclass(frozen=True, slots=True)
class Ack:
    """The bridge's answer to a command that has no other."""

    command: int
    status: int
    boot: int

    def encode(self) -> bytes:
        return _ACK.pack(0x05, self.command, self.status, self.boot)


@dataclass(frozen=True, slots=True)
class Marker:
    """An edge of the marker input: ``level`` after it (0 or 1), at ``tick``."""

    level: int
    boot: int
    seq: int
    tick: int

    def encode(self) -> bytes:
        return _MARKER.pack(0x06, self.level, self.boot, self.seq, self.tick)


Message = Hello | Samples | Stats | SyncReply | Ack | Marker


def wrap(value: int) -> int:
    """An integer modulo 2^64, as the signed number that travels.

    >>> wrap(2**63) == -(2**63)
    True
    """
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def decode(payload: bytes) -> Message:
    """Read a bridge-to-host message.

    Raises:
        MalformedMessage: unknown type, wrong length, or a value outside its range.
    """
    try:
        reader = _READERS[payload[0]]
        return reader(payload)
    except (KeyError, IndexError, struct.error) as cause:
        raise MalformedMessage(f"{len(payload)} bytes that begin {payload[:2].hex() or 'nowhere'}") from cause


def _read_samples(payload: bytes) -> Samples:
    _, sensor, boot, seq, flags, profile, shift, count, t0 = _SAMPLES.unpack_from(payload)
    if not count or shift > 16 or sensor >= MAX_SENSORS or len(payload) < _SAMPLES.size + count * SAMPLE.itemsize:
        raise MalformedMessage(f"SAMPLES of {len(payload)} bytes with {count} samples")
    rows = np.frombuffer(payload, SAMPLE, count, _SAMPLES.size)
    dt_us = rows["dt"].astype(np.int64) << shift
    return Samples(sensor, boot, seq, flags, profile, t0, dt_us, rows["shunt"], rows["bus"], shift)


def _read_stats(payload: bytes) -> Stats:
    (_, sensor, boot, seq, state, last_error, tick, end, samples, *rest) = _STATS.unpack_from(payload)
    time, charge, voltage, energy, overflows, i2c_errors, restores, tx_dropped, rx_errors = rest
    if sensor >= MAX_SENSORS:
        raise MalformedMessage(f"STATS of sensor {sensor}")
    return Stats(
        sensor,
        boot,
        seq,
        tick,
        end,
        samples,
        time,
        charge,
        voltage,
        energy,
        state,
        last_error,
        overflows,
        i2c_errors,
        restores,
        tx_dropped,
        rx_errors,
    )


def _read_sync(payload: bytes) -> SyncReply:
    return SyncReply(*_SYNC.unpack_from(payload)[1:])


def _read_ack(payload: bytes) -> Ack:
    return Ack(*_ACK.unpack_from(payload)[1:])


def _read_marker(payload: bytes) -> Marker:
    _, level, boot, seq, tick = _MARKER.unpack_from(payload)
    if level > 1:
        raise MalformedMessage(f"MARKER with level {level}")
    return Marker(level, boot, seq, tick)


_READERS: dict[int, Callable[[bytes], Message]] = {
    0x01: read_hello,
    0x02: _read_samples,
    0x03: _read_stats,
    0x04: _read_sync,
    0x05: _read_ack,
    0x06: _read_marker,
}
