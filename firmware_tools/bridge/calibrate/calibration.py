"""Arithmetic of a calibration: what a sensor read, held against what a reference meter said.

The chain is ``shunt_v = offset_v + current_a * shunt_ohm / (1 + gain)``. A zero (no current) and one or more currents
are points on this line; weighted least squares draw it. What is known of the offset from before is a point at no
current as well, with its own uncertainty, so that one formula serves a zero alone, a gain alone, and both.

A reference meter's limit of error has two parts: one in proportion to the reading, which no number of points can
reveal and which goes into the gain whole, and one of fixed size, which each point carries by itself. Limits are read as
rectangles (GUM 4.3.7): standard uncertainty = limit / sqrt 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.energy.ina219 import BUS_STEP_V, OFFSET_LIMIT_V, SHUNT_STEP_V, Config, sample_flags
from protos.energy.trace import SampleFlag
from protos.errors import CheckFailed, DataError

__all__ = ["Line", "MeterError", "Point", "Reading", "check_no_current", "check_steady", "fit_line", "read_shunt"]

Floats = npt.NDArray[np.float64]
BLOCKS = 25
LEAST_SAMPLES = 200
SQRT3, SQRT12 = math.sqrt(3), math.sqrt(12)
STEADY_RELATIVE = 0.02
"""A load that swings by more than this (one sigma of samples, noise left out) is no load to calibrate with."""
ZERO_SPREAD_V = 50e-6
"""Ten times the noise of one conversion: with no current, more than that is a load that pulses."""
LINE_SIGMAS = 4.0
GAIN_SANE = 0.05
"""Five times the tolerance of a shunt: beyond it the nominal shunt, or the reference, is not what was said."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Mean of one measurement, weighted by time.

    Args:
        shunt_v: of the shunt voltage, V.
        shunt_standard_v: standard uncertainty of that mean: scatter of blocks, and register steps.
        spread_v: standard deviation of samples, V.
        bus_v: of the bus voltage, V.
        bus_standard_v: of that mean, V; the sensor's own bus error is not in it.
        seconds: of samples.
        samples: how many.
        clipped: how many were at the end of the range.
    """

    shunt_v: float
    shunt_standard_v: float
    spread_v: float
    bus_v: float
    bus_standard_v: float
    seconds: float
    samples: int
    clipped: int


@dataclass(frozen=True, slots=True)
class Point:
    """A current, and the shunt voltage that belongs to it; both with standard uncertainties of their own."""

    current_a: float
    current_standard_a: float
    shunt_v: float
    shunt_standard_v: float


@dataclass(frozen=True, slots=True)
class MeterError:
    """Limit of a reference meter's error: ``relative`` of the reading plus ``fixed`` (A or W)."""

    relative: float = 0.0
    fixed: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """The chain as found.

    Args:
        offset_v: shunt voltage with no current, V.
        offset_standard_v: its standard uncertainty.
        gain: relative; the nominal current is multiplied by 1 + gain.
        gain_standard: its standard uncertainty, the reference's relative part included; None: gain was not looked at.
        residual_sigmas: largest distance of a point from the line, in its own standard uncertainties.
    """

    offset_v: float
    offset_standard_v: float
    gain: float
    gain_standard: float | None
    residual_sigmas: float


def read_shunt(
    dt_us: npt.NDArray[np.int64], shunt: npt.NDArray[np.int16], bus: npt.NDArray[np.uint16], config: Config
) -> Reading:
    """Mean and uncertainty of raw samples; int64, int16, uint16 [N].

    Raises:
        DataError: fewer than 200 samples.
    """
    if len(dt_us) < LEAST_SAMPLES:
        what = f"{len(dt_us)} samples, too few to average"
        raise DataError(what, where="calibration", fix="measure longer (--seconds), or run bridge selftest")
    weight: Floats = dt_us / dt_us.sum()
    shunt_v = shunt.astype(np.float64) * SHUNT_STEP_V
    bus_v = (bus >> 3).astype(np.float64) * BUS_STEP_V
    mean_v, bus_mean_v = float(weight @ shunt_v), float(weight @ bus_v)
    shunt_steps = _step_standard(shunt, shunt_v, config.shunt_step_v)
    bus_steps = _step_standard(bus >> 3, bus_v, config.bus_step_v)
    return Reading(
        mean_v, math.hypot(_block_standard(shunt_v, weight), shunt_steps), float(shunt_v.std()),
        bus_mean_v, math.hypot(_block_standard(bus_v, weight), bus_steps),
        float(dt_us.sum()) * 1e-6, len(dt_us),
        int(np.count_nonzero(sample_flags(shunt, bus, config) & SampleFlag.CLIPPED)),
    )  # fmt: skip


def check_no_current(reading: Reading, pga: int, shunt_ohm: float) -> None:
    """A zero may be as large as the data sheet allows, and steady.

    Raises:
        CheckFailed: current flows.
    """
    limit_v = OFFSET_LIMIT_V[pga] + 3 * reading.shunt_standard_v
    if abs(reading.shunt_v) <= limit_v and reading.spread_v <= ZERO_SPREAD_V:
        return
    seen = f"{reading.shunt_v / shunt_ohm * 1e3:.1f} mA (sigma {reading.spread_v / shunt_ohm * 1e3:.1f} mA)"
    what = f"current flows: {seen}; a zero is at most {limit_v / shunt_ohm * 1e3:.1f} mA"
    raise CheckFailed(what, where="calibrate --zero", fix="disconnect the load from IN-, leave the supply on")


