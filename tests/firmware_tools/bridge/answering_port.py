"""A bridge of which only HELLO matters: a pseudo-terminal that answers as told, for boards that cannot be had here."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from firmware_tools.bridge.simulator.terminal import Line
from protos.bridge.commands import Command, decode_command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello, SensorRecord
from protos.energy.ina219 import Calibration, Config

__all__ = ["AnsweringPort", "hello", "run"]


def hello(**fields) -> Hello:
    """HELLO of an ATmega328P with firmware 0.2.0 and one sensor; ``fields`` replace what it says."""
    sensor = SensorRecord(0x40, Config().register(), 0, Calibration())
    return Hello(
        **{"firmware": (0, 2, 0), "boot": 3, "tick": 9, "profile": 2, "sensors": (sensor,), "board": 1} | fields
    )


def run(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``firmware-tools bridge WORDS`` as a process."""
    line = [sys.executable, "-m", "firmware_tools.cli", "bridge", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=env)


class AnsweringPort:
    """Answers GET_HELLO behind ``link`` with what ``says`` returns; None stays silent.

    ``commands`` has what else it was told; each is handed to ``obey`` first.
    """

    def __init__(
        self,
        link: Path,
        says: Callable[[], Hello | None],
        obey: Callable[[Command, tuple[int, ...]], None] = lambda *_: None,
    ) -> None:
        self.link, self._says, self._obey = link, says, obey
        self.commands: list[tuple[Command, tuple[int, ...]]] = []
        self._line, self._end = Line(link), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> AnsweringPort:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self._line.unplug()

    def _serve(self) -> None:
        parser = FrameParser()
        while not self._end.wait(0.005):
            for payload in parser.feed(self._line.read()):
                kind, values = decode_command(payload)
                if kind is not Command.GET_HELLO:
                    self._obey(kind, values)
                    self.commands.append((kind, values))
                elif (said := self._says()) is not None:
                    self._line.write(encode_frame(said.encode()))
