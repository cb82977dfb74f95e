"""The host's side of the bridge protocol, without a port or a clock: bytes and times in, commands and events out.

It keeps who the bridge is (HELLO, asked for until it comes and again after a restart or a silence) and what is still to
be asked. A bridge sends STATS each second, so seconds without samples and STATS are an outage of the line; how long it
was, only the full tick in HELLO can tell, so what comes next waits for it.
Each boot of the bridge is an *epoch*. A boot has a number, and a clock that only goes on: one that went back is that of
another boot, whatever its number (a bridge whose memory does not keep the number has the same one each time). Batches
that arrive before the HELLO of their boot wait for it. What the events amount to is the affair of
:mod:`edge_runtime.power.bridge.track`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.power.events import Batch, Edge, Exchanged, Greeting, RawEvent, Sums
from protos.bridge.commands import Command, command, sync_command
from protos.bridge.exchange import Exchange
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import PROTOCOL, Feature, Hello, MalformedMessage
from protos.bridge.messages import Ack, Marker, Samples, Stats, Status, SyncReply, decode
from protos.energy.ina219 import Config, Profile

__all__ = ["BridgeRequest", "BridgeSession", "Losses"]

log = logging.getLogger(__name__)

HELLO_AGAIN_S = 0.25
FIRST_SYNCS = 8
SYNC_FAST_S = 0.03
SYNC_EACH_S = 0.5
SYNC_RELAXED_S = 5.0
"""While nobody waits for times: some 180 exchanges of the last quarter of an hour are enough for the fit."""
SYNC_GIVEN_UP_S = 5.0
SETTING_AGAIN_S = 0.5
SILENCE_S = 5.0
BACK_US = 1_000_000
"""A clock that is so far behind what it said before has begun anew."""
WAITING = 64
SETTINGS = (Command.SET_PROFILE, Command.SET_RANGE, Command.SET_CONFIG)

Emit = Callable[[RawEvent], None]


@dataclass(frozen=True, slots=True)
class BridgeRequest:
    """What the user asked of the bridge; None takes what is there.

    The bus range is not asked: it is 32 V wherever the bridge takes SET_CONFIG (since protocol 1.1). Its step is that
    of 16 V, where a supply of 24 V reads as 16.

    Args:
        profile: sensor setting.
        pga: range of the shunt voltage, 0..3 for 40, 80, 160, 320 mV.
        shunt_ohm: shunt to use instead of the calibration's; the result counts as uncalibrated.
        bus_ppm: correction of the bus voltage, parts per million; None where it was never compared.
    """

    profile: Profile | None = None
    pga: int | None = None
    shunt_ohm: float | None = None
    bus_ppm: int | None = None


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
        bus_errors: I2C transfers that failed, as the bridge counts them.
        sensor_restarts: times the sensor had forgotten its setting, and got it back.
        sensor_losses: times the sensor fell silent.
        damaged_commands: what did not reach the bridge whole, as it counts.
    """

    skipped_bytes: int = 0
    damaged_frames: int = 0
    strange_messages: int = 0
    lost_batches: int = 0
    recovered_s: float = 0.0
    restarts: int = 0
    reconnects: int = 0
    other_bridges: int = 0
    bus_errors: int = 0
    sensor_restarts: int = 0
    sensor_losses: int = 0
    damaged_commands: int = 0