def check_steady(reading: Reading) -> None:
    """A current to calibrate with is in range, well above the noise, and steady.

    Raises:
        CheckFailed: it is not.
    """
    fix = "use a resistor or an electronic load, and wait until it is warm"
    if reading.clipped:
        what = f"{reading.clipped} samples are at the end of the range"
        raise CheckFailed(what, where="calibrate", fix="use less current, or bridge config --range")
    if reading.spread_v > STEADY_RELATIVE * abs(reading.shunt_v) + ZERO_SPREAD_V:
        what = f"the load is not steady: it varies by {reading.spread_v / abs(reading.shunt_v):.1%}"
        raise CheckFailed(what, where="calibrate", fix=fix)
    if abs(reading.shunt_v) < 100 * reading.shunt_standard_v or abs(reading.shunt_v) < 1e-3:
        what = f"the shunt voltage is {reading.shunt_v * 1e3:.3f} mV, too little to find a gain"
        raise CheckFailed(what, where="calibrate", fix="use a load near the largest current of the range")


def fit_line(points: Sequence[Point], shunt_ohm: float, gain_before: float, reference_relative: float) -> Line:
    """Offset and gain from points; with points at no current only, the gain stays as it was.

    Args:
        points: at least one; standard uncertainties of the shunt voltages over 0.
        shunt_ohm: nominal shunt.
        gain_before: relative gain in use.
        reference_relative: limit of the reference's error in proportion to the reading.

    Raises:
        CheckFailed: the points are on no line, or the gain is no gain of a sound chain.
    """
    amperes = np.array([point.current_a for point in points])
    volts = np.array([point.shunt_v for point in points])
    slope = shunt_ohm / (1 + gain_before)
    sigma = np.array([math.hypot(p.shunt_standard_v, slope * p.current_standard_a) for p in points])
    weight = sigma**-2.0
    if not amperes.any():
        offset = float(weight @ volts / weight.sum())
        residual = float(np.max(np.abs(volts - offset) / sigma)) if len(points) > 1 else 0.0
        return Line(offset, float(weight.sum()) ** -0.5, gain_before, None, residual)
    # Centred, so that the two unknowns do not disturb each other: offset = level - slope * middle.
    middle = float(weight @ amperes / weight.sum())
    lever = float(weight @ (amperes - middle) ** 2)
    if lever <= 0:
        raise CheckFailed("all points are at one current", where="calibrate", fix="add --zero, or another current")
    slope = float(weight @ ((amperes - middle) * volts)) / lever
    level = float(weight @ volts / weight.sum())
    offset = level - slope * middle
    offset_standard = math.sqrt(1 / float(weight.sum()) + middle**2 / lever)
    residual = float(np.max(np.abs(volts - offset - slope * amperes) / sigma)) if len(points) > 2 else 0.0
    if residual > LINE_SIGMAS:
        what = f"the points are not on a line: one is {residual:.1f} standard uncertainties away"
        raise CheckFailed(what, where="calibrate", fix="check the reference, its range, and that the load was steady")
    if not abs(slope / shunt_ohm - 1) <= GAIN_SANE:
        what = f"reference and sensor differ by {abs(slope / shunt_ohm - 1):.1%} with a shunt of {shunt_ohm:g} ohm"
        raise CheckFailed(what, where="calibrate", fix="give the shunt that is fitted (--shunt-ohm), check the meter")
    relative = math.hypot(lever**-0.5 / slope, reference_relative / SQRT3)
    gain = shunt_ohm / slope - 1
    return Line(offset, offset_standard, gain, (1 + gain) * relative, residual)


def _block_standard(values: Floats, weight: Floats) -> float:
    """Standard error of the mean from blocks, so that slow wandering is not taken for independent noise."""
    means = [
        float(part @ share / share.sum())
        for part, share in zip(np.array_split(values, BLOCKS), np.array_split(weight, BLOCKS), strict=True)
    ]
    return float(np.std(means, ddof=1)) / math.sqrt(BLOCKS)


def _step_standard(codes: npt.NDArray[np.generic], values: Floats, step: float) -> float:
    """What register steps leave in the mean of many samples.

    A quiet value sits on one step, and is wrong by up to half of it: step / sqrt 12. Noise lifts it over the edges and
    its mean follows the truth; of the error, harmonic k remains by exp(-2 (pi k sigma / step)^2) (Widrow and Kollar,
    Quantization Noise, chapter 4). Sigma is known only when three or more steps are visited.
    """
    _, counts = np.unique(codes, return_counts=True)
    if np.count_nonzero(counts > 0.01 * len(codes)) < 3:
        return step / SQRT12
    variance = max(0.0, float(values.var()) / step**2 - 1 / 12)
    harmonics = np.arange(1, 20)
    left = np.exp(-4 * math.pi**2 * harmonics**2 * variance) / harmonics**2
    return step / (math.pi * math.sqrt(2)) * math.sqrt(float(left.sum()))
