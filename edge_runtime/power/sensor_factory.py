"""From the text of a configuration to a sensor or a meter. Never from one that was named to another.

==================================  ===================================================================
``serial:PATH``                     INA219 bridge on a serial port: ``sensor=0..3``, ``shunt=OHM``,
                                    ``profile=NAME``, ``range=40mV|80mV|160mV|320mV``,
                                    ``bus_ppm=PPM``
``hwmon:NAME_OR_PATH``              a power sensor of the kernel's hwmon: ``shunt=OHM``, ``rate=HZ``
``iio:NAME_OR_PATH``                a power sensor of the kernel's IIO: ``shunt=OHM``, ``rate=HZ``
``i2c:BUS:ADDRESS``                 an INA219 on this machine's own bus: ``shunt=OHM``, ``profile=NAME``,
                                    ``range=``, ``offset_nv=``, ``gain_ppm=``, ``calibration=ID``,
                                    ``bus_ppm=``
``rapl`` or ``rapl:DOMAIN``         the energy counter of an x86 processor's package
``pmic``                            the rails of a Raspberry Pi 5's processor
``estimate:BOARD``                  a model: idle watts plus watts per CPU second of this process
``none``                            no metering: energy is unknown
==================================  ===================================================================

Options stand after ``?``, joined by ``&``. A room is imported when its sensor is opened. A kind that is none
of these may be an installed package's (:mod:`protos.plugins`).
"""

from __future__ import annotations

import importlib
from types import MappingProxyType

from edge_runtime.power.clock import Clock, SystemClock
from edge_runtime.power.meters.meter import Meter
from edge_runtime.power.options import split
from edge_runtime.power.sensor import PowerSensor
from protos.errors import UsageError
from protos.plugins import Plugin, find

__all__ = ["KINDS", "SPECS", "make_sensor", "open_meter", "open_meter_late", "open_sensor"]

KINDS = MappingProxyType(
    {
        "serial": "edge_runtime.power.bridge.bridge_opening:bridge_sensor",
        "hwmon": "edge_runtime.power.host.hwmon:hwmon_sensor",
        "iio": "edge_runtime.power.host.iio:iio_sensor",
        "i2c": "edge_runtime.power.host.i2c:i2c_sensor",
        "rapl": "edge_runtime.power.host.rapl:rapl_sensor",
        "pmic": "edge_runtime.power.host.pmic:pmic_sensor",
    }
)
"""Kind of sensor to the function that makes it: (rest, options, clock) to a sensor that is not open yet."""
SPECS = "serial:PATH, hwmon:NAME, iio:NAME, i2c:BUS:ADDRESS, rapl, pmic, estimate:BOARD or none"
NEEDS_NO_NAME = ("rapl", "pmic")
NO_SENSORS = ("none", "estimate", "replay")


def make_sensor(spec: str, *, clock: Clock | None = None) -> PowerSensor:
    """The sensor that ``spec`` names, not open yet: a recording that listens from here on hears everything.

    Raises:
        UsageError: the text is none of the table in the module's docstring, or names a model or no sensor.
        PluginError: it names the sensor of an installed package that cannot be used.
    """
    kind, rest, options = split(spec)
    if kind not in KINDS and (plugin := _plugin(kind)) is not None:
        from edge_runtime.power.plugged_sensor import plugged_sensor

        return plugged_sensor(plugin, rest, options, clock or SystemClock())
    if kind not in KINDS or (not rest and kind not in NEEDS_NO_NAME):
        raise UsageError(f"unknown sensor {spec!r}", where="sensor", fix=f"use {SPECS}, or an installed package's")
    room, _, name = KINDS[kind].partition(":")
    sensor: PowerSensor = getattr(importlib.import_module(room), name)(rest, options, clock or SystemClock())
    return sensor


def _plugin(kind: str) -> Plugin | None:
    """An installed package's sensor; models and none are no sensors, and need no look at what is installed."""
    return None if kind in ("", *NO_SENSORS) else find("sensors", kind)


def open_sensor(spec: str, *, clock: Clock | None = None) -> PowerSensor:
    """Open the sensor that ``spec`` names; its first sample is there.

    Raises:
        UsageError: as :func:`make_sensor`.
        SensorError: it is not there, not ours, busy, silent, or not what was asked for.
    """
    sensor = make_sensor(spec, clock=clock)
    sensor.open()
    return sensor


def open_meter_late(spec: str, *, clock: Clock | None = None) -> Meter:
    """As :func:`open_meter`, but a sensor is opened in the background, from the meter's ``start`` on.

    Raises:
        UsageError: the text is none of the table in the module's docstring.
    """
    clock = clock or SystemClock()
    if spec == "none" or split(spec)[0] == "estimate":
        return open_meter(spec, clock=clock)
    from edge_runtime.power.meters.late_meter import LateMeter

    make_sensor(spec, clock=clock)
    return LateMeter(spec, lambda: make_sensor(spec, clock=clock), clock)


def open_meter(spec: str, *, clock: Clock | None = None) -> Meter:
    """Open the meter that ``spec`` names, of the board that this program runs on.

    Raises:
        UsageError: the text is none of the table in the module's docstring.
        SensorError: the sensor is not there, not ours, busy, silent, or not what was asked for.
    """
    clock = clock or SystemClock()
    kind, rest, options = split(spec)
    if spec == "none":
        from edge_runtime.power.meters.unmetered import UnknownMeter

        return UnknownMeter(clock)
    if kind == "estimate" and rest and not options:
        from edge_runtime.power.meters.estimate import EstimateMeter
        from protos.energy.boards import board

        return EstimateMeter(board(rest), clock)
    from edge_runtime.power.meters.sensor_meter import SensorMeter

    return SensorMeter(open_sensor(spec, clock=clock), clock, own_board=True)
