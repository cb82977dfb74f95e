"""The other end of a machine's line in lock-step, and the committed image."""

from __future__ import annotations

from dataclasses import dataclass, field

from firmware_tools.bridge.images.manifest import IMAGES
from firmware_tools.bridge.machine.driver import FirmwareMachine
from protos.bridge.commands import Command, command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello
from protos.bridge.messages import Message, Samples, Stats, decode

__all__ = ["IMAGE", "Host", "samples"]

IMAGE = IMAGES / "edgejoule-bridge-atmega328p.hex"


@dataclass
class Host:
    """A host that speaks the bridge's protocol; ``heard`` has each message with the time of its last byte."""

    machine: FirmwareMachine
    parser: FrameParser = field(default_factory=FrameParser)
    heard: list[tuple[float, Message]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)

    def run(self, seconds: float) -> list[Message]:
        """What comes in this time."""
        first = len(self.heard)
        for at_s, data in self.machine.step(seconds):
            self.data += data
            self.heard += [(at_s, decode(payload)) for payload in self.parser.feed(data)]
        return [message for _, message in self.heard[first:]]

    def ask(self, kind: Command, *values: int, within_s: float = 0.1) -> list[Message]:
        """Send a command; what comes after it."""
        self.machine.send(encode_frame(command(kind, *values)))
        return self.run(within_s)

    def hello(self) -> Hello:
        return next(m for m in self.ask(Command.GET_HELLO) if isinstance(m, Hello))

    def stats(self, sensor: int = 0) -> Stats:
        found = [m for m in self.ask(Command.FLUSH, sensor) if isinstance(m, Stats) and m.sensor == sensor]
        return found[-1]


def samples(messages: list[Message], sensor: int = 0) -> list[Samples]:
    return [m for m in messages if isinstance(m, Samples) and m.sensor == sensor]
