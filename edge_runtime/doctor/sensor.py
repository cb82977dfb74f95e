"""What the doctor finds about the sensor: is it there, may this user read it, does its line delay what it says.

Nothing is changed and no port is opened: the daemon may be using it. A sensor that only reads files of the kernel is
read once.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from edge_runtime.doctor.finding import Finding
from protos.errors import EdgejouleError
from protos.extras import advice

__all__ = ["check_sensor"]

LATENCY_LIMIT_MS = 1


def check_sensor(spec: str, *, sysfs_root: Path = Path("/sys"), dev_root: Path = Path("/dev")) -> list[Finding]:
    """Findings about the sensor that ``spec`` names."""
    from edge_runtime.power.options import split
    from edge_runtime.power.sensor_factory import make_sensor

    try:
        kind, rest, _ = split(spec)
        if spec == "none":
            fix = "give --sensor serial:/dev/ttyUSB0, another sensor, or estimate:BOARD"
            return [Finding("sensor", "warn", "none: joules stay unknown, and no budget can be kept", fix)]
        if kind == "estimate":
            return [Finding("sensor", "ok", f"{spec}: joules are estimates")]
        sensor = make_sensor(spec)
        if kind == "serial":
            return _serial(Path(rest), sysfs_root, dev_root)
        if kind == "i2c":
            return _i2c(rest, sysfs_root, dev_root)
        if kind == "iio":
            # Its buffer is for one reader at a time, and stays the daemon's.
            sensor = make_sensor(f"iio:{rest}?mode=poll")
        sensor.open()
    except EdgejouleError as error:
        return [Finding("sensor", "fail", f"{error.where}: {error.what}", error.fix or "give another with --sensor")]
    try:
        trace, identity = sensor.trace(), sensor.identity
    finally:
        sensor.close()
    what = f"{identity.sensor}: {trace.power_w[-1]:.3g} W now, {identity.quality}"
    if identity.quality == "partial":
        fix = "measure the supply line with an INA219 for joules of the whole board (docs/sensors.md)"
        return [Finding("sensor", "warn", f"{what}: it sees a part of the board", fix)]
    return [Finding("sensor", "ok", what)]


def _serial(path: Path, sysfs_root: Path, dev_root: Path) -> list[Finding]:
    if not path.exists():
        ports = sorted(str(each_path) for pattern in ("ttyUSB*", "ttyACM*") for each_path in dev_root.glob(pattern))
        fix = f"plug it in; ports here: {', '.join(ports) or 'none'}"
        return [Finding("sensor", "fail", f"{path} is not there", fix)]
    if (denied := _denied(path)) is not None:
        return [denied]
    if not path.is_char_device():
        return [Finding("sensor", "fail", f"{path} is no serial port", "give the path of the port")]
    return [Finding("sensor", "ok", f"{path} can be opened"), *_latency(path.resolve().name, sysfs_root)]


def _latency(port: str, sysfs_root: Path) -> list[Finding]:
    """FTDI's chips hold bytes back for 16 ms unless told otherwise; the clock fit then has to live with that."""
    timer = sysfs_root / "bus" / "usb-serial" / "devices" / port / "latency_timer"
    try:
        held_ms = int(timer.read_text())
    except (OSError, ValueError):
        return []
    if held_ms <= LATENCY_LIMIT_MS:
        return [Finding("sensor line", "ok", f"{port} hands bytes on within {held_ms} ms")]
    fix = (
        f"echo 1 | sudo tee {timer}; to keep it, a udev rule: "
        'ACTION=="add", SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"'
    )
    what = f"{port} holds bytes back for up to {held_ms} ms, which blurs when a phase begins and ends"
    return [Finding("sensor line", "warn", what, fix)]


def _i2c(rest: str, sysfs_root: Path, dev_root: Path) -> list[Finding]:
    bus, _, address = rest.partition(":")
    node = dev_root / f"i2c-{int(bus, 0)}"
    if importlib.util.find_spec("smbus2") is None:
        return [Finding("sensor", "fail", "smbus2 is not installed", advice("i2c"))]
    if not node.exists():
        fix = "sudo raspi-config nonint do_i2c 0, or: sudo modprobe i2c-dev"
        return [Finding("sensor", "fail", f"{node} is not there", fix)]
    if (denied := _denied(node)) is not None:
        return [denied]
    device = sysfs_root / "bus" / "i2c" / "devices" / f"{int(bus, 0)}-{int(address, 0):04x}"
    if (device / "driver").exists():
        fix = f"use hwmon: or iio: instead, or: echo {device.name} | sudo tee {device}/driver/unbind"
        return [Finding("sensor", "fail", f"a driver of the kernel holds {device.name}", fix)]
    return [Finding("sensor", "ok", f"{node} can be opened")]


def _denied(path: Path) -> Finding | None:
    if os.access(path, os.R_OK | os.W_OK):
        return None
    fix = f"sudo usermod -aG {_group(path)} {os.environ.get('USER', 'USER')}, then log in again"
    return Finding("sensor", "fail", f"{path} may not be read and written by this user", fix)


def _group(path: Path) -> str:
    try:
        return path.group()
    except KeyError:
        return str(path.stat().st_gid)
