"""Arithmetic of the INA219 current and power monitor, on the raw registers.

The host computes power from the raw shunt and bus registers in floating point. The chip's own calibration,
current and power registers are not used: they round and overflow. Section names are those of the data sheet
SBOS448 (Texas Instruments).

* Shunt voltage register (01h): signed, one step is 10 uV at 12 bits, whatever the PGA. A lower resolution
  leaves the low bits at zero (80 uV steps at 9 bits).
* Bus voltage register (02h): bits 15..3 in steps of 4 mV; bit 1 CNVR, conversion ready; bit 0 OVF, math overflow
  of the chip's own power calculation, which says nothing of a clipped shunt: clipping is seen as a raw value at
  the end of the PGA range.
* The shunt and the bus are converted one after the other, so the shunt is looked at for a part (``duty``) of the
  time only. Its clock is within +-10 % of nominal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.energy.trace import SampleFlag
from protos.energy.uncertainty import ErrorModel

__all__ = [
    "BUS_STEP_V",
    "CONVERSION_S",
    "DEFAULT_SHUNT_UOHM",
    "LEAST_BOARD_V",
    "PROFILES",
    "SHUNT_STEP_V",
    "Calibration",
    "Config",
    "Mode",
    "Profile",
    "bus_flags",
    "sample_flags",
    "watts",
]

SHUNT_STEP_V = 10e-6
BUS_STEP_V = 4e-3
LEAST_BOARD_V = 2.5
"""Under this no board runs: a lithium cell is empty at 3.0 V, the regulators of boards give up before. A sensor that
reads less has an open IN-, sits in the ground line, or has no ground in common with the supply."""
BUS_FULL_RAW = (4000, 8000)
"""Full scale of the bus voltage register, of its bits 15..3, by BRNG: 16 V, 32 V. It stays there beyond."""
CLIP_RAW = (4000, 8000, 16000, 32000)
"""Full scale of the shunt register by PGA code: +-40, 80, 160, 320 mV."""
OFFSET_LIMIT_V = (100e-6, 125e-6, 150e-6, 200e-6)
"""Limit of the offset voltage by PGA code, grade A, 25 degrees C (Electrical Characteristics)."""
OFFSET_TYPICAL_V = (10e-6, 20e-6, 30e-6, 40e-6)
"""Typical offset voltage by PGA code; read as one sigma of the parts made."""
DEFAULT_SHUNT_UOHM = 100_000
"""What a bridge says of a shunt it was never told: the R100 of common breakout boards. Other boards have others."""
SHUNT_LIMIT = 0.01
"""Tolerance of the shunt resistor of common breakout boards (R100, 1 %)."""
GAIN_LIMIT, GAIN_TYPICAL = 0.005, 0.002
"""Current measurement error, limit and typical, grade A, 25 degrees C; typical is read as one sigma."""
BUS_LIMIT, BUS_TYPICAL = 0.005, 0.002
"""Bus voltage measurement error, alike."""
NOISE_V = 5e-6
"""Noise of one 12-bit shunt conversion, one sigma: an assumption (the data sheet has none), half a step."""
REFERENCE_RELATIVE = 0.001
"""Limit of the reference meter of a calibration when nothing else is known: an assumption, a good hand-held meter."""
ZERO_LIMIT_V = 5e-6
"""What a zero calibration leaves: half a register step, drift of 0.1 uV per degree within it. An assumption."""
SINCE_CALIBRATION = 0.0005
"""Limit of shunt, and of amplifier, since the calibration: ageing and 10 degrees at 50 ppm each. An assumption, for
what the surroundings do; the shunt's own heat is beside it."""
SHUNT_HEATING_PER_W = 0.009
"""Limit of the change of a shunt's resistance per watt in it: 100 ppm per degree of cheap chip resistors times some 90
degrees per watt of a 2512 on a small board. An assumption: 0.1 ohm at 1.5 A (0.225 W) changes by 0.2 %, 0.02 ohm at the
same current by 0.04 %. It holds whether or not the shunt was calibrated, since nobody knows how warm it was then."""
CONVERSION_S = MappingProxyType(
    {
        0: 84e-6,
        1: 148e-6,
        2: 276e-6,
        3: 532e-6,
        8: 532e-6,
        9: 1.06e-3,
        10: 2.13e-3,
        11: 4.26e-3,
        12: 8.51e-3,
        13: 17.02e-3,
        14: 34.05e-3,
        15: 68.10e-3,
    }
)
"""Nominal conversion time by ADC code (table "ADC Settings"): 0..3 are 9 to 12 bits, 9..15 average 2 to 128."""


