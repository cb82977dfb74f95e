"""What the sensor's own samples say of its wires: it is opened and listened to for a second, unless somebody has it.

Opening a port resets some bridges, which their daemon would notice; so a port that is in use is left alone.
"""

from __future__ import annotations

import time

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine
from edge_runtime.doctor.serial_port import check_holder
from protos.errors import EdgejouleError

__all__ = ["check_wiring"]

NAME = "sensor wiring"
LISTEN_S = 1.5
KINDS = ("serial", "i2c", "hwmon", "iio")


def check_wiring(settings: Settings, machine: HostMachine) -> list[Finding]:
    """One finding; none where the sensor cannot be opened at all, which the check of the sensor says."""
    from edge_runtime.power.clock import SystemClock
    from edge_runtime.power.meters.sensor_meter import SensorMeter
    from edge_runtime.power.options import split
    from edge_runtime.power.sensor_factory import make_sensor
    from edge_runtime.power.wiring import FIXES

    try:
        kind, rest, options = split(settings.sensor)
    except EdgejouleError:
        return []
    if kind not in KINDS:
        return [Finding(NAME, "ok", f"{settings.sensor} has no wires of its own")]
    if kind == "serial" and any(
        finding.what.startswith("the daemon holds") for finding in check_holder(settings, machine)
    ):
        return [Finding(NAME, "ok", f"the daemon has {rest}; `coordinator devices` shows what it thinks of its wires")]
    if kind == "iio" and "mode" not in options:
        # The buffer is for one reader at a time.
        options["mode"] = "poll"
    spec = f"{kind}:{rest}" + ("?" + "&".join(f"{name}={value}" for name, value in options.items()) if options else "")
    try:
        sensor = make_sensor(spec)
        sensor.open()
    except EdgejouleError as error:
        if "in use by another program" in error.what:
            return [Finding(NAME, "ok", f"{rest} is in use, and left alone")]
        if "no such" in error.what or "no permission" in error.what:
            return []
        return [Finding(NAME, "fail", f"{error.where}: {error.what}", error.fix or "look at the sensor")]
    meter = SensorMeter(sensor, SystemClock(), own_board=True)
    try:
        time.sleep(LISTEN_S)
        fault, watts = meter.fault, meter.power_w
    finally:
        meter.close()
    if fault is not None:
        what = f"{sensor.identity.sensor} does not see the board: {fault}; joules stay unknown, no budget can be kept"
        return [Finding(NAME, "fail", what, FIXES[fault])]
    seen = "?" if watts is None else f"{watts:.3g}"
    return [Finding(NAME, "ok", f"{sensor.identity.sensor} sees {seen} W, {sensor.identity.quality}")]
