"""Model of one INA219 in continuous mode on a load, with the sums that the bridge keeps for it.

Modelled: the shunt register holds the mean over its own conversion window, the bus window follows; oscillator
error; register steps by resolution; PGA clipping; offset, gain and shunt errors that a calibration has brought
down to its own resolution; noise. Not modelled: temperature, the analogue input filter, supply sag, I2C errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from firmware_tools.bridge.simulator.loads import Load
from firmware_tools.bridge.simulator.rhythm import plan_conversions
from protos.energy.ina219 import (
    BUS_LIMIT,
    BUS_STEP_V,
    BUS_TYPICAL,
    CLIP_RAW,
    GAIN_LIMIT,
    GAIN_TYPICAL,
    NOISE_V,
    OFFSET_LIMIT_V,
    OFFSET_TYPICAL_V,
    SHUNT_LIMIT,
    SHUNT_STEP_V,
    Calibration,
    Config,
    Profile,
)

__all__ = ["WIRINGS", "Batch", "SensorErrors", "SimulatedIna219", "Sums", "Wiring"]

Wiring = Literal["right", "swapped", "open-minus", "low-side", "bypassed"]
WIRINGS: tuple[Wiring, ...] = get_args(Wiring)
"""How the sensor sits in the line: as it should; VIN+ and VIN- swapped; IN- open; in the ground line, where IN- is at
ground; or with the load's current flowing past it."""
AHEAD = 512
"""Conversions planned at a time, at least."""


@dataclass(frozen=True, slots=True)
class SensorErrors:
    """What is wrong with one sensor and its shunt: the truth behind the calibration.

    Args:
        offset_v: shunt voltage read with no current, V.
        gain: relative error of shunt resistance and current gain together.
        oscillator: relative error of the conversion times; the data sheet allows 0.1.
        noise_v: standard deviation of one 12-bit shunt conversion, V.
        bus_gain: relative error of the bus voltage.
    """

    offset_v: float = 0.0
    gain: float = 0.0
    oscillator: float = 0.0
    noise_v: float = 0.0
    bus_gain: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> SensorErrors:
        """Errors of a typical part with a 1 % shunt."""
        return cls(
            offset_v=float(np.clip(rng.normal(0, 20e-6), -60e-6, 60e-6)),
            gain=float(np.clip(rng.normal(0, 0.005), -0.012, 0.012)),
            oscillator=float(rng.uniform(-0.03, 0.03)),
            noise_v=5e-6,
        )

    @classmethod
    def of_any_part(cls, rng: np.random.Generator, pga: int = 1) -> SensorErrors:
        """Errors as the data sheet and a 1 % shunt allow them: the shunt anywhere within, the chip's normal and cut."""

        def part(typical: float, limit: float) -> float:
            return float(np.clip(rng.normal(0, typical), -limit, limit))

        shunt = float(rng.uniform(-SHUNT_LIMIT, SHUNT_LIMIT))
        return cls(
            offset_v=part(OFFSET_TYPICAL_V[pga], OFFSET_LIMIT_V[pga]),
            gain=(1 + shunt) * (1 + part(GAIN_TYPICAL, GAIN_LIMIT)) - 1,
            oscillator=float(rng.uniform(-0.1, 0.1)),
            noise_v=NOISE_V,
            bus_gain=part(BUS_TYPICAL, BUS_LIMIT),
        )

    def calibrated(self, number: int, shunt_ohm: float, *, day: int) -> Calibration:
        """The record that a careful calibration of this sensor writes: 0.1 uV and 100 ppm resolution."""
        return Calibration(
            id=number,
            shunt_uohm=round(shunt_ohm * 1e6),
            offset_nv=round(self.offset_v * 1e7) * 100,
            gain_ppm=round((1 / (1 + self.gain) - 1) * 1e4) * 100,
            day=day,
        )


