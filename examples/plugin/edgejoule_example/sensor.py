"""Watts from a file that another program writes, such as one that asks a power supply: ``wattfile:PATH?rate=HZ``."""

from collections.abc import Mapping
from pathlib import Path

from edge_runtime.extending import (
    Capabilities,
    Clock,
    ErrorModel,
    Instants,
    MeterIdentity,
    PowerTrace,
    SensorError,
    UsageError,
    number,
    refuse_others,
)


def wattfile(rest: str, options: Mapping[str, str], clock: Clock) -> "WattFile":
    """The sensor of ``wattfile:PATH``, not open yet."""
    refuse_others(options, ("rate",))
    if not rest:
        raise UsageError("names no file", where="wattfile", fix="write wattfile:/run/supply-watts")
    return WattFile(Path(rest), number(options, "rate", 0.1, 1000.0, "Hz") or 10.0)


class WattFile:
    """A source: it is asked again and again, by a thread that edgejoule owns."""

    dithers = False

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.path, self.poll_s = path, 1.0 / rate_hz
        # "partial" sees a part of the board; this one sees what the file's writer sees, uncalibrated.
        self.identity = MeterIdentity("measured", f"wattfile:{path}", "none", "uncalibrated")
        self.capabilities = Capabilities(rate_hz=rate_hz, timestamps="host")

    def open(self, now_s: float) -> None:
        """Also called again after it was lost."""
        if not self.path.is_file():
            raise SensorError("is not there", where=str(self.path), fix="start the program that writes it")
        # Each reading stands for the time nearest to it.
        self._instants = Instants(self.poll_s)

    def take(self, now_s: float) -> PowerTrace:
        """The sample that became complete. An OSError or ValueError means that the source is lost."""
        return self._instants.add(now_s, float(self.path.read_text()))

    def errors(self) -> ErrorModel:
        """Supplies of this kind state 1 % of the reading; the rest of the budget follows from the samples."""
        return ErrorModel(gain_relative=0.01)

    def flags(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        return None
