"""Loads of the machine: power over time, linear in pieces, with the energy in closed form.

A load is a sum of parts; a part is a list of pieces, each with its begin, its power there and its slope, and may
repeat. ``host/load.c`` has the same formulas, and a test holds one against the other. Time zero of a load is the
instant at which it begins.
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import DataError, UsageError

__all__ = ["Part", "PiecewiseLoad", "parse_load", "read_trace"]

Floats = npt.NDArray[np.float64]

_MLPERF_HEADER = struct.Struct("<Bf")
_MLPERF_MARK = 0xF1
_FORMS = (
    "constant:W, square:LOW_W,HIGH_W,PERIOD_S[,DUTY], burst:IDLE_W,PEAK_W,BEGIN_S,LENGTH_S[,PERIOD_S], "
    "ramp:FROM_W,TO_W,SECONDS, steps:W,SECONDS,...,W, trace:FILE, or a sum of them with +"
)


@dataclass(frozen=True, slots=True)
class Part:
    """Pieces of power.

    Args:
        at_s: begin of each piece, rising from 0; float64 [N].
        power_w: power at its begin; float64 [N].
        slope_w: W per s; float64 [N].
        period_s: after which the first piece comes again; 0: the last one holds for ever.
    """

    at_s: Floats
    power_w: Floats
    slope_w: Floats
    period_s: float = 0.0

    def __post_init__(self) -> None:
        at = self.at_s
        rising = at.size > 0 and at[0] == 0 and bool(np.all(np.diff(at) > 0))
        ends = self.period_s == 0 or (at.size > 0 and self.period_s > at[-1])
        finite = all(bool(np.all(np.isfinite(values))) for values in (at, self.power_w, self.slope_w))
        if not (rising and ends and finite and len(at) == len(self.power_w) == len(self.slope_w)):
            raise ValueError("pieces must be finite, begin at 0, rise, and end before the period does")

    def energy_j(self, t_s: Any) -> Floats:
        """Joules from the load's begin to each instant; shape of ``t_s``."""
        t = np.asarray(t_s, np.float64)
        spans = np.diff(self.at_s, append=self.period_s if self.period_s else self.at_s[-1])
        pieces = spans * (self.power_w + 0.5 * self.slope_w * spans)
        before = np.concatenate([[0.0], np.cumsum(pieces)])
        periods = np.floor(t / self.period_s) if self.period_s else np.zeros_like(t)
        into = t - periods * self.period_s
        piece = np.clip(np.searchsorted(self.at_s, into, side="right") - 1, 0, None)
        into = into - self.at_s[piece]
        joules: Floats = (
            periods * before[-1] + before[piece] + into * (self.power_w[piece] + 0.5 * self.slope_w[piece] * into)
        )
        return joules

    @property
    def peak_w(self) -> float:
        """Largest power; infinite for a ramp without an end."""
        if not self.period_s and self.slope_w[-1] > 0:
            return float("inf")
        spans = np.diff(self.at_s, append=self.period_s or self.at_s[-1])
        return float(np.max(np.maximum(self.power_w, self.power_w + self.slope_w * spans)))


@dataclass(frozen=True, slots=True)
class PiecewiseLoad:
    """The sum of its parts."""

    parts: tuple[Part, ...]

    def energy_j(self, t_s: Any) -> Floats:
        """Joules from the load's begin to each instant; shape of ``t_s``."""
        total = np.zeros(np.shape(t_s), np.float64)
        for part in self.parts:
            total = total + part.energy_j(t_s)
        return total

    @property
    def peak_w(self) -> float:
        """A bound of the power: the sum of the parts' peaks."""
        return sum(part.peak_w for part in self.parts)


def _part(pieces: Sequence[tuple[float, float, float]], period_s: float = 0.0) -> Part:
    at_s, power_w, slope_w = (np.array(column, np.float64) for column in zip(*pieces, strict=True))
    return Part(at_s, power_w, slope_w, period_s)


