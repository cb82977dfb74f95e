"""The bridge without its wire: commands and time in, frames out. The twin of the firmware in ``firmware/core``.

One suite holds both to the same answers (``tests/firmware_tools/firmware``). The twin's sensors never fail.

Nothing here reads a clock or a port: ``receive`` and ``advance`` are told the time, so that a test can run it on
virtual time and a bench on the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from firmware_tools.bridge.simulator.sensor import Batch, SimulatedIna219, Sums
from protos.bridge.commands import ALL_SENSORS, HANG_KEY, REBOOT_KEY, Command, decode_command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import PROTOCOL, Feature, Hello, MalformedMessage, ResetCause, SensorRecord
from protos.bridge.messages import Ack, Samples, Stats, Status, SyncReply
from protos.energy.ina219 import PROFILES, Calibration, Config, Mode, Profile

__all__ = ["BATCH", "FEATURES", "SIMULATOR_BOARD", "Channel", "Device"]

BATCH = 16
BOOT_S = 0.3
STATS_S = 1.0
WATCHDOG_S = 0.25
OWN_SETTING = 0
FLAG_FORCED = 2
FEATURES = Feature.PERSISTENT | Feature.CONFIG | Feature.HANG
SIMULATOR_BOARD = 0x80
MASK32 = 0xFFFFFFFF


@dataclass(slots=True)
class Channel:
    """One sensor on the bridge, and what the bridge keeps for it."""

    sensor: SimulatedIna219
    calibration: Calibration
    address: int = 0x40
    pga: int = 1
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
        protocol: major and minor to announce (another major is for tests of refusal). Of 1.0 it has neither the
            features of 1.1 nor its commands.
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
        protocol: tuple[int, int] = PROTOCOL,
    ) -> None:
        self.channels = tuple(channels)
        self._profile_at_boot = profile
        self._uid, self._protocol = uid, protocol
        self._rate = 1e6 * (1 + drift_ppm * 1e-6)
        self._boot = first_boot - 1
        self.boots = 0
        self._running = False
        self._wake_s = self._stats_due_s = now_s
        self._boot_up(now_s, ResetCause.POWER_ON, BOOT_S)

    @property
    def period_s(self) -> float:
        """Nominal time of the shortest sample of its sensors, s."""
        return min(channel.sensor.config.period_s for channel in self.channels)

    def tick(self, at_s: float) -> int:
        """The bridge's own clock at a host time, microseconds since its boot."""
        return int((at_s - self._born_s) * self._rate)

    def reboot(self, now_s: float, cause: ResetCause = ResetCause.EXTERNAL, takes_s: float = BOOT_S) -> None:
        """Start again: new boot number, ticks and sums from zero. What was not sent is lost."""
        self._boot_up(now_s, cause, takes_s)

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
            self._profile, self._forced = found[0].code, False
            for channel in self.channels:
                channel.sensor.configure(replace(found[0].config, pga=channel.pga), now_s)
            return out + self._done(kind, now_s)
        if kind is Command.REBOOT:
            if values[0] not in (REBOOT_KEY, HANG_KEY):
                return self._ack(kind, Status.REFUSED)
            hangs = values[0] == HANG_KEY
            self.reboot(
                now_s, ResetCause.WATCHDOG if hangs else ResetCause.EXTERNAL, BOOT_S + (WATCHDOG_S if hangs else 0.0)
            )
            return b""
        return self._keep(kind, values, now_s)

    def _keep(self, kind: Command, values: tuple[int, ...], now_s: float) -> bytes:
        """The commands that change a sensor or the bridge's own record."""
        if self._protocol == (1, 0) and kind is not Command.SET_CALIBRATION:
            return self._ack(kind, Status.UNKNOWN)
        if kind is Command.SET_UID:
            self._uid = values[0].to_bytes(8, "little")
            return self._done(kind, now_s)
        number, *fields = values
        wanted = self.channels if number == ALL_SENSORS else self.channels[number : number + 1]
        if not wanted:
            return self._ack(kind, Status.BAD_VALUE)
        if kind is Command.SET_CALIBRATION:
            if number == ALL_SENSORS or fields[1] == 0:
                return self._ack(kind, Status.BAD_VALUE)
            wanted[0].calibration = Calibration(*fields)
            return self._done(kind, now_s)
        if kind is Command.SET_RANGE:
            if fields[0] > 3:
                return self._ack(kind, Status.BAD_VALUE)
            for channel in wanted:
                channel.pga = fields[0]
            return self._configure({id(c): replace(c.sensor.config, pga=c.pga) for c in wanted}, kind, now_s)
        register, force = fields
        config = Config.of(register)
        if register & 0xC000 or config.mode is not Mode.BOTH_CONTINUOUS or force > 1:
            return self._ack(kind, Status.BAD_VALUE)
        half_blind = (config.bus_adc, config.shunt_adc) == (3, 3)
        if half_blind and not force:
            return self._ack(kind, Status.REFUSED)
        self._profile, self._forced = OWN_SETTING, half_blind
        return self._configure({id(channel): config for channel in wanted}, kind, now_s)

    def _configure(self, configs: dict[int, Config], kind: Command, now_s: float) -> bytes:
        out = b""
        for number, channel in enumerate(self.channels):
            if id(channel) in configs:
                out += self._flush(number, now_s)
                channel.sensor.configure(configs[id(channel)], now_s)
        return out + self._done(kind, now_s)

    def _done(self, kind: Command, now_s: float) -> bytes:
        return self._ack(kind, Status.DONE) + encode_frame(self._hello(now_s))

    def _boot_up(self, now_s: float, cause: ResetCause, takes_s: float) -> None:
        self._boot = (self._boot + 1) & 0xFFFF
        self.boots += 1
        self._cause = cause
        self._running = False
        self._born_s, self._wake_s = now_s, now_s + takes_s
        self._stats_due_s = self._wake_s + STATS_S
        self._parser = FrameParser()
        self._profile, self._forced = self._profile_at_boot.code, False
        for channel in self.channels:
            channel.seq, channel.end_tick, channel.sums = 0, 0, Sums()
            channel.sensor.configure(replace(self._profile_at_boot.config, pga=channel.pga), self._wake_s)

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
        shift = _dt_shift(channel.sensor.config)
        if not channel.seq or abs(self.tick(batch.begin_s) - begin) > 2 << shift:
            begin = self.tick(batch.begin_s)
        # What the shift cuts off is carried into the next sample.
        ends = begin + ((ends - begin) >> shift << shift)
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
            number, self._boot, channel.seq & 0xFFFF, 0, self._profile, begin & MASK32, dt_us,
            batch.shunt, batch.bus, shift,
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
            (0, 2, 0), self._boot, self.tick(now_s), self._profile, records, self._protocol, SIMULATOR_BOARD,
            flags=FLAG_FORCED if self._forced else 0, uid=self._uid, boots=self.boots, reset=self._cause,
            features=FEATURES if self._protocol != (1, 0) else Feature(0), batch=BATCH,
        ).encode()  # fmt: skip


def _dt_shift(config: Config) -> int:
    """The least shift with which the longest sample, a quarter over nominal, fits 16 bits."""
    longest_us = int(config.period_s * 1.25e6)
    return max(0, longest_us.bit_length() - 16)
