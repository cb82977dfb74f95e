"""What the service may touch besides its state: its sensor, its Edge TPU, and files under somebody's home."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.config import Settings
from edge_runtime.daemon.link import check_addresses
from edge_runtime.power.options import split
from edge_runtime.round.edge_tpus import edge_tpus
from protos.errors import EdgejouleError, RefusedError

# Device and group of an Edge TPU by its bus. On USB it comes back under another number when it has got its firmware, so
# no node can be named.
_EDGE_TPU = {"usb": ("char-usb_device", "plugdev"), "pci": ("char-apex", "apex")}
_SERIAL_CLASSES = ("char-ttyUSB", "char-ttyACM")
# The unit hides these folders (ProtectHome=, PrivateTmp=); what is needed from them is bound one by one.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))


@dataclass(frozen=True)
class Access:
    """What a unit asks for.

    Attributes:
        devices: of ``DeviceAllow=``: nodes, or ``char-NAME`` for all of a driver.
        groups: own the nodes on Debian and Raspberry Pi OS.
        bound: paths to show although the folder around them is hidden.
        loopback_only: the coordinator is reached on this machine.
        families: of ``RestrictAddressFamilies=``, besides those of every service.
    """

    devices: tuple[str, ...]
    groups: tuple[str, ...]
    bound: tuple[Path, ...]
    loopback_only: bool
    families: tuple[str, ...] = ()


def access_of(settings: Settings, config: Path, program: Path) -> Access:
    """What a daemon with these settings needs.

    Args:
        config: absolute path of its file.
        program: absolute path of what systemd starts.

    Raises:
        UsageError: the sensor's text makes no sense.
        RefusedError: the sensor can be read by root alone, which the service is not.
    """
    devices, groups = _of_sensor(settings.sensor)
    buses = _edge_tpu_buses(settings)
    for bus in buses:
        device, group = _EDGE_TPU[bus]
        devices, groups = _with(devices, device), _with(groups, group)
    if settings.throttled_from == "vcgencmd":
        # The program asks the firmware there; the group owns the node on Raspberry Pi OS.
        devices, groups = _with(devices, "/dev/vcio"), _with(groups, "video")
    wanted = [config, program.parent.parent, *_python(program)]
    wanted += [Path(one).absolute() for one in (settings.data, settings.bundle) if one is not None]
    if settings.edgetpu != "off" and "/" in settings.edgetpu_library:
        wanted.append(Path(settings.edgetpu_library).absolute())
    # libusb does not start without the kernel's news of devices, which come over netlink.
    families = ("AF_NETLINK",) if "usb" in buses else ()
    bound = {path for path in wanted if any(path.is_relative_to(hidden) for hidden in HIDDEN)}
    inner = {path for path in bound if any(other != path and path.is_relative_to(other) for other in bound)}
    return Access(devices, groups, tuple(sorted(bound - inner)), _loopback(settings.coordinator), families)


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*names, name)))


def _of_sensor(spec: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kind, rest, _ = split(spec)
    match kind:
        case "serial":
            return _serial(rest), ("dialout",)
        case "i2c":
            return (f"/dev/i2c-{int(rest.partition(':')[0] or '0', 0)}",), ("i2c",)
        case "iio":
            return ("char-iio",), ()
        case "pmic":
            return ("/dev/vcio",), ("video",)
        case "rapl":
            raise RefusedError(
                "only root may read this counter, and the service is not root",
                where="sensor rapl",
                fix="use another sensor, or estimate:BOARD",
            )
    return (), ()


def _edge_tpu_buses(settings: Settings) -> tuple[str, ...]:
    """Buses on which an Edge TPU may be opened: the named one; else those that have one now, and if one is required
    and none is seen, both."""
    if settings.edgetpu == "off":
        return ()
    if settings.edgetpu_device is not None and (named := settings.edgetpu_device.partition(":")[0]):
        return (named,)
    seen = {edge_tpu.bus for edge_tpu in edge_tpus(settings.machine_root)}
    return tuple(sorted(seen)) or (("pci", "usb") if settings.edgetpu == "require" else ())


def _serial(path: str) -> tuple[str, ...]:
    if path.startswith("/dev/serial/"):
        # A link: after a replug it may lead to another node, and a node allowed by number is then the wrong one.
        return _SERIAL_CLASSES
    return ("char-pts",) if path.startswith("/dev/pts/") else (path,)


def _python(program: Path) -> list[Path]:
    """Where the interpreter behind a virtual environment's program is, when it is the one that runs now."""
    return [Path(sys.base_prefix)] if program.is_relative_to(sys.prefix) else []


def _loopback(coordinator: str) -> bool:
    try:
        check_addresses(coordinator)
    except EdgejouleError:
        return False
    return True