class BridgeSession:
    """One sensor of one bridge, over restarts and reconnections.

    Args:
        sensor: index of the sensor on the bridge.
        emit: called with each event of that sensor, in order.
        wanted: settings to ask for, again after each boot.
    """

    def __init__(self, sensor: int, emit: Emit, wanted: BridgeRequest | None = None) -> None:
        self._sensor, self._emit, self._wanted = sensor, emit, wanted or BridgeRequest()
        self.hello: Hello | None = None
        self.greeting: Greeting | None = None
        self.incompatible: tuple[int, int] | None = None
        self.refusals: dict[int, Status] = {}
        self.epoch = 0
        self.heard_bytes = 0
        self.flush_wanted = False
        self.relaxed = False
        self.expects_sums = False
        self._waiting: deque[Samples | Stats | Marker] = deque(maxlen=WAITING)
        self._parser = FrameParser()
        self._known_boot: int | None = None
        # Newest full tick of the epoch.
        self._tick = 0
        self._hello_due_s = self._sync_due_s = self._setting_due_s = float("-inf")
        self._syncs = self._nonce = 0
        self._heard_s = float("-inf")
        self._asked: dict[int, float] = {}
        self._strange = self._restarts = self._reconnects = self._others = 0

    @property
    def expects_answer(self) -> bool:
        """Whether a HELLO or the time stamps of a SYNC are on their way, so that each millisecond counts."""
        return self._known_boot is None or bool(self._asked)

    @property
    def settled(self) -> bool:
        """Whether the bridge has every setting that was asked for."""
        return self.hello is not None and not self._settings_missing(self.hello)

    @property
    def losses(self) -> Losses:
        """What went wrong so far; batches, what was recovered of them, and the sensor are for the track to say."""
        drops = self._parser.drops
        return Losses(
            drops.skipped_bytes,
            drops.frames,
            self._strange,
            restarts=self._restarts,
            reconnects=self._reconnects,
            other_bridges=self._others,
        )

    def opened(self, *, again: bool) -> None:
        """The port has just been opened: begin in the middle of whatever comes, and ask who is there."""
        drops = self._parser.drops
        self._parser = FrameParser()
        self._parser.drops = drops
        self._known_boot = None
        self._asked.clear()
        self.expects_sums = False
        self._hello_due_s = self._sync_due_s = self._setting_due_s = float("-inf")
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
            if isinstance(message, Samples | Stats):
                if message.sensor == self._sensor:
                    self._sort(message, now_s)
            elif isinstance(message, Hello):
                self._greet(message, now_s)
            elif isinstance(message, SyncReply):
                self._synchronise(message, now_s)
            elif isinstance(message, Marker):
                self._sort(message, now_s)
            elif isinstance(message, Ack) and message.status != Status.DONE:
                self._hear_refusal(message)

    def due(self, now_s: float) -> bytes:
        """Commands to send at ``now_s``."""
        if self.incompatible:
            return b""
        if self._known_boot is None or self.hello is None:
            if now_s < self._hello_due_s:
                return b""
            self._hello_due_s = now_s + HELLO_AGAIN_S
            return encode_frame(command(Command.GET_HELLO))
        out = b""
        if self.flush_wanted:
            self.flush_wanted = False
            self.expects_sums = True
            out += encode_frame(command(Command.FLUSH, self._sensor))
        if now_s >= self._sync_due_s or (not self.relaxed and self._sync_due_s > now_s + SYNC_EACH_S):
            self._syncs += 1
            each_s = SYNC_RELAXED_S if self.relaxed else SYNC_EACH_S
            self._sync_due_s = now_s + (SYNC_FAST_S if self._syncs < FIRST_SYNCS else each_s)
            self._nonce = (self._nonce + 1) & 0xFFFFFFFF
            self._asked = {nonce: at for nonce, at in self._asked.items() if now_s - at < SYNC_GIVEN_UP_S}
            self._asked[self._nonce] = now_s
            # First of all, so that its stamp is the time at which it leaves.
            out = encode_frame(sync_command(self._nonce)) + out
        if now_s >= self._setting_due_s:
            self._setting_due_s = now_s + SETTING_AGAIN_S
            out += b"".join(encode_frame(payload) for payload in self._settings_missing(self.hello))
        return out

    def _settings_missing(self, hello: Hello) -> list[bytes]:
        """Commands for what is wanted and not so."""
        if self._sensor >= len(hello.sensors):
            return []
        wanted, missing = self._wanted, []
        config = Config.of(hello.sensors[self._sensor].config)
        if wanted.pga is not None and config.pga != wanted.pga:
            missing.append(command(Command.SET_RANGE, self._sensor, wanted.pga))
        if hello.features & Feature.CONFIG and Command.SET_CONFIG not in self.refusals:
            # SET_PROFILE would take the 32 V range back, for all sensors.
            target = replace(wanted.profile.config if wanted.profile else config, pga=config.pga).wide()
            if wanted.pga is not None and Command.SET_RANGE not in self.refusals:
                target = replace(target, pga=wanted.pga)
            if config != target:
                # Twelve bits for both is there only where somebody forced it.
                forced = (target.bus_adc, target.shunt_adc) == (3, 3)
                missing.append(command(Command.SET_CONFIG, self._sensor, target.register(), int(forced)))
        elif wanted.profile is not None and hello.profile != wanted.profile.code:
            missing.append(command(Command.SET_PROFILE, wanted.profile.code))
        return [data for data in missing if data[0] not in self.refusals]

    def _hear_refusal(self, ack: Ack) -> None:
        if ack.command in SETTINGS and ack.command not in self.refusals:
            self.refusals[ack.command] = Status(ack.status) if ack.status in list(Status) else Status.REFUSED
            log.warning("power bridge: setting %02xh not taken (status %d)", ack.command, ack.status)

    def _sort(self, message: Samples | Stats | Marker, now_s: float) -> None:
        silent_s, self._heard_s = now_s - self._heard_s, now_s
        if silent_s > SILENCE_S and self._known_boot is not None:
            self._known_boot, self._hello_due_s = None, now_s
            # Samples and sums stand in for each other: ask for both at once.
            self.flush_wanted = True
        begun_anew = isinstance(message, Stats) and message.tick < self._tick - BACK_US
        if message.boot == self._known_boot and not begun_anew:
            self._pass_on(message)
            return
        if self._known_boot is not None:
            self._known_boot, self._hello_due_s = None, now_s
        self._waiting.append(message)

    def _greet(self, hello: Hello, now_s: float) -> None:
        if hello.protocol[0] != PROTOCOL[0]:
            self.incompatible = hello.protocol
            return
        before, self.hello = self.hello, hello
        begun_anew = hello.tick < self._tick - BACK_US
        if before is None or before.uid != hello.uid or before.boot != hello.boot or begun_anew:
            self._begin_epoch(hello, before)
        self._tick = max(self._tick, hello.tick)
        self._known_boot, self._heard_s = hello.boot, now_s
        wanted = self._wanted
        self.greeting = Greeting(now_s, self.epoch, self._sensor, wanted.shunt_ohm, hello, wanted.bus_ppm)
        self._emit(self.greeting)
        waiting, self._waiting = self._waiting, deque(maxlen=WAITING)
        for message in waiting:
            if message.boot == hello.boot:
                self._pass_on(message)

    def _begin_epoch(self, hello: Hello, before: Hello | None) -> None:
        if before is not None and before.uid != hello.uid:
            self._others += 1
            log.warning("power bridge: another bridge answers, %s instead of %s", hello.uid.hex(), before.uid.hex())
        elif before is not None:
            self._restarts += 1
            log.warning("power bridge: restarted (cause %d), samples since the last batch are lost", hello.reset)
        self.epoch += 1
        self._tick = hello.tick
        self._asked.clear()
        self._syncs, self._sync_due_s = 0, float("-inf")
        # Its STATS is what later losses are reckoned from.
        self.flush_wanted = True

    def _synchronise(self, reply: SyncReply, now_s: float) -> None:
        sent_s = self._asked.pop(reply.nonce, None)
        if sent_s is not None and reply.boot == self._known_boot:
            # What was asked earlier and is not answered yet is lost: answers keep their order.
            self._asked = {nonce: at for nonce, at in self._asked.items() if at > sent_s}
            self._tick = max(self._tick, reply.sent)
            self._emit(Exchanged(Exchange(sent_s, reply.received, reply.sent, now_s)))

    def _pass_on(self, message: Samples | Stats | Marker) -> None:
        if isinstance(message, Samples):
            self._emit(Batch(message))
        elif isinstance(message, Stats):
            self.expects_sums = False
            self._tick = max(self._tick, message.tick)
            self._emit(Sums(message))
        else:
            self._emit(Edge(message))


def since(now: Losses, before: Losses) -> Losses:
    """What was lost between two looks."""
    return replace(
        now,
        **{name: getattr(now, name) - getattr(before, name) for name in Losses.__dataclass_fields__},
    )