@dataclass(slots=True)
class Sums:
    """The accumulators of STATS; Python integers, reduced to 64 bits when sent."""

    samples: int = 0
    time: int = 0
    charge: int = 0
    voltage: int = 0
    energy: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Finished conversions: begin of the first and ends of all, host seconds; raw registers as read."""

    begin_s: float
    end_s: npt.NDArray[np.float64]
    shunt: npt.NDArray[np.int16]
    bus: npt.NDArray[np.uint16]


class SimulatedIna219:
    """A sensor that converts without pause from ``start_s`` on, or with the pauses of a bridge that dithers.

    Args:
        load: what draws the power.
        supply_v: bus voltage, constant.
        shunt_ohm: nominal shunt.
        errors: the part's own errors.
        profile: sensor setting.
        rng: source of the noise and of the dither.
        start_s: host time of the first conversion.
        wiring: one of :data:`WIRINGS`; may be changed at any time.
        dither: conversions restart after pauses at random, with bus resolutions at random, as the bridge's firmware
            has them restart (``firmware/core/dither.c``; the time that a restart takes is left out).
    """

    def __init__(
        self,
        load: Load,
        *,
        supply_v: float,
        shunt_ohm: float,
        errors: SensorErrors,
        profile: Profile,
        rng: np.random.Generator,
        start_s: float,
        dither: bool = False,
        wiring: Wiring = "right",
    ) -> None:
        self.load, self.supply_v, self.shunt_ohm, self.errors = load, supply_v, shunt_ohm, errors
        self.wiring: Wiring = wiring
        self._rng, self._dither = rng, dither
        self.configure(profile.config, start_s)

    def configure(self, config: Config, now_s: float) -> None:
        """Write the configuration register: conversion starts anew."""
        self.config = config
        self._taken_s = now_s
        self._plan = plan_conversions(config, self._rng, 0, dither=self._dither)
        self._window_s = config.shunt_s * (1 + self.errors.oscillator)
        self._end_s = np.zeros(0)

    def ready(self, now_s: float) -> int:
        """Conversions finished by ``now_s`` and not taken yet."""
        while not len(self._end_s) or self._end_s[-1] <= now_s:
            self._look_ahead(max(AHEAD, int((now_s - self._taken_s) / self.config.period_s)))
        return int(np.searchsorted(self._end_s, now_s, "right"))

    def take(self, count: int) -> Batch:
        """The next ``count`` conversions, which must be finished."""
        while len(self._end_s) < count:
            self._look_ahead(max(AHEAD, count))
        end_s, plan = self._end_s[:count], self._plan.head(count)
        begin_s, self._taken_s = self._taken_s, float(end_s[-1])
        self._end_s, self._plan = self._end_s[count:], self._plan.tail(count)
        edges = np.concatenate([end_s - plan.period_s * (1 + self.errors.oscillator)] * 2)
        edges[count:] += self._window_s
        joules = self.load.energy_j(edges)
        mean_w = (joules[count:] - joules[:count]) / self._window_s
        noise_v = self.errors.noise_v / self.config.averages**0.5
        through = {"swapped": -1.0, "open-minus": 0.0, "bypassed": 0.0}.get(self.wiring, 1.0)
        seen_v = through * mean_w / self.supply_v * self.shunt_ohm * (1 + self.errors.gain) + self.errors.offset_v
        seen_v = seen_v + self._rng.normal(0.0, noise_v, count) if noise_v else seen_v
        coarse = round(self.config.shunt_step_v / SHUNT_STEP_V)
        limit = CLIP_RAW[self.config.pga]
        shunt = np.clip(np.rint(seen_v / self.config.shunt_step_v) * coarse, -limit, limit).astype(np.int16)
        # 16 V or 32 V range: 4000 or 8000 steps of 4 mV.
        top_v = 32.0 if self.config.bus_range_32v else 16.0
        at_minus_v = 0.0 if self.wiring in ("open-minus", "low-side") else self.supply_v
        bus_v = min(at_minus_v * (1 + self.errors.bus_gain), top_v)
        bus_steps = np.rint(bus_v / (BUS_STEP_V * plan.coarse)) * plan.coarse
        bus = (bus_steps.astype(np.uint16) << 3 | 2).astype(np.uint16)
        return Batch(begin_s, end_s, shunt, bus)

    def _look_ahead(self, count: int) -> None:
        """Plan ``count`` more conversions."""
        more = plan_conversions(self.config, self._rng, count, dither=self._dither)
        last_s = float(self._end_s[-1]) if len(self._end_s) else self._taken_s
        widths_s = more.pause_s + more.period_s * (1 + self.errors.oscillator)
        self._end_s = np.concatenate([self._end_s, last_s + np.cumsum(widths_s)])
        self._plan = self._plan.then(more)
