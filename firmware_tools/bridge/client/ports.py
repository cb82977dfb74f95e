"""The serial ports of this computer: stable names, who made them, and what stands in the way of using them.

A name below ``/dev/serial/by-id`` stays the same after a replug, ``ttyUSB0`` does not. FTDI's chips hold bytes back for
16 ms unless told otherwise (``latency_timer``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serial.tools.list_ports import comports
from serial.tools.list_ports_common import ListPortInfo

__all__ = ["Port", "list_ports"]

LATENCY_LIMIT_MS = 2
_OF_NO_DEVICE = "n/a"


@dataclass(frozen=True, slots=True)
class Port:
    """One serial port.

    Args:
        path: of the device node, or the one asked for.
        stable: its name below ``/dev/serial/by-id``; None when it has none.
        usb: ``vendor:product``, hexadecimal; None when it is not USB.
        serial_number: of the USB device.
        product: what the device calls itself.
        latency_ms: FTDI's latency timer; None for others.
        hints: what to do before it can be used well.
    """

    path: str
    stable: str | None
    usb: str | None
    serial_number: str | None
    product: str | None
    latency_ms: int | None
    hints: tuple[str, ...]


def list_ports(
    extra: Iterable[str] = (), *, found: Iterable[ListPortInfo] | None = None, every: bool = False,
    dev: Path = Path("/dev"), sysfs: Path = Path("/sys"),
) -> list[Port]:  # fmt: skip
    """Ports in the order of their names, then ``extra`` ones.

    Args:
        extra: paths that the system may not list: pseudo-terminals, links.
        found: as pyserial lists them; looked up when None.
        every: also those that have no device behind them, as most ``ttyS`` have not.
    """
    listed = sorted(comports() if found is None else found, key=lambda info: info.device)
    infos = [info for info in listed if every or info.hwid != _OF_NO_DEVICE]
    return [_port(info, dev, sysfs) for info in [*infos, *(ListPortInfo(path) for path in extra)]]


def _port(info: ListPortInfo, dev: Path, sysfs: Path) -> Port:
    path = Path(info.device)
    latency_ms = _latency_ms(path, sysfs)
    return Port(
        path=info.device,
        stable=_stable(path, dev),
        usb=None if info.vid is None else f"{info.vid:04x}:{info.pid:04x}",
        serial_number=info.serial_number,
        product=info.product or (info.description if info.description != _OF_NO_DEVICE else None),
        latency_ms=latency_ms,
        hints=tuple(_hints(path, latency_ms, sysfs)),
    )


def _stable(path: Path, dev: Path) -> str | None:
    try:
        names = sorted((dev / "serial" / "by-id").iterdir())
    except OSError:
        return None
    return next((str(name) for name in names if name.resolve() == path.resolve()), None)


def _timer(path: Path, sysfs: Path) -> Path:
    return sysfs / "bus" / "usb-serial" / "devices" / path.resolve().name / "latency_timer"


def _latency_ms(path: Path, sysfs: Path) -> int | None:
    try:
        return int(_timer(path, sysfs).read_text())
    except (OSError, ValueError):
        return None


def _hints(path: Path, latency_ms: int | None, sysfs: Path) -> Iterable[str]:
    if not path.exists():
        yield "no such port: plug the bridge in"
    elif not os.access(path, os.R_OK | os.W_OK):
        yield _permission(path)
    if latency_ms is not None and latency_ms > LATENCY_LIMIT_MS:
        yield f"holds bytes back for {latency_ms} ms: echo 1 | sudo tee {_timer(path, sysfs)}"


def _permission(path: Path) -> str:
    """What gives the user the port: the group that owns it, unless that is root's own."""
    try:
        import grp  # not on Windows, where no such hint is given

        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (KeyError, OSError, ModuleNotFoundError):
        group = "dialout"
    if group == "root":
        return f"not yours to open, it is root's: sudo chgrp dialout {path}, sudo chmod 660 {path}, or a udev rule"
    return f"not yours to open: sudo usermod -aG {group} $USER, then log in again"
