"""An INA219 on this machine's own I2C bus, without a driver of the kernel (extra ``i2c``).

For benches and development: the processor that is measured does the measuring, and its own load delays it. Each new
conversion is told by the bit CNVR; shunt, bus and power (whose reading clears CNVR) are read in one transaction. Raw
registers become watts on the host, as with the bridge.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.power.bridge.bridge_opening import RANGES
from edge_runtime.power.clock import Clock
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import EMPTY
from edge_runtime.power.host.sysfs import read_text
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import bus_ppm, choice, number, ohms, refuse_others, whole
from edge_runtime.power.sensor import Capabilities
from protos.energy.ina219 import BUS_STEP_V, PROFILES, Calibration, Config, sample_flags, watts
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError, UsageError
from protos.extras import advice

__all__ = ["Ina219Source", "i2c_sensor", "open_bus"]

CONFIG, SHUNT, BUS, POWER = 0x00, 0x01, 0x02, 0x03
READY = 2
CHECK_EACH_S = 1.0
LONGEST_PERIODS = 4
LEAST_POLL_S = 5e-4
OpenBus = Callable[[int], Any]
"""From the number of a bus to an object like :class:`smbus2.SMBus`."""


def i2c_sensor(rest: str, options: Mapping[str, str], clock: Clock, *, bus: OpenBus | None = None) -> PolledSensor:
    """The sensor of ``i2c:BUS:ADDRESS?OPTIONS``, not open yet. Raises UsageError."""
    known = ("shunt", "profile", "range", "offset_nv", "gain_ppm", "calibration", "bus_ppm")
    refuse_others(options, known)
    parts = dict(zip(("bus", "address"), rest.split(":"), strict=False))
    number_, address = whole(parts, "bus", 0, 255), whole(parts, "address", 0x40, 0x4F)
    if number_ is None or address is None or rest.count(":") != 1:
        raise UsageError(f"i2c:{rest}", where="sensor", fix="give bus and address, for example i2c:1:0x40?shunt=0.02")
    shunt_ohm = ohms(options, "shunt")
    if shunt_ohm is None:
        raise UsageError("nobody knows the shunt", where=f"i2c:{rest}", fix="say which it is, for example ?shunt=0.1")
    calibration = Calibration(
        whole(options, "calibration", 1, 0xFFFFFFFF) or 0,
        round(shunt_ohm * 1e6),
        round(number(options, "offset_nv", -1e7, 1e7, "nanovolt") or 0),
        round(number(options, "gain_ppm", -5e5, 5e5, "parts per million") or 0),
        bus_ppm=bus_ppm(options),
    )
    profile = choice(options, "profile", PROFILES) or PROFILES["balanced"]
    pga = choice(options, "range", RANGES)
    config = (profile.config if pga is None else replace(profile.config, pga=pga)).wide()
    return PolledSensor(Ina219Source(number_, address, config, calibration, bus or open_bus), clock)


def open_bus(number_: int) -> Any:
    """A bus of this machine.

    Raises:
        SensorError: smbus2 is not installed.
        OSError: there is no such bus, or it is not ours.
    """
    try:
        from smbus2 import SMBus
    except ImportError as cause:
        raise SensorError("needs smbus2", where=f"i2c:{number_}", fix=f"install it: {advice('i2c')}") from cause
    return SMBus(number_)


class Ina219Source:
    """A :class:`edge_runtime.power.host.source.Source`: every conversion of one INA219.

    Args:
        bus_number: N of /dev/i2c-N.
        address: 0x40..0x4f.
        config: setting to write.
        calibration: what is known of shunt and chip.
        bus: opens a bus.
        sysfs_root: where /sys is, to name a driver that holds the sensor.
    """

    def __init__(
        self,
        bus_number: int,
        address: int,
        config: Config,
        calibration: Calibration,
        bus: OpenBus = open_bus,
        sysfs_root: Path = Path("/sys"),
    ) -> None:
        self._number, self._address, self._config, self._calibration = bus_number, address, config, calibration
        self._open_bus, self._sysfs = bus, sysfs_root
        self._bus: Any = None
        self.poll_s, self.dithers = max(LEAST_POLL_S, config.period_s / 3), False
        number_ = calibration.id
        self.identity = MeterIdentity(
            "measured",
            f"i2c:{bus_number}:0x{address:02x}",
            f"{number_:08x}" if number_ else "none",
            "calibrated" if number_ else "uncalibrated",
        )
        self.capabilities = Capabilities(1.0 / config.period_s, "host", signed=True)
        self._bus_v = 0.0
        self._last_s: float | None = None
        self._check_due_s = float("-inf")
        self._words: list[str] = []

    def open(self, now_s: float) -> None:
        where = self.identity.sensor
        try:
            self._bus = self._open_bus(self._number)
            # I2C_RDWR does not ask whether a driver holds the address; a plain read does, and fails with EBUSY.
            self._bus.read_word_data(self._address, CONFIG)
            self._write_config()
            kept = self._read(CONFIG)
        except SensorError:
            raise
        except OSError as cause:
            self.close()
            raise self._explain(cause, where) from cause
        if kept != [self._config.register()]:
            self.close()
            raise SensorError(
                "something answers, but it does not keep an INA219's configuration",
                where=where,
                fix="check the address: i2cdetect -y " + str(self._number),
            )
        self._last_s, self._check_due_s = None, now_s + CHECK_EACH_S

    def take(self, now_s: float) -> PowerTrace:
        if self._bus is None:
            raise OSError("not open")
        if now_s >= self._check_due_s:
            self._check_due_s = now_s + CHECK_EACH_S
            if self._read(CONFIG) != [self._config.register()]:
                # A dip of its supply resets it to 12 bits for both.
                self._write_config()
                self._words.append("sensor-restarted")
                self._last_s = None
                return EMPTY
        if not self._read(BUS)[0] & READY:
            return EMPTY
        shunt, bus, _ = self._read(SHUNT, BUS, POWER)
        before, self._last_s = self._last_s, now_s
        period_s = self._config.period_s
        if before is None or now_s - before > LONGEST_PERIODS * max(period_s, self.poll_s):
            before = now_s - period_s
        self._bus_v = (bus >> 3) * BUS_STEP_V
        raw_shunt, raw_bus = np.array([shunt], np.uint16).view(np.int16), np.array([bus], np.uint16)
        return PowerTrace(
            np.array([before]),
            np.array([now_s]),
            watts(raw_shunt, raw_bus, self._calibration),
            sample_flags(raw_shunt, raw_bus, self._config),
        )

    def errors(self) -> ErrorModel:
        return replace(self._calibration.errors(self._config, self._bus_v or 5.0), sync_s=self.poll_s)

    def flags(self) -> tuple[str, ...]:
        words, self._words = self._words, []
        return tuple(words)

    def close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            with contextlib.suppress(OSError):
                bus.close()

    def _write_config(self) -> None:
        from smbus2 import i2c_msg

        register = self._config.register()
        self._bus.i2c_rdwr(i2c_msg.write(self._address, [CONFIG, register >> 8, register & 0xFF]))

    def _read(self, *registers: int) -> list[int]:
        """Registers in one transaction, so that nobody else gets between."""
        from smbus2 import i2c_msg

        answers = [i2c_msg.read(self._address, 2) for _ in registers]
        asked = [i2c_msg.write(self._address, [register]) for register in registers]
        self._bus.i2c_rdwr(*(message for pair in zip(asked, answers, strict=True) for message in pair))
        return [int.from_bytes(bytes(answer), "big") for answer in answers]

    def _explain(self, cause: OSError, where: str) -> SensorError:
        node = f"/dev/i2c-{self._number}"
        if cause.errno == errno.EBUSY:
            device = self._sysfs / "bus" / "i2c" / "devices" / f"{self._number}-{self._address:04x}"
            driver = read_text(device / "name") or "of the kernel"
            fix = f"use hwmon: or iio: instead, or unbind it: echo {device.name} | sudo tee {device}/driver/unbind"
            return SensorError(f"a driver ({driver}) holds this sensor", where=where, fix=fix)
        if cause.errno in (errno.ENOENT, errno.ENODEV):
            return SensorError(f"there is no {node}", where=where, fix="enable I2C: sudo raspi-config nonint do_i2c 0")
        if cause.errno in (errno.EACCES, errno.EPERM):
            return SensorError(f"no permission for {node}", where=where, fix="sudo usermod -aG i2c USER, log in again")
        fix = f"check wiring and address: i2cdetect -y {self._number}"
        return SensorError(f"nobody answers at this address ({cause.strerror or cause})", where=where, fix=fix)
