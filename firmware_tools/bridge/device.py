"""The bridge without its wire: commands and time in, frames out. Its firmware in C will do the same.

Nothing here reads a clock or a port: ``receive`` and ``advance`` are told the time, so that a test can run it on
virtual time and a bench on the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from firmware_tools.bridge.sensor import Batch, SimulatedIna219, Sums
from protos.bridge.commands import ALL_SENSORS, REBOOT_KEY, Command, decode_command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello, MalformedMessage, ResetCause, SensorRecord
from protos.bridge.messages import Ack, Samples, Stats, Status, SyncReply
from protos.ina219 import PROFILES, Calibration, Profile

__all__ = ["BATCH", "SIMULATOR_BOARD", "Channel", "Device"]

BATCH = 16
BOOT_S = 0.3
STATS_S = 1.0
SIMULATOR_BOARD = 0x80
MASK32 = 0xFFFFFFFF


@dataclass(slots=True)
class Channel:
    """One sensor on the bridge, and what the bridge keeps for it."""

    sensor: SimulatedIna219
    calibration: Calibration
    address: int = 0x40
    seq: int = 0
    end_tick: int = 0
    sums: Sums = field(default_factory=Sums)


class Device:
    """A bridge with one to four sensors.

    Args:
        channels: its sensors.
        profile: sensor setting after a boot.
        uid: serial number, 8 bytes.
        drift_ppm: how much faster than the host its clock runs.
        now_s: host time of the first boot.
        protocol: major and minor to announce (another major is for tests of refusal).
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        profile: Profile,
        uid: bytes = bytes(8),
        drift_ppm: float = 0.0,
        now_s: float,
        first_boot: int = 1,
        protocol: tuple[int, int] = (1, 0),
    ) -> None:
        self.channels = tuple(channels)
        self._profile_at_boot = self.profile = profile
        self._uid, self._protocol = uid, protocol
        self._rate = 1e6 * (1 + drift_ppm * 1e-6)
        self._boot = first_boot - 1
        self.boots = 0
        self._running = False
        self._wake_s = self._stats_due_s = now_s
        self._boot_up(now_s, ResetCause.POWER_ON, BOOT_S)

    def tick(self, at_s: float) -> int:
        """The bridge's own clock at a host time, microseconds since its boot."""
        return int((at_s - self._born_s) * self._rate)

    def reboot(self, now_s: float, cause: ResetCause = ResetCause.EXTERNAL) -> None:
        """Start again: new boot number, ticks and sums from zero. What was not sent is lost."""
        self._boot_up(now_s, cause, BOOT_S)

    def advance(self, now_s: float) -> bytes:
        """Frames that are due at ``now_s``."""
        for channel in self.channels:
            channel.sensor.load.poll(now_s)
        if not self._running:
            if now_s < self._wake_s:
                return b""
            self._running = True
            return b"\x00" + encode_frame(self._hello(now_s))
        out = b""
        for number, channel in enumerate(self.channels):
            while channel.sensor.ready(now_s) >= BATCH:
                out += self._samples(number, channel, channel.sensor.take(BATCH))
        if now_s >= self._stats_due_s:
            self._stats_due_s = max(self._stats_due_s + STATS_S, now_s)
            out += b"".join(self._stats(number, now_s) for number in range(len(self.channels)))
        return out

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Answers to what the host sent."""
        if not self._running:
            return b""
        out = b""
        for payload in self._parser.feed(data):
            try:
                kind, values = decode_command(payload)
            except MalformedMessage:
                out += self._ack(payload[0], Status.UNKNOWN)
                continue
            out += self._obey(kind, values, now_s)
        return out

    def _obey(self, kind: Command, values: tuple[int, ...], now_s: float) -> bytes:
        if kind is Command.GET_HELLO:
            return encode_frame(self._hello(now_s))
        if kind is Command.SYNC:
            tick = self.tick(now_s)
            return encode_frame(SyncReply(self._boot, values[0], tick, tick).encode())
        if kind is Command.FLUSH:
            wanted = range(len(self.channels)) if values[0] == ALL_SENSORS else range(values[0], values[0] + 1)
            if wanted.stop > len(self.channels):
                return self._ack(kind, Status.BAD_VALUE)
            return b"".join(self._flush(number, now_s) for number in wanted)
        if kind is Command.SET_PROFILE:
            found = [profile for profile in PROFILES.values() if profile.code == values[0]]
            if not found:
                return self._ack(kind, Status.BAD_VALUE)
            out = b"".join(self._flush(number, now_s) for number in range(len(self.channels)))
            self.profile = found[0]
            for channel in self.channels:
                channel.sensor.configure(self.profile.config, now_s)
            return out + self._ack(kind, Status.DONE) + encode_frame(self._hello(now_s))
        if kind is Command.SET_CALIBRATION:
            number, *fields = values
            if number >= len(self.channels) or fields[1] == 0:
                return self._ack(kind, Status.BAD_VALUE)
            self.channels[number].calibration = Calibration(*fields)
            return self._ack(kind, Status.DONE) + encode_frame(self._hello(now_s))
        if values[0] != REBOOT_KEY:
            return self._ack(kind, Status.REFUSED)
        self.reboot(now_s)
        return b""

    def _boot_up(self, now_s: float, cause: ResetCause, takes_s: float) -> None:
        self._boot = (self._boot + 1) & 0xFFFF
        self.boots += 1
        self._cause = cause
        self._running = False
        self._born_s, self._wake_s = now_s, now_s + takes_s
        self._stats_due_s = self._wake_s + STATS_S
        self._parser = FrameParser()
        self.profile = self._profile_at_boot
        for channel in self.channels:
            channel.seq, channel.end_tick, channel.sums = 0, 0, Sums()
            channel.sensor.configure(self.profile.config, self._wake_s)

    def _flush(self, number: int, now_s: float) -> bytes:
        channel = self.channels[number]
        channel.sensor.load.poll(now_s)
        out = b""
        while ready := min(BATCH, channel.sensor.ready(now_s)):
            out += self._samples(number, channel, channel.sensor.take(ready))
        return out + self._stats(number, now_s)

    def _samples(self, number: int, channel: Channel, batch: Batch) -> bytes:
        ends = ((batch.end_s - self._born_s) * self._rate).astype(np.int64)
        begin = channel.end_tick
        # Conversions follow each other without pause, but for a restart of the sensor.
        if not channel.seq or abs(self.tick(batch.begin_s) - begin) > 2:
            begin = self.tick(batch.begin_s)
        dt_us = np.diff(ends, prepend=begin)
        shunt, bus = batch.shunt.astype(np.int64), (batch.bus >> 3).astype(np.int64)
        sums = channel.sums
        sums.samples += len(ends)
        sums.time += int(dt_us.sum())
        sums.charge += int(shunt @ dt_us)
        sums.voltage += int(bus @ dt_us)
        sums.energy += int((shunt * bus) @ dt_us)
        channel.end_tick = int(ends[-1])
        message = Samples(
            number, self._boot, channel.seq & 0xFFFF, 0, self.profile.code, begin & MASK32, dt_us,
            batch.shunt, batch.bus, 0,
        )  # fmt: skip
        channel.seq += 1
        return encode_frame(message.encode())

    def _stats(self, number: int, now_s: float) -> bytes:
        channel, sums = self.channels[number], self.channels[number].sums
        return encode_frame(
            Stats(
                number, self._boot, channel.seq & 0xFFFF, self.tick(now_s), channel.end_tick, sums.samples,
                sums.time, sums.charge, sums.voltage, sums.energy, rx_errors=self._parser.drops.frames,
            ).encode()
        )  # fmt: skip

    def _ack(self, kind: int, status: Status) -> bytes:
        return encode_frame(Ack(kind, status, self._boot).encode())

    def _hello(self, now_s: float) -> bytes:
        records = tuple(
            SensorRecord(channel.address, channel.sensor.config.register(), 0, channel.calibration)
            for channel in self.channels
        )
        return Hello(
            (0, 1, 0), self._boot, self.tick(now_s), self.profile.code, records, self._protocol, SIMULATOR_BOARD,
            uid=self._uid, boots=self.boots, reset=self._cause, batch=BATCH,
        ).encode()  # fmt: skip