def _constant(power_w: float) -> Part:
    return _part([(0.0, power_w, 0.0)])


def _square(low_w: float, high_w: float, period_s: float, duty: float = 0.5) -> Part:
    """``high_w`` for ``duty`` of each period, then ``low_w``."""
    if not 0 < duty < 1:
        raise ValueError("duty")
    return _part([(0.0, high_w, 0.0), (duty * period_s, low_w, 0.0)], period_s)


def _burst(idle_w: float, peak_w: float, begin_s: float, length_s: float, period_s: float = 0.0) -> Part:
    """``peak_w`` for a while from ``begin_s`` on, ``idle_w`` before and after; once, or in each period."""
    pieces = [(begin_s, peak_w, 0.0), (begin_s + length_s, idle_w, 0.0)]
    return _part(pieces if begin_s == 0 else [(0.0, idle_w, 0.0), *pieces], period_s)


def _ramp(from_w: float, to_w: float, length_s: float) -> Part:
    return _part([(0.0, from_w, (to_w - from_w) / length_s), (length_s, to_w, 0.0)])


def _steps(*values: float) -> Part:
    """``W, S, W, S, ..., W``: each power for its seconds, the last one for ever."""
    if len(values) % 2 == 0:
        raise ValueError("steps")
    begins = np.concatenate([[0.0], np.cumsum(values[1::2])])
    return Part(begins, np.array(values[::2], np.float64), np.zeros(len(begins)))


_KINDS = {"constant": _constant, "square": _square, "burst": _burst, "ramp": _ramp, "steps": _steps}


def parse_load(text: str) -> PiecewiseLoad:
    """The load that ``text`` names; parts are added with ``+``.

    >>> float(parse_load("constant:1.5+square:0,1,0.002").energy_j(1.0))
    2.0

    Raises:
        UsageError: no such load.
        DataError: a trace that cannot be read.
    """
    parts = []
    for part in re.split(r"\+(?=[a-z]+:)", text):
        kind, _, rest = part.partition(":")
        if kind == "trace":
            parts.append(read_trace(Path(rest)))
            continue
        try:
            make: Any = _KINDS[kind]
            numbers = [float(number) for number in rest.split(",")]
            parts.append(make(*numbers))
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as cause:
            raise UsageError(f"unknown load {part!r}", where="--load", fix=f"use {_FORMS}") from cause
    return PiecewiseLoad(tuple(parts))


def read_trace(path: Path) -> Part:
    """A recording as a load of constant pieces that repeats after its end.

    Reads the energy trace of MLPerf Tiny's runner (byte f1, float32 rate, float32 microjoules for each sample; all
    little-endian), or a CSV with a header and the columns seconds, watts: each power holds until the next row, the
    last row ends the trace.

    Raises:
        DataError: it cannot be read, or is none of these.
    """
    try:
        data = path.read_bytes()
        if data[:1] == bytes([_MLPERF_MARK]):
            _, rate_hz = _MLPERF_HEADER.unpack_from(data)
            energy_uj = np.frombuffer(data, "<f4", -1, _MLPERF_HEADER.size).astype(np.float64)
            at_s, power_w = np.arange(len(energy_uj) + 1) / rate_hz, energy_uj * 1e-6 * rate_hz
        else:
            rows = list(csv.reader(data.decode().splitlines()))[1:]
            table = np.array([[float(cell) for cell in row[:2]] for row in rows], np.float64).reshape(-1, 2)
            at_s, power_w = table[:, 0] - table[0, 0], table[:-1, 1]
        return Part(at_s[:-1], power_w, np.zeros(len(power_w)), float(at_s[-1]))
    except OSError as cause:
        raise DataError(f"cannot be read: {cause.strerror}", where=str(path), fix="check the path") from cause
    except (ValueError, IndexError, struct.error) as cause:
        raise DataError(
            "no power trace", where=str(path), fix="give an energy.bin of MLPerf Tiny, or a CSV of seconds, watts"
        ) from cause
