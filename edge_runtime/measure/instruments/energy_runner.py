"""Joules from a recording: an MLPerf Tiny energy trace, and the windows of a run.

The EEMBC energy runner writes ``*-energy.bin``: the byte f1, a little-endian float32 rate in samples a second, then
one little-endian float32 per sample, the microjoules of that sample's interval. Its ``*-timestamps.json`` is a list of
seconds since the beginning of the trace; window ``n`` runs from stamp ``n`` to stamp ``n + 1``, counted from 1, and the
even ones are the measured runs of inferences (github.com/eembc/energyrunner).

The trace is read in blocks: memory does not grow with its length. A window edge inside a sample divides that sample at
constant power. A recording does not say how wrong its instrument was, so no figure here has an uncertainty.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from protos.energy.attribution import DEGRADED_COVERAGE, MINIMUM_COVERAGE
from protos.energy.trace import covered_share
from protos.errors import DataError

__all__ = ["Replay", "Window", "WindowEnergy", "integrate_trace", "read_windows", "window_energy"]

_MARK = 0xF1
_HEADER = struct.Struct("<Bf")
_BLOCK_BYTES = 1 << 18
_HIGHEST_RATE_HZ = 1e9
_MOST_WINDOWS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a recording: number, seconds since its beginning, and inferences in it (None: not told)."""

    number: int
    start_s: float
    stop_s: float
    inferences: int | None = None


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """One window's joules; ``energy_j`` is None where the recording covers less than 0.9 of it."""

    window: Window
    energy_j: float | None
    mean_w: float | None
    coverage: float
    flags: tuple[str, ...]

    @property
    def per_inference_j(self) -> float | None:
        """Joules of one inference, where both are known."""
        count = self.window.inferences
        return self.energy_j / count if self.energy_j is not None and count else None


@dataclass(frozen=True, slots=True)
class Replay:
    """A whole recording: joules, seconds, samples a second, the largest sample in watts, and its windows."""

    total_j: float
    duration_s: float
    rate_hz: float
    samples: int
    peak_w: float
    windows: tuple[WindowEnergy, ...]


def integrate_trace(path: Path, windows: Sequence[Window] = ()) -> Replay:
    """Integrate a recording, whole and over ``windows`` (which may nest and overlap).

    Raises:
        DataError: the file cannot be read, is not such a trace, ends within a sample, or holds NaN or infinity.
    """
    try:
        with path.open("rb") as file:
            return _integrate(file, windows, where=str(path))
    except OSError as cause:
        raise DataError(f"cannot be read: {cause.strerror or cause}", where=str(path)) from cause


