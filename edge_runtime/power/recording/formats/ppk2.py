"""``.ppk2``: a session of Nordic's Power Profiler app (format 2), a ZIP archive of three members.

``session.raw`` has six bytes for each sample, current in uA as little-endian float32 and the digital channels, none
here; ``metadata.json`` the rate and the wall clock of the beginning, ms; ``minimap.raw`` least and largest currents,
nA, over at most 10,000 stretches. The format has no voltage: watts are divided by ``volts``, and whoever multiplies by
it gets the watts back. It has no gaps either: cells that nobody measured are 0 uA, and how many is returned.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from datetime import datetime
from typing import IO

import numpy as np
import numpy.typing as npt

from edge_runtime.power.recording.export import Row
from edge_runtime.power.recording.formats.grid import cells

__all__ = ["write"]

_FRAME = np.dtype([("current_ua", "<f4"), ("bits", "<u2")])
# No channel is wired: two bits each, 01 for low, as the app writes them.
_BITS = 0x5555
_MOST = 10_000
# The app's own floor of a logarithmic axis, nA.
_LEAST_NA = 200.0


def write(file: IO[bytes], rows: Iterable[Row], *, rate_hz: int, volts: float, begun_utc: str) -> tuple[int, int]:
    """Write a session; how many samples it has, and how many of them nobody measured.

    Args:
        rate_hz: samples in a second, whole.
        volts: at which the board runs.
        begun_utc: wall clock of second 0, ISO 8601.
    """
    count = missing = 0
    fold = _Fold()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("session.raw", "w", force_zip64=True) as session:
            for watts in cells(rows, rate_hz):
                current_ua = watts / volts * 1e6
                absent = np.isnan(current_ua)
                frames = np.zeros(len(watts), _FRAME)
                frames["current_ua"], frames["bits"] = np.where(absent, 0.0, current_ua), _BITS
                session.write(frames.tobytes())
                fold.add(frames["current_ua"].astype(np.float64), count, 1e6 / rate_hz)
                count += len(watts)
                missing += int(absent.sum())
        about = {
            "metadata": {
                "samplesPerSecond": rate_hz,
                "startSystemTime": round(datetime.fromisoformat(begun_utc).timestamp() * 1000),
                "createdBy": "edgejoule",
            },
            "formatVersion": 2,
        }
        archive.writestr("metadata.json", json.dumps(about))
        archive.writestr("minimap.raw", json.dumps(fold.as_json()))
    return count, missing


class _Fold:
    """Least and largest currents over stretches of equal length, which is doubled whenever there are too many."""

    def __init__(self) -> None:
        self._each = 1
        self._low: list[float] = []
        self._high: list[float] = []
        self._in_last = 0
        self._sample_us = 1.0

    def add(self, current_ua: npt.NDArray[np.float64], first: int, sample_us: float) -> None:
        """More samples, behind those before; ``first`` is the number of the first."""
        self._sample_us = sample_us
        for value in np.maximum(current_ua * 1000.0, _LEAST_NA).tolist():
            if self._in_last == 0:
                self._low.append(value)
                self._high.append(value)
            self._low[-1], self._high[-1] = min(self._low[-1], value), max(self._high[-1], value)
            self._in_last = (self._in_last + 1) % self._each
            if len(self._low) == _MOST and self._in_last == 0:
                self._low = [min(pair) for pair in zip(self._low[::2], self._low[1::2], strict=True)]
                self._high = [max(pair) for pair in zip(self._high[::2], self._high[1::2], strict=True)]
                self._each *= 2

    def as_json(self) -> dict[str, object]:
        def points(values: list[float]) -> list[dict[str, float]]:
            middle = (self._each - 1) / 2
            return [{"x": (self._each * k + middle) * self._sample_us, "y": value} for k, value in enumerate(values)]

        return {
            "lastElementFoldCount": self._in_last,
            "data": {"length": len(self._low), "min": points(self._low), "max": points(self._high)},
            "maxNumberOfElements": _MOST,
            "numberOfTimesToFold": self._each,
        }
