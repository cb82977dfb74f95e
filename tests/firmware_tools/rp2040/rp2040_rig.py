"""The committed RP2040 image in the simulator rp2040js, in lock-step, and a host that speaks the bridge's protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.bridge.commands import Command, command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello
from protos.bridge.messages import Message, Stats, decode

__all__ = ["MODULES", "WATTS", "Pico", "joules", "missing"]

MODULES = Path(os.environ.get("EDGEJOULE_RP2040JS", "~/.cache/edgejoule/rp2040js")).expanduser() / "node_modules"
_HOST = Path(__file__).with_name("rp2040_host.cjs")

SHUNT, BUS = 4000, 1250
"""Registers of 40 mV over 0.1 ohm at 5 V."""
WATTS = 2.0
_JOULES_PER_STEP = 10e-6 * 4e-3 / 0.1 * 1e-6


def missing() -> str | None:
    """Why there is no simulator here; None when there is."""
    if shutil.which("node") is None:
        return "needs node 18 or newer"
    if not (MODULES / "rp2040js").is_dir():
        return f"needs rp2040js in {MODULES} (make rp2040)"
    return None


@dataclass
class Pico:
    """``heard`` holds each message since power was applied first; ``now_us`` is simulated time since the last boot."""

    image: Path
    now_us: int = 0
    parser: FrameParser = field(default_factory=FrameParser)
    heard: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            ["node", str(_HOST), str(self.image)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"NODE_PATH": str(MODULES)},
        )  # fmt: skip
        self.tell("sensor", SHUNT, BUS)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)

    def tell(self, *words: object) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer, "the simulator ended"
        assert not answer.startswith("error"), answer
        return answer

    def run(self, seconds: float) -> list[Message]:
        """What comes in this time."""
        us = round(seconds * 1e6)
        first = len(self.heard)
        data = bytes.fromhex(self.tell("run", us).removeprefix("out").strip())
        self.now_us += us
        self.heard += [decode(payload) for payload in self.parser.feed(data)]
        return self.heard[first:]

    def ask(self, payload: bytes, within_s: float = 0.1) -> list[Message]:
        """Send a command; what comes after it."""
        self.tell("feed", encode_frame(payload).hex())
        return self.run(within_s)

    def hello(self) -> Hello:
        return next(m for m in self.ask(command(Command.GET_HELLO)) if isinstance(m, Hello))

    def stats(self) -> Stats:
        return [m for m in self.ask(command(Command.FLUSH, 0)) if isinstance(m, Stats)][-1]

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tell("facts"))
        return found


def joules(stats: Stats) -> float:
    return stats.energy * _JOULES_PER_STEP
