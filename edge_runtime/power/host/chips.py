"""How wrong the kernel's readings of a current monitor may be, chip by chip.

Limits at 25 degrees C from the tables of electrical characteristics in the data sheets SBOS448 (INA219, and INA220 in
grade A) and SBOS547 (INA226). To each a shunt of 1 % is added. A chip that is not here is refused: a joule without a
limit of its error is not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from protos.energy.ina219 import (
    BUS_LIMIT,
    BUS_STEP_V,
    BUS_TYPICAL,
    CONVERSION_S,
    GAIN_LIMIT,
    GAIN_TYPICAL,
    NOISE_V,
    OFFSET_LIMIT_V,
    OFFSET_TYPICAL_V,
    SHUNT_HEATING_PER_W,
    SHUNT_LIMIT,
    SHUNT_STEP_V,
    bus_flags,
)
from protos.energy.trace import Floats, SampleFlag
from protos.energy.uncertainty import ErrorModel

__all__ = ["CHIPS", "Chip"]


@dataclass(frozen=True, slots=True)
class Chip:
    """A current monitor as its driver sets it up. Pairs are (limit, typical); typical is read as one sigma.

    Args:
        offset_v: offset voltage of the shunt, V.
        gain: relative error of the current.
        bus: relative error of the bus voltage.
        noise_v: noise of one conversion of the shunt, one sigma, V.
        shunt_step_v: one step of the shunt register, V.
        bus_step_v: one step of the bus register, V.
        full_v: end of the shunt's range, V.
        bus_full_v: end of the bus voltage's range, V; the INA219's driver sets 32 V.
        shunt_s: time the shunt is looked at in one conversion, s.
        period_s: time from one conversion to the next, s.
    """

    offset_v: tuple[float, float]
    gain: tuple[float, float]
    bus: tuple[float, float]
    noise_v: float
    shunt_step_v: float
    bus_step_v: float
    full_v: float
    bus_full_v: float
    shunt_s: float
    period_s: float

    def flags(self, shunt_v: Floats, bus_v: Floats) -> npt.NDArray[np.uint8]:
        """SampleFlag bits of readings in volts; float64 [N] each to uint8 [N]."""
        clipped: npt.NDArray[np.uint8] = np.where(np.abs(shunt_v) >= 0.999 * self.full_v, SampleFlag.CLIPPED, 0).astype(
            np.uint8
        )
        return clipped | bus_flags(bus_v, self.bus_full_v)

    def errors(self, shunt_ohm: float, supply_v: float, *, sync_s: float, current_step_a: float = 0.0) -> ErrorModel:
        """Limits of the errors with a shunt of 1 %; ``current_step_a`` is a driver's rounding."""
        return ErrorModel(
            supply_v=supply_v,
            current_step_a=max(self.shunt_step_v / shunt_ohm, current_step_a),
            voltage_step_v=self.bus_step_v,
            offset_a=self.offset_v[0] / shunt_ohm,
            offset_standard_a=self.offset_v[1] / shunt_ohm,
            shunt_relative=SHUNT_LIMIT,
            gain_relative=self.gain[0],
            gain_standard=self.gain[1],
            bus_relative=self.bus[0],
            bus_standard=self.bus[1],
            noise_a=self.noise_v / shunt_ohm,
            duty=self.shunt_s / self.period_s,
            shunt_s=self.shunt_s,
            sync_s=sync_s,
            shunt_ohm=shunt_ohm,
            shunt_heating_per_w=SHUNT_HEATING_PER_W,
        )


# hwmon and IIO both set the INA219 to 399Fh: range 320 mV, 12 bits for shunt and bus.
_INA219 = Chip(
    offset_v=(OFFSET_LIMIT_V[3], OFFSET_TYPICAL_V[3]),
    gain=(GAIN_LIMIT, GAIN_TYPICAL),
    bus=(BUS_LIMIT, BUS_TYPICAL),
    noise_v=NOISE_V,
    shunt_step_v=SHUNT_STEP_V,
    bus_step_v=BUS_STEP_V,
    full_v=0.32,
    bus_full_v=32.0,
    shunt_s=CONVERSION_S[3],
    period_s=2 * CONVERSION_S[3],
)
# hwmon sets the INA226 to 16 averages of 1.1 ms each.
_INA226 = Chip(
    offset_v=(10e-6, 2.5e-6),
    gain=(0.001, 0.0002),
    bus=(0.001, 0.0002),
    noise_v=2.5e-6,
    shunt_step_v=2.5e-6,
    bus_step_v=1.25e-3,
    full_v=0.08192,
    bus_full_v=40.95875,
    shunt_s=17.6e-3,
    period_s=35.2e-3,
)
CHIPS = MappingProxyType({"ina219": _INA219, "ina220": _INA219, "ina226": _INA226})
