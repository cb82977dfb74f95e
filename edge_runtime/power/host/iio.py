"""A current monitor behind the kernel's IIO driver ``ina2xx-adc``: raw shunt and bus voltage.

``in_voltage0`` is the shunt, ``in_voltage1`` the bus; value times scale is mV. Better than hwmon: nothing is rounded,
and the buffer stamps every conversion. Known traps:

* ``in_shunt_resistor`` is 0.01 ohm unless somebody set it. Only the driver's own current and power rest on it, and they
  are not used here: ``shunt=`` says what the shunt is, the driver's figure is taken only without it.
* The shunt register is signed, and the driver calls it ``u16`` in the buffer.
* Only root may use the buffer, unless udev says otherwise. Then values are polled, as the sensor's name says:
  ``.../buffer`` or ``.../poll``.
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
from edge_runtime.power.host.iio_buffer import IioBuffer
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import EMPTY, Instants
from edge_runtime.power.host.sysfs import ValueFile, find_device, read_text
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import choice, number, ohms, refuse_others
from edge_runtime.power.sensor import Capabilities
from protos.energy.trace import Floats, PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError

__all__ = ["IioSource", "iio_sensor"]

log = logging.getLogger(__name__)

SHUNT, BUS = "in_voltage0", "in_voltage1"
DEFAULT_SHUNT_OHM = 0.01
POLL_HZ = 50.0
BUFFER_POLL_S = 0.05
MODES = {"buffer": "buffer", "poll": "poll"}


def iio_sensor(
    name: str,
    options: Mapping[str, str],
    clock: Clock,
    *,
    sysfs_root: Path = Path("/sys"),
    dev_root: Path = Path("/dev"),
) -> PolledSensor:
    """The sensor of ``iio:NAME_OR_PATH?shunt=&mode=buffer|poll&rate=``, not open yet. Raises UsageError."""
    refuse_others(options, ("shunt", "mode", "rate"))
    rate_hz = number(options, "rate", 0.1, 500.0, "hertz") or POLL_HZ
    mode = choice(options, "mode", MODES)
    return PolledSensor(IioSource(name, ohms(options, "shunt"), mode, rate_hz, sysfs_root, dev_root), clock)


class IioSource:
    """A :class:`edge_runtime.power.host.source.Source`.

    Args:
        name: of the device, or the path of its folder.
        shunt_ohm: the shunt on the board; None believes the driver.
        mode: ``buffer`` or ``poll``; None takes the buffer where it can be used.
        rate_hz: looks a second when polling.
        sysfs_root: where /sys is.
        dev_root: where /dev is.
    """

    def __init__(
        self, name: str, shunt_ohm: float | None, mode: str | None, rate_hz: float, sysfs_root: Path, dev_root: Path
    ) -> None:
        self._name, self._shunt_ohm, self._mode, self._rate_hz = name, shunt_ohm, mode, rate_hz
        self._root, self._dev = sysfs_root, dev_root
        self.poll_s, self.dithers = 1.0 / rate_hz, True
        self.identity = MeterIdentity("measured", f"iio:{name}", "none", "uncalibrated")
        self.capabilities = Capabilities(rate_hz, "host", signed=True)
        self._chip: Chip | None = None
        self._used_ohm, self._supply_v = 0.01, 5.0
        self._shunt_scale_v = self._bus_scale_v = 0.0
        self._buffer: IioBuffer | None = None
        self._files: tuple[ValueFile, ValueFile] | None = None
        self._last_s: float | None = None
        self._instants = Instants(self.poll_s)

    def open(self, now_s: float) -> None:
        where = f"iio:{self._name}"
        device = find_device(self._root / "bus" / "iio" / "devices", "iio:device*", self._name, kind="iio")
        chip = read_text(device / "name") or ""
        if chip not in CHIPS:
            raise SensorError(
                f"chip {chip!r} has no known limits of error", where=where, fix=f"use one of {', '.join(CHIPS)}"
            )
        try:
            self._chip = _as_set(CHIPS[chip], device)
            self._shunt_scale_v = float((device / f"{SHUNT}_scale").read_text()) * 1e-3
            self._bus_scale_v = float((device / f"{BUS}_scale").read_text()) * 1e-3
            self._used_ohm = self._shunt_ohm or self._drivers_shunt(device)
            mode = self._begin(device)
        except (OSError, ValueError) as cause:
            self.close()
            raise SensorError(f"{device} cannot be used ({cause})", where=where, fix="check the driver") from cause
        self.identity = MeterIdentity("measured", f"{where}/{mode}", "none", "uncalibrated")

    def take(self, now_s: float) -> PowerTrace:
        if self._buffer is not None:
            return self._take_records(self._buffer)
        if self._files is None or self._chip is None:
            raise OSError("not open")
        shunt, bus = (file.number() for file in self._files)
        # Old drivers give the register without its sign.
        shunt -= 65536 if shunt > 32767 else 0
        shunt_v, self._supply_v = shunt * self._shunt_scale_v, bus * self._bus_scale_v
        power_w = shunt_v / self._used_ohm * self._supply_v
        flags = self._chip.flags(np.array([shunt_v]), np.array([self._supply_v]))
        return self._instants.add(now_s, power_w, int(flags[0]))

    def errors(self) -> ErrorModel:
        assert self._chip is not None
        # The kernel stamps a conversion when it sees it ready; between two polls the load may jump at any time.
        sync_s = self.poll_s / 2 if self.dithers else self._chip.period_s
        errors = self._chip.errors(self._used_ohm, max(self._supply_v, 1.0), sync_s=sync_s)
        return replace(errors, dithered=self.dithers)

    def flags(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
        for file in self._files or ():
            with contextlib.suppress(OSError):
                file.close()
        self._buffer = self._files = None

    def _begin(self, device: Path) -> str:
        """Enable the buffer, or open the files to poll; which of both."""
        assert self._chip is not None
        self._last_s = None
        if self._mode != "poll":
            try:
                self._buffer = IioBuffer(device, self._dev / device.resolve().name, (SHUNT, BUS))
            except (OSError, ValueError) as cause:
                if self._mode == "buffer":
                    raise
                log.info("iio:%s: its buffer cannot be used (%s), so values are polled", self._name, cause)
            else:
                self.poll_s, self.dithers = BUFFER_POLL_S, False
                self.capabilities = Capabilities(1.0 / self._chip.period_s, "kernel", signed=True)
                return "buffer"
        self._files = (ValueFile(device / f"{SHUNT}_raw"), ValueFile(device / f"{BUS}_raw"))
        self.poll_s, self.dithers = 1.0 / self._rate_hz, True
        self.capabilities = Capabilities(self._rate_hz, "host", signed=True)
        self._instants = Instants(self.poll_s)
        return "poll"

    def _take_records(self, buffer: IioBuffer) -> PowerTrace:
        assert self._chip is not None
        stamps_s, values = buffer.read(signed=(SHUNT,))
        if not len(stamps_s):
            return EMPTY
        shunt_v: Floats = np.multiply(values[SHUNT], self._shunt_scale_v, dtype=np.float64)
        bus_v: Floats = np.multiply(values[BUS], self._bus_scale_v, dtype=np.float64)
        self._supply_v = float(bus_v[-1])
        first = stamps_s[0] - self._chip.period_s if self._last_s is None else self._last_s
        starts: Floats = np.concatenate([[first], stamps_s[:-1]])
        # A conversion that was missed leaves its time uncovered, but for the driver's usual unevenness.
        starts = np.where(stamps_s - starts > 3 * self._chip.period_s, stamps_s - self._chip.period_s, starts)
        self._last_s = float(stamps_s[-1])
        flags = self._chip.flags(shunt_v, bus_v)
        return PowerTrace(starts, stamps_s, shunt_v / self._used_ohm * bus_v, flags)

    def _drivers_shunt(self, device: Path) -> float:
        text = (device / "in_shunt_resistor").read_text().strip()
        # Kernels before 4.16 say micro-ohm.
        ohm = float(text) if "." in text else int(text) * 1e-6
        if not ohm > 0:
            raise ValueError(f"in_shunt_resistor is {text!r}")
        if abs(ohm - DEFAULT_SHUNT_OHM) < 1e-6:
            raise SensorError(
                "nobody has told the driver its shunt: it says 0.01 ohm, its default, and with another every joule is "
                "wrong by the ratio",
                where=f"iio:{self._name}",
                fix="say which it is: ...?shunt=0.01",
            )
        return ohm


def _as_set(chip: Chip, device: Path) -> Chip:
    """The chip with the conversion times that the driver has set."""
    shunt_s, bus_s = (read_text(device / f"{name}_integration_time") for name in (SHUNT, BUS))
    if shunt_s is None or bus_s is None:
        return chip
    averages = int(read_text(device / "in_oversampling_ratio") or 1)
    return replace(chip, shunt_s=float(shunt_s) * averages, period_s=(float(shunt_s) + float(bus_s)) * averages)
