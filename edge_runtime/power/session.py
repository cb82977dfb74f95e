"""The host's side of the bridge protocol, without a port or a clock: bytes and times in, commands and samples out.

It keeps: who the bridge is (HELLO, asked for until it comes and again after a restart), the clock alignment of the
present boot, and one sensor's stream. Each boot of the bridge is an *epoch* with its own ticks and alignment.
Batches that arrive before the HELLO of their boot wait for it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.power.alignment import Alignment, Exchange
from edge_runtime.power.stream import Piece, SensorStream
from protos.bridge.commands import Command, command, sync_command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import PROTOCOL, Hello, MalformedMessage
from protos.bridge.messages import Samples, Stats, SyncReply, decode
from protos.ina219 import Calibration, Config, Profile

__all__ = ["BridgeSession", "Losses"]

log = logging.getLogger(__name__)

HELLO_AGAIN_S = 0.25
FIRST_SYNCS = 8
SYNC_FAST_S = 0.03
SYNC_EACH_S = 0.5
WAITING = 64

Deliver = Callable[[int, Alignment, Piece], None]


@dataclass(frozen=True, slots=True)
class Losses:
    """What went wrong on the way, since the session began.

    Args:
        skipped_bytes: bytes outside any frame.
        damaged_frames: frames with a wrong check, stuffing or length.
        strange_messages: good frames that are no message of the protocol.
        lost_batches: batches that never arrived.
        recovered_s: seconds of them whose energy the accumulators gave.
        restarts: boots of the bridge after the first.
        reconnects: times the port was opened again.
        other_bridges: times another bridge answered at the same port.
    """

    skipped_bytes: int = 0
    damaged_frames: int = 0
    strange_messages: int = 0
    lost_batches: int = 0
    recovered_s: float = 0.0
    restarts: int = 0
    reconnects: int = 0
    other_bridges: int = 0


class BridgeSession:
    """One sensor of one bridge, over restarts and reconnections.

    Args:
        sensor: index of the sensor on the bridge.
        deliver: called with (epoch, alignment, samples) as they become known.
        profile: sensor setting to ask for, None to take what is there.
        shunt_ohm: use this shunt instead of the calibration's; the result counts as uncalibrated.
    """

    def __init__(
        self,
        sensor: int,
        deliver: Deliver,
        *,
        profile: Profile | None = None,
        shunt_ohm: float | None = None,
    ) -> None:
        self._sensor, self._deliver = sensor, deliver
        self._profile, self._shunt_ohm = profile, shunt_ohm
        self.hello: Hello | None = None
        self.refused: tuple[int, int] | None = None
        self.alignment = Alignment()
        self.epoch = 0
        self.heard_bytes = 0
        self.flush_wanted = False
        self._stream: SensorStream | None = None
        self._waiting: deque[Samples | Stats] = deque(maxlen=WAITING)
        self._parser = FrameParser()
        self._known_boot: int | None = None
        self._hello_due_s = float("-inf")
        self._sync_due_s = float("-inf")
        self._syncs = self._nonce = 0
        self._asked: dict[int, float] = {}
        self._strange = self._restarts = self._reconnects = self._others = 0
        self._lost_before, self._recovered_before = 0, 0.0

    @property
    def calibration(self) -> Calibration:
        """The calibration in use; an uncalibrated default before the first HELLO."""
        if self.hello is None or self._sensor >= len(self.hello.sensors):
            return Calibration()
        record = self.hello.sensors[self._sensor].calibration
        if self._shunt_ohm is None:
            return record
        return Calibration(0, round(self._shunt_ohm * 1e6), record.offset_nv, 0, 0)

    @property
    def config(self) -> Config:
        """The sensor setting in use."""
        if self.hello is None or self._sensor >= len(self.hello.sensors):
            return Config()
        return Config.of(self.hello.sensors[self._sensor].config)

    @property
    def bus_v(self) -> float:
        """Last bus voltage read, V; 0 before the first sample."""
        return self._stream.bus_v if self._stream else 0.0

    @property
    def has_holes(self) -> bool:
        """Whether energy is missing that the next STATS may bring."""
        return self._stream is not None and self._stream.has_holes

    @property
    def losses(self) -> Losses:
        """What went wrong so far."""
        stream, drops = self._stream, self._parser.drops
        return Losses(
            drops.skipped_bytes,
            drops.frames,
            self._strange,
            self._lost_before + (stream.lost_batches if stream else 0),
            self._recovered_before + (stream.recovered_s if stream else 0.0),
            self._restarts,
            self._reconnects,
            self._others,
        )

    def opened(self, *, again: bool) -> None:
        """The port has just been opened: begin in the middle of whatever comes, and ask who is there."""
        drops = self._parser.drops
        self._parser = FrameParser()
        self._parser.drops = drops
        self._known_boot = None
        self._asked.clear()
        self._hello_due_s = self._sync_due_s = float("-inf")
        self._syncs = 0
        self._reconnects += again

    def receive(self, data: bytes, now_s: float) -> None:
        """Take in what arrived at ``now_s``. Garbage is counted, never an error."""
        self.heard_bytes += len(data)
        for payload in self._parser.feed(data):
            try:
                message = decode(payload)
            except MalformedMessage:
                self._strange += 1
                continue
            if isinstance(message, Hello):
                self._greet(message)
            elif isinstance(message, SyncReply):
                self._synchronise(message, now_s)
            elif isinstance(message, (Samples, Stats)) and message.sensor == self._sensor:
                if message.boot == self._known_boot:
                    self._take(message)
                else:
                    if self._known_boot is not None:
                        self._known_boot, self._hello_due_s = None, now_s
                    self._waiting.append(message)

    def due(self, now_s: float) -> bytes:
        """Commands to send at ``now_s``."""
        if self.refused:
            return b""
        if self._known_boot is None:
            if now_s < self._hello_due_s:
                return b""
            self._hello_due_s = now_s + HELLO_AGAIN_S
            return encode_frame(command(Command.GET_HELLO))
        out = b""
        if self.flush_wanted:
            self.flush_wanted = False
            out += encode_frame(command(Command.FLUSH, self._sensor))
        if now_s >= self._sync_due_s:
            self._syncs += 1
            self._sync_due_s = now_s + (SYNC_FAST_S if self._syncs < FIRST_SYNCS else SYNC_EACH_S)
            self._nonce = (self._nonce + 1) & 0xFFFFFFFF
            self._asked = {nonce: at for nonce, at in self._asked.items() if now_s - at < 5.0}
            self._asked[self._nonce] = now_s
            out = encode_frame(sync_command(self._nonce)) + out
        if self._profile and self.hello and self.hello.profile != self._profile.code and self._syncs % 4 == 1:
            out += encode_frame(command(Command.SET_PROFILE, self._profile.code))
        return out

    def _greet(self, hello: Hello) -> None:
        if hello.protocol[0] != PROTOCOL[0]:
            self.refused = hello.protocol
            return
        before, self.hello = self.hello, hello
        same_bridge = before is None or before.uid == hello.uid
        if before is not None and same_bridge and before.boot == hello.boot and self._stream is not None:
            self._stream.recalibrate(self.calibration, self.config.pga)
        else:
            self._begin_epoch(hello, before)
        self._known_boot = hello.boot
        waiting, self._waiting = self._waiting, deque(maxlen=WAITING)
        for message in waiting:
            if message.boot == hello.boot:
                self._take(message)

    def _begin_epoch(self, hello: Hello, before: Hello | None) -> None:
        if before is not None and before.uid != hello.uid:
            self._others += 1
            log.warning("power bridge: another bridge answers, %s instead of %s", hello.uid.hex(), before.uid.hex())
        elif before is not None:
            self._restarts += 1
            log.warning("power bridge: restarted (cause %d), samples since the last batch are lost", hello.reset)
        if self._stream is not None:
            self._lost_before += self._stream.lost_batches
            self._recovered_before += self._stream.recovered_s
        self.epoch += 1
        self.alignment = Alignment()
        self._asked.clear()
        self._syncs, self._sync_due_s = 0, float("-inf")
        self._stream = SensorStream(self.calibration, self.config.pga, hello.tick)
        # Its STATS is what later losses are reckoned from.
        self.flush_wanted = True

    def _synchronise(self, reply: SyncReply, now_s: float) -> None:
        sent_s = self._asked.pop(reply.nonce, None)
        if sent_s is not None and reply.boot == self._known_boot:
            self.alignment.add(Exchange(sent_s, reply.received, reply.sent, now_s))

    def _take(self, message: Samples | Stats) -> None:
        if self._stream is None:
            return
        stream = self._stream
        piece = stream.samples(message) if isinstance(message, Samples) else stream.stats(message)
        if piece is not None:
            self._deliver(self.epoch, self.alignment, piece)


def since(now: Losses, before: Losses) -> Losses:
    """What was lost between two looks."""
    return replace(
        now,
        **{name: getattr(now, name) - getattr(before, name) for name in Losses.__dataclass_fields__},
    )