class Mode(IntEnum):
    """MODE field, bits 2..0 of the configuration register."""

    POWER_DOWN = 0
    SHUNT_TRIGGERED = 1
    BUS_TRIGGERED = 2
    BOTH_TRIGGERED = 3
    ADC_OFF = 4
    SHUNT_CONTINUOUS = 5
    BUS_CONTINUOUS = 6
    BOTH_CONTINUOUS = 7


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration register (00h), field by field.

    Args:
        bus_range_32v: BRNG, bit 13.
        pga: bits 12..11; the shunt range is 40 mV shifted left by it.
        bus_adc: BADC, bits 10..7, a key of CONVERSION_S.
        shunt_adc: SADC, bits 6..3.
        mode: bits 2..0.
    """

    bus_range_32v: bool = False
    pga: int = 1
    bus_adc: int = 3
    shunt_adc: int = 12
    mode: Mode = Mode.BOTH_CONTINUOUS

    def register(self) -> int:
        """The 16-bit value to write.

        >>> hex(Config(bus_range_32v=True, pga=3, bus_adc=3, shunt_adc=3).register())  # the power-on value
        '0x399f'
        """
        return int(self.bus_range_32v) << 13 | self.pga << 11 | self.bus_adc << 7 | self.shunt_adc << 3 | self.mode

    @classmethod
    def of(cls, register: int) -> Config:
        """The fields of a register value; codes that the data sheet marks as equal are made one."""
        bus, shunt = (_canonical(register >> shift & 0xF) for shift in (7, 3))
        return cls(bool(register >> 13 & 1), register >> 11 & 3, bus, shunt, Mode(register & 7))

    def wide(self) -> Config:
        """The same in the bus range of 32 V."""
        return replace(self, bus_range_32v=True)

    @property
    def shunt_s(self) -> float:
        """Nominal time the shunt is looked at in each period, s."""
        return CONVERSION_S[self.shunt_adc]

    @property
    def period_s(self) -> float:
        """Nominal time from one pair of conversions to the next, s."""
        return CONVERSION_S[self.shunt_adc] + CONVERSION_S[self.bus_adc]

    @property
    def duty(self) -> float:
        """Share of the period in which the shunt is looked at."""
        return self.shunt_s / self.period_s

    @property
    def shunt_step_v(self) -> float:
        """Step of the shunt voltage with this resolution, V."""
        return SHUNT_STEP_V * _coarseness(self.shunt_adc)

    @property
    def bus_step_v(self) -> float:
        """Step of the bus voltage with this resolution, V."""
        return BUS_STEP_V * _coarseness(self.bus_adc)

    @property
    def dithered_bus_step_v(self) -> float:
        """Step that the mean of samples has when a bridge varies the resolution of the bus voltage, V.

        Ten bits stand for a mixture of 10 (a quarter of the time) and 11; 11 and 12 bits for both by halves. Each
        resolution errs by itself.
        """
        shares = {1: (0.0, 0.25, 0.75, 0.0), 2: (0.0, 0.0, 0.5, 0.5), 3: (0.0, 0.0, 0.5, 0.5)}.get(self.bus_adc)
        if shares is None:
            return self.bus_step_v
        return math.hypot(*(share * BUS_STEP_V * _coarseness(code) for code, share in enumerate(shares)))

    @property
    def averages(self) -> int:
        """Shunt conversions averaged into one sample."""
        return 1 << (self.shunt_adc - 8) if self.shunt_adc >= 8 else 1


@dataclass(frozen=True, slots=True)
class Profile:
    """A named sensor setting. ``code`` travels on the wire."""

    name: str
    code: int
    config: Config

    @property
    def rate_hz(self) -> float:
        """Nominal samples per second."""
        return 1.0 / self.config.period_s


PROFILES = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("energy", 1, Config(bus_adc=3, shunt_adc=12)),  # 111 Hz, duty 94 %
            Profile("balanced", 2, Config(bus_adc=3, shunt_adc=11)),  # 209 Hz, duty 89 %
            Profile("transient", 3, Config(bus_adc=1, shunt_adc=3)),  # 1470 Hz, duty 78 %
        )
    }
)
"""The settings on offer as a bridge boots with them, in the 16 V and 80 mV ranges. Whoever reads a sensor sets the 32 V
range (:meth:`Config.wide`): its step is the same, and it holds what 16 V would cut off. Twelve bits for both sees half
of the time only and locks to periodic loads; it is not among them."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of one sensor's analogue chain; travels in HELLO.

    Args:
        id: 0 when the chain was never calibrated.
        shunt_uohm: shunt resistance, micro-ohm.
        offset_nv: shunt voltage read with no current, nanovolt; subtracted.
        gain_ppm: the current is multiplied by 1 + gain_ppm / 1e6.
        day: days since 1970-01-01 of the calibration, 0 when unknown.
        bus_ppm: the bus voltage is multiplied by 1 + bus_ppm / 1e6; None where it was never compared. The user's word:
            it does not travel in HELLO.
    """

    id: int = 0
    shunt_uohm: int = DEFAULT_SHUNT_UOHM
    offset_nv: int = 0
    gain_ppm: int = 0
    day: int = 0
    bus_ppm: int | None = None

    @property
    def volts_per_step(self) -> float:
        """Bus voltage of one step of the register, V, its correction included."""
        return BUS_STEP_V * (1.0 + (self.bus_ppm or 0) * 1e-6)

    @property
    def is_default(self) -> bool:
        """Whether this is what a bridge says that was never told its shunt."""
        return not self.id and self.shunt_uohm == DEFAULT_SHUNT_UOHM

    @property
    def amperes_per_volt(self) -> float:
        """Current per shunt volt, gain included."""
        return (1.0 + self.gain_ppm * 1e-6) / (self.shunt_uohm * 1e-6)

    def errors(
        self,
        config: Config,
        supply_v: float,
        *,
        dithered: bool = False,
        reference_relative: float = REFERENCE_RELATIVE,
    ) -> ErrorModel:
        """Limits of this chain's errors with a sensor setting.

        Uncalibrated: what the data sheet and the shunt's tolerance allow. Calibrated: what a calibration of zero and
        current leaves. The bus voltage keeps its error of the data sheet until it is compared by itself; then the
        limit of that meter and what time and temperature do are left.

        Args:
            config: sensor setting.
            supply_v: bus voltage, V.
            dithered: the bridge varies the rhythm and the resolution of conversions (``Feature.DITHER``).
            reference_relative: limit of the meter that the calibration compared with.
        """
        amperes = self.amperes_per_volt
        known = bool(self.id)
        return ErrorModel(
            supply_v=supply_v,
            current_step_a=config.shunt_step_v * amperes,
            voltage_step_v=config.dithered_bus_step_v if dithered else config.bus_step_v,
            offset_a=(ZERO_LIMIT_V if known else OFFSET_LIMIT_V[config.pga]) * amperes,
            offset_standard_a=None if known else OFFSET_TYPICAL_V[config.pga] * amperes,
            shunt_relative=SINCE_CALIBRATION if known else SHUNT_LIMIT,
            gain_relative=SINCE_CALIBRATION if known else GAIN_LIMIT,
            gain_standard=None if known else GAIN_TYPICAL,
            bus_relative=BUS_LIMIT if self.bus_ppm is None else REFERENCE_RELATIVE + SINCE_CALIBRATION,
            bus_standard=BUS_TYPICAL if self.bus_ppm is None else None,
            reference_relative=reference_relative if known else 0.0,
            noise_a=NOISE_V / config.averages**0.5 * amperes,
            duty=config.duty,
            shunt_s=config.shunt_s,
            dithered=dithered,
            shunt_ohm=self.shunt_uohm * 1e-6,
            shunt_heating_per_w=SHUNT_HEATING_PER_W,
        )


def watts(
    shunt_raw: npt.NDArray[np.int16], bus_raw: npt.NDArray[np.uint16], calibration: Calibration
) -> npt.NDArray[np.float64]:
    """Load power (at the sensor's IN- pin) of raw register pairs; float64 [N], W.

    >>> watts(np.array([1000], np.int16), np.array([1250 << 3], np.uint16), Calibration(shunt_uohm=20_000)).tolist()
    [2.5]
    """
    volts = (bus_raw >> 3) * calibration.volts_per_step
    shunt_v = shunt_raw * SHUNT_STEP_V - calibration.offset_nv * 1e-9
    power: npt.NDArray[np.float64] = shunt_v * calibration.amperes_per_volt * volts
    return power


def sample_flags(
    shunt_raw: npt.NDArray[np.int16], bus_raw: npt.NDArray[np.uint16], config: Config
) -> npt.NDArray[np.uint8]:
    """SampleFlag bits of raw register pairs, read with a setting; uint8 [N].

    A full-scale shunt value is clipped. OVF is the chip's own multiplication, which is not used here, so it is
    noted as a sign of a value out of range.
    """
    clipped = np.abs(shunt_raw.astype(np.int32)) >= CLIP_RAW[config.pga]
    bits: npt.NDArray[np.uint8] = np.where(clipped, SampleFlag.CLIPPED, 0).astype(np.uint8)
    bits |= np.where(bus_raw & 1, SampleFlag.OVERFLOW, 0).astype(np.uint8)
    bits |= bus_flags((bus_raw >> 3) * BUS_STEP_V, BUS_FULL_RAW[config.bus_range_32v] * BUS_STEP_V)
    return bits


def bus_flags(bus_v: npt.NDArray[np.floating[Any]] | float, full_v: float) -> npt.NDArray[np.uint8]:
    """SampleFlag bits of bus voltages read with a register that ends at ``full_v``, V; uint8 [N]."""
    volts = np.asarray(bus_v, np.float64)
    bits: npt.NDArray[np.uint8] = np.where(volts >= full_v - BUS_STEP_V / 2, SampleFlag.BUS_FULL, 0).astype(np.uint8)
    bits |= np.where(volts < LEAST_BOARD_V, SampleFlag.BUS_LOW, 0).astype(np.uint8)
    return bits


def _canonical(code: int) -> int:
    if code < 8:
        return code & 3
    return 3 if code == 8 else code


def _coarseness(code: int) -> int:
    return 1 << (3 - code) if code < 3 else 1