def read_windows(path: Path) -> tuple[Window, ...]:
    """The windows of a run.

    Either the energy runner's list of ascending stamps in seconds, or
    ``{"windows": [{"start_s": 2.78, "stop_s": 14.05, "inferences": 150}, ...]}`` with ``inferences`` optional.

    Raises:
        DataError: the file cannot be read or is neither.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_WINDOWS_BYTES + 1)
    except OSError as cause:
        raise DataError(f"cannot be read: {cause.strerror or cause}", where=where) from cause
    if len(text) > _MOST_WINDOWS_BYTES:
        raise DataError("is too large for a list of windows", where=where, fix="give the *-timestamps.json of the run")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise DataError("is not JSON", where=where, fix="give the *-timestamps.json of the run") from cause
    if isinstance(document, list) and len(document) >= 2:
        stamps = [_seconds(value, where, f"stamp {at}") for at, value in enumerate(document, 1)]
        rows = [Window(number, start, stop) for number, (start, stop) in enumerate(pairwise(stamps), 1)]
    elif isinstance(document, dict) and isinstance(document.get("windows"), list):
        rows = [_window(row, number, where) for number, row in enumerate(document["windows"], 1)]
    else:
        raise DataError(
            "holds no windows",
            where=where,
            fix='give a list of two or more seconds, or {"windows": [{"start_s": 0, "stop_s": 1}]}',
        )
    for row in rows:
        if row.stop_s <= row.start_s:
            raise DataError(
                f"window {row.number} ends at {row.stop_s:g} s, not after its beginning at {row.start_s:g} s",
                where=where,
                fix="put the stamps in ascending order",
            )
    return tuple(rows)


def _integrate(file: IO[bytes], windows: Sequence[Window], *, where: str) -> Replay:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[0] != _MARK:
        raise DataError("is no MLPerf Tiny energy trace", where=where, fix="give the *-energy.bin of a run")
    rate_hz = float(_HEADER.unpack(head)[1])
    if not 0 < rate_hz <= _HIGHEST_RATE_HZ:
        raise DataError(f"says {rate_hz:g} samples a second", where=where, fix="the file is damaged; fetch it again")
    # Edges in samples. Stamps are decimal milliseconds, so what is within rounding of a sample is that sample's edge.
    edges = np.array([edge for window in windows for edge in (window.start_s, window.stop_s)], np.float64) * rate_hz
    nearest = np.round(edges)
    edges = np.where(np.abs(edges - nearest) < 1e-6, nearest, edges)
    order = np.argsort(edges, kind="stable")
    grown_uj = np.zeros(len(edges))
    taken = samples = 0
    total_uj, peak_uj = 0.0, -math.inf
    for block in _blocks(file, where):
        if not np.isfinite(block).all():
            bad = samples + int(np.flatnonzero(~np.isfinite(block))[0])
            raise DataError(f"sample {bad} is no number", where=where, fix="the file is damaged; fetch it again")
        sums = total_uj + np.concatenate([[0.0], np.cumsum(block)])
        last = samples + len(block)
        until = taken + int(np.searchsorted(edges[order[taken:]], last, "right"))
        now = order[taken:until]
        grown_uj[now] = np.interp(edges[now], np.arange(samples, last + 1, dtype=np.float64), sums)
        taken, samples, total_uj = until, last, float(sums[-1])
        peak_uj = max(peak_uj, float(block.max()))
    if not samples:
        raise DataError("holds no sample", where=where, fix="give the *-energy.bin of a run")
    grown_uj[order[taken:]] = total_uj
    inside = np.clip(edges, 0, samples)
    rows = [
        window_energy(
            window,
            float(grown_uj[2 * at + 1] - grown_uj[2 * at]) * 1e-6,
            float(inside[2 * at + 1] - inside[2 * at]) / rate_hz,
        )
        for at, window in enumerate(windows)
    ]
    return Replay(total_uj * 1e-6, samples / rate_hz, rate_hz, samples, peak_uj * 1e-6 * rate_hz, tuple(rows))


def _blocks(file: IO[bytes], where: str) -> Iterator[npt.NDArray[np.float64]]:
    """Microjoules, block by block; a pipe may deliver a sample in two parts."""
    rest = b""
    while data := file.read(_BLOCK_BYTES):
        data = rest + data
        whole = len(data) // 4 * 4
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data, "<f4", whole // 4).astype(np.float64)
    if rest:
        raise DataError(
            f"ends {4 - len(rest)} byte(s) before the end of a sample",
            where=where,
            fix="the file is cut; fetch it again",
        )


def window_energy(window: Window, energy_j: float, covered_s: float) -> WindowEnergy:
    """The joules of a window of which ``covered_s`` seconds have samples, or none where that is too little."""
    uncovered_s = max(0.0, window.stop_s - window.start_s - covered_s)
    # What is left by rounding of the edges is no gap.
    coverage = 1.0 if uncovered_s < 1e-9 else covered_share(covered_s, uncovered_s)
    flags = ("degraded",) if coverage < DEGRADED_COVERAGE else ()
    if coverage < MINIMUM_COVERAGE or covered_s <= 0:
        return WindowEnergy(window, None, None, coverage, flags)
    return WindowEnergy(window, energy_j, energy_j / covered_s, coverage, flags)


def _window(row: Any, number: int, where: str) -> Window:
    if not isinstance(row, dict):
        raise DataError(f"window {number} is no object with start_s and stop_s", where=where)
    count = row.get("inferences")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise DataError(f"inferences of window {number} is no whole number from 1 up", where=where)
    start_s = _seconds(row.get("start_s"), where, f"start_s of window {number}")
    return Window(number, start_s, _seconds(row.get("stop_s"), where, f"stop_s of window {number}"), count)


def _seconds(value: Any, where: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise DataError(
            f"{name} is no number of seconds from 0 up", where=where, fix="give seconds since the beginning"
        )
    return float(value)
