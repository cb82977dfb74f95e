"""JLS: the files of Joulescope's programs. One signal ``power``, W, on a grid of equal samples; gaps are NaN."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np

from edge_runtime.power.recording.export import Row
from edge_runtime.power.recording.formats.grid import cells

__all__ = ["write"]

_SOURCE = _SIGNAL = 1


def write(path: Path, rows: Iterable[Row], *, rate_hz: int, begun_utc: str, name: str, version: str) -> tuple[int, int]:
    """Write a file at ``path``; how many samples it has, and how many of them nobody measured.

    Args:
        rate_hz: samples in a second, whole.
        begun_utc: wall clock of second 0, ISO 8601.
        name: of the sensor.
        version: of what measured.
    """
    import pyjls

    begun_s = datetime.fromisoformat(begun_utc).timestamp()
    count = missing = 0
    with contextlib.closing(pyjls.Writer(str(path))) as writer:
        writer.source_def(
            source_id=_SOURCE, name=name, vendor="edgejoule", model="", version=version, serial_number=name
        )
        writer.signal_def(
            signal_id=_SIGNAL, source_id=_SOURCE, sample_rate=rate_hz, name="power", units="W",
            signal_type=pyjls.SignalType.FSR, data_type=pyjls.DataType.F32,
        )  # fmt: skip
        writer.utc(_SIGNAL, 0, pyjls.utc_to_jls(begun_s))
        for watts in cells(rows, rate_hz):
            writer.fsr(_SIGNAL, count, np.ascontiguousarray(watts, np.float32))
            count += len(watts)
            missing += int(np.isnan(watts).sum())
        if count:
            writer.utc(_SIGNAL, count - 1, pyjls.utc_to_jls(begun_s + (count - 1) / rate_hz))
    return count, missing
