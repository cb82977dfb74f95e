"""A current monitor behind the kernel's hwmon driver ``ina2xx``.

Units of hwmon: in1_input mV, curr1_input mA, shunt_resistor micro-ohm. Power is curr1 x in1. Not used: in0_input (the
shunt voltage) is rounded to 1 mV, which is 50 mA at 0.02 ohm, and power1_input has steps of 20 mW. The driver sets 12
bits for shunt and bus, and its readings are looked at now and then: of a load that jumps, most is not seen, and the
uncertainty says so.

The driver computes the current with ``shunt_resistor``, 0.01 ohm unless somebody told it otherwise. A board with
another shunt reads wrong by the ratio. So that default is believed only where ``shunt=`` says the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_runtime.power.clock import Clock
from edge_runtime.power.host.chips import CHIPS, Chip
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import Instants
from edge_runtime.power.host.sysfs import ValueFile, find_device, read_text
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import number, ohms, refuse_others
from edge_runtime.power.sensor import Capabilities
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError

__all__ = ["HwmonSource", "hwmon_sensor"]

log = logging.getLogger(__name__)

RATE_HZ = 50.0
DEFAULT_SHUNT_UOHM = 10_000
CURRENT_STEP_A = 1e-3
SHUNT_AGREES = 1e-3
"""The driver keeps the shunt as a rounded calibration register."""


def hwmon_sensor(
    name: str, options: Mapping[str, str], clock: Clock, *, sysfs_root: Path = Path("/sys")
) -> PolledSensor:
    """The sensor of ``hwmon:NAME_OR_PATH?shunt=&rate=``, not open yet. Raises UsageError."""
    refuse_others(options, ("shunt", "rate"))
    rate_hz = number(options, "rate", 0.1, 500.0, "hertz") or RATE_HZ
    return PolledSensor(HwmonSource(name, ohms(options, "shunt"), rate_hz, sysfs_root), clock)


class HwmonSource:
    """A :class:`edge_runtime.power.host.source.Source`: current times voltage, at instants.

    Args:
        name: of the device, or the path of its folder.
        shunt_ohm: the shunt on the board; the driver must have the same. None believes the driver.
        rate_hz: looks a second.
        sysfs_root: where /sys is.
    """

    def __init__(self, name: str, shunt_ohm: float | None, rate_hz: float, sysfs_root: Path) -> None:
        self._name, self._shunt_ohm, self._root = name, shunt_ohm, sysfs_root
        self.poll_s, self.dithers = 1.0 / rate_hz, True
        self.identity = MeterIdentity("measured", f"hwmon:{name}", "none", "uncalibrated")
        self.capabilities = Capabilities(rate_hz, "host", signed=True)
        self._chip: Chip | None = None
        self._current: ValueFile | None = None
        self._voltage: ValueFile | None = None
        self._supply_v, self._used_ohm = 5.0, 0.01
        self._instants = Instants(self.poll_s)

    def open(self, now_s: float) -> None:
        where = self.identity.sensor
        folder = find_device(self._root / "class" / "hwmon", "hwmon*", self._name, kind="hwmon")
        chip = read_text(folder / "name") or ""
        if chip not in CHIPS:
            raise SensorError(
                f"chip {chip!r} has no known limits of error", where=where, fix=f"use one of {', '.join(CHIPS)}"
            )
        self._chip = CHIPS[chip]
        self._used_ohm = self._check_shunt(folder)
        try:
            self._current, self._voltage = ValueFile(folder / "curr1_input"), ValueFile(folder / "in1_input")
        except OSError as cause:
            self.close()
            raise SensorError(
                f"{folder} has no readable curr1_input and in1_input ({cause.strerror})",
                where=where,
                fix="check the driver with: sensors",
            ) from cause
        self._instants = Instants(self.poll_s)

    def take(self, now_s: float) -> PowerTrace:
        if self._chip is None or self._current is None or self._voltage is None:
            raise OSError("not open")
        current_a, self._supply_v = self._current.number() * 1e-3, self._voltage.number() * 1e-3
        shunt_v, bus_v = np.array([current_a * self._used_ohm]), np.array([self._supply_v])
        return self._instants.add(now_s, current_a * self._supply_v, int(self._chip.flags(shunt_v, bus_v)[0]))

    def errors(self) -> ErrorModel:
        assert self._chip is not None
        errors = self._chip.errors(
            self._used_ohm, max(self._supply_v, 1.0), sync_s=self.poll_s / 2, current_step_a=CURRENT_STEP_A
        )
        return replace(errors, dithered=True)

    def flags(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        for file in (self._current, self._voltage):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._current = self._voltage = None

    def _check_shunt(self, folder: Path) -> float:
        path = folder / "shunt_resistor"
        text = read_text(path)
        if text is None or not text.isdigit() or int(text) == 0:
            raise SensorError(f"{path} says {text!r}", where=self.identity.sensor, fix="load the driver ina2xx again")
        used_ohm = int(text) * 1e-6
        if self._shunt_ohm is None:
            if int(text) == DEFAULT_SHUNT_UOHM:
                raise SensorError(
                    "nobody has told the driver its shunt: it reckons with 0.01 ohm, its default, and with another "
                    "every joule is wrong by the ratio",
                    where=self.identity.sensor,
                    fix="say which it is: ...?shunt=0.01",
                )
        elif abs(used_ohm / self._shunt_ohm - 1) > SHUNT_AGREES:
            raise SensorError(
                f"the driver reckons with {used_ohm:g} ohm, not {self._shunt_ohm:g} ohm",
                where=self.identity.sensor,
                fix=f"tell it: echo {round(self._shunt_ohm * 1e6)} | sudo tee {path}",
            )
        return used_ohm
