"""What labgrid's file says of the wires: which target is the bench's, and which of its ports is the bridge's.

labgrid takes any name for a target, several ports in one, and USB ports by the properties that udev knows of them
(labgrid's documentation, "Resources"). All of that is taken here; what only labgrid's own coordinator can reach is
refused with the way to reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protos.bridge.line import BAUD
from protos.errors import ConfigError

__all__ = ["bench_target", "bridge_port", "resources_of"]

PREFERRED_TARGET, PREFERRED_PORT = "main", "bridge"
_BENCH_FEATURES = ("ina219-bridge", "simulated")
_REMOTE = ("RemotePlace", "NetworkSerialPort")
_KNOWN = {
    "RawSerialPort": ("port", "speed", "name"),
    "USBSerialPort": ("match", "port", "speed", "name"),
}
# Property of udev to the file of sysfs, in the folder of the USB device, that it comes from.
_FILES = {
    "ID_SERIAL_SHORT": "serial", "ID_VENDOR_ID": "idVendor", "ID_MODEL_ID": "idProduct",
    "ID_VENDOR": "manufacturer", "ID_MODEL": "product",
}  # fmt: skip
_INTERFACE, _NAME, _LINK = "ID_USB_INTERFACE_NUM", "DEVNAME", ("ID_SERIAL", "ID_PATH")
TTYS = Path("/sys/class/tty")


def bench_target(document: Mapping[str, Any], path: Path) -> tuple[str, Mapping[str, Any]]:
    """Name and description of the bench's target: ``main``, or the only one, or the only one with a bridge.

    Raises:
        ConfigError: there is none, or nothing tells which.
    """
    given = document.get("targets")
    targets = {name: one for name, one in given.items() if isinstance(one, dict)} if isinstance(given, dict) else {}
    if PREFERRED_TARGET in targets:
        return PREFERRED_TARGET, targets[PREFERRED_TARGET]
    mine = [
        name for name, target in targets.items() if set(_BENCH_FEATURES) & set(map(str, target.get("features") or ()))
    ]
    chosen = list(targets) if len(targets) == 1 else mine
    if len(chosen) == 1:
        return chosen[0], targets[chosen[0]]
    if not targets:
        raise ConfigError("has no target", where=str(path), fix=f"write targets: {PREFERRED_TARGET}: ...")
    raise ConfigError(
        f"has the targets {', '.join(targets)}, and {len(mine)} of them list the feature {_BENCH_FEATURES[0]}",
        where=str(path), fix=f"list it in the one of the bridge alone, or call that {PREFERRED_TARGET}",
    )  # fmt: skip


def resources_of(target: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and arguments of each resource; labgrid takes a mapping of classes, a list of such, or ``cls:`` in each.

    Raises:
        ConfigError: something else.
    """
    given = target.get("resources", {})
    for row in given if isinstance(given, list) else [given]:
        if not isinstance(row, dict):
            raise ConfigError("is no mapping of classes", where=f"{place}.resources", fix="write RawSerialPort: ...")
        if isinstance(row.get("cls"), str):
            yield row["cls"], {key: value for key, value in row.items() if key != "cls"}
            continue
        for kind, arguments in row.items():
            if not isinstance(arguments or {}, dict):
                raise ConfigError("is no mapping", where=f"{place}.resources.{kind}", fix="give its arguments")
            yield kind, arguments or {}


def bridge_port(target: Mapping[str, Any], place: str, *, ttys: Path = TTYS) -> str:
    """Path of the bridge's port. Of several: the one called ``bridge``, or the only one of the bridge's speed.

    Args:
        target: description of the target.
        place: where it stands, for errors.
        ttys: folder of sysfs in which USB ports are looked for.

    Raises:
        ConfigError: there is none, nothing tells which, or it is not plugged in.
    """
    where = f"{place}.resources"
    every = list(resources_of(target, place))
    ports = [pair for pair in every if pair[0] in _KNOWN]
    if not ports:
        _refuse_remote(every, where)
        fix = "add RawSerialPort: {port: /dev/serial/by-id/NAME, speed: 500000}"
        raise ConfigError("has no RawSerialPort and no USBSerialPort", where=where, fix=fix)
    if len(ports) > 1:
        named = [port for port in ports if port[1].get("name") == PREFERRED_PORT]
        fast = [port for port in ports if port[1].get("speed") == BAUD]
        chosen = named or fast
        if len(chosen) != 1:
            names = ", ".join(str(port[1].get("name", port[0])) for port in ports)
            raise ConfigError(f"has {len(ports)} serial ports ({names})", where=where,
                              fix=f"call the bridge's one {PREFERRED_PORT}: name: {PREFERRED_PORT}")  # fmt: skip
        ports = chosen
    kind, arguments = ports[0]
    return _path(kind, arguments, f"{where}.{kind}", ttys)


def _refuse_remote(every: list[tuple[str, Mapping[str, Any]]], where: str) -> None:
    for kind, arguments in every:
        if kind not in _REMOTE:
            continue
        name = str(arguments.get("name", arguments.get("host", "?")))
        raise ConfigError(
            f"{kind} {name!r} is a port on another computer, and tests here open one of this computer", where=where,
            fix="run them where the bridge is plugged in (labgrid's exporter), with a RawSerialPort or USBSerialPort; "
            "or make a local port of it: socat pty,link=/tmp/bridge,raw tcp:HOST:PORT",
        )  # fmt: skip


def _path(kind: str, arguments: Mapping[str, Any], where: str, ttys: Path) -> str:
    from hw_tests.environment.keys import refuse_unknown

    refuse_unknown(arguments, dict.fromkeys(_KNOWN[kind]), where)
    speed = arguments.get("speed", BAUD)
    if speed != BAUD:
        raise ConfigError(f"{speed!r} is not the bridge's speed", where=f"{where}.speed", fix=f"write {BAUD}")
    match = arguments.get("match")
    if kind == "USBSerialPort" and match is not None:
        if not isinstance(match, dict) or not match:
            raise ConfigError("is no mapping of udev's properties", where=f"{where}.match",
                              fix="write match: {ID_SERIAL_SHORT: A50285BI}")  # fmt: skip
        return _matching({str(key).lstrip("@"): str(value) for key, value in match.items()}, f"{where}.match", ttys)
    port = arguments.get("port")
    if not isinstance(port, str) or not port.startswith("/"):
        fix = "give /dev/serial/by-id/NAME" + (", or match:" if kind == "USBSerialPort" else "")
        raise ConfigError(f"{port!r} is no path of a port", where=f"{where}.port", fix=fix)
    return port


def _matching(wanted: Mapping[str, str], where: str, ttys: Path) -> str:
    """The one USB port with these properties."""
    unknown = [key for key in wanted if key not in (*_FILES, _INTERFACE, _NAME, *_LINK)]
    if unknown:
        raise ConfigError(
            f"cannot look for {unknown[0]}", where=where,
            fix=f"match by {', '.join((*_FILES, *_LINK, _INTERFACE, _NAME))}, or give port: /dev/serial/by-id/NAME",
        )  # fmt: skip
    known = dict(_usb_ports(ttys))
    fitting = [port for port, found in known.items() if all(_fits(found.get(key), one) for key, one in wanted.items())]
    if len(fitting) == 1:
        return fitting[0]
    there = "; ".join(
        f"{port} ({found.get('ID_MODEL', '?')} {found.get('ID_SERIAL_SHORT', '')})".replace(" )", ")")
        for port, found in sorted(known.items())
    )
    text = ", ".join(f"{key}={value}" for key, value in wanted.items())
    what = f"{len(fitting)} USB serial ports have {text}" if fitting else f"no USB serial port has {text}"
    raise ConfigError(what, where=where, fix=f"plug it in, or match more closely; there are: {there or 'none'}")


def _fits(found: str | None, wanted: str) -> bool:
    return found is not None and found.replace(" ", "_").casefold() == wanted.replace(" ", "_").casefold()


def _usb_ports(ttys: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each USB serial port with udev's properties of it, as far as sysfs and the links of ``/dev/serial`` tell them."""
    for entry in sorted(ttys.iterdir()) if ttys.is_dir() else ():
        device = (entry / "device").resolve()
        usb = next((parent for parent in (device, *device.parents) if (parent / "idVendor").is_file()), None)
        if usb is None:
            continue
        port = f"/dev/{entry.name}"
        found = {_NAME: port}
        for key, name in _FILES.items():
            if (usb / name).is_file():
                found[key] = (usb / name).read_text().strip()
        interface = next(
            (parent for parent in (device, *device.parents) if (parent / "bInterfaceNumber").is_file()), None
        )
        if interface is not None:
            found[_INTERFACE] = (interface / "bInterfaceNumber").read_text().strip()
        vendor, model = (found.get(key, "").replace(" ", "_") for key in ("ID_VENDOR", "ID_MODEL"))
        if vendor and model:
            found["ID_SERIAL"] = "_".join(filter(None, (vendor, model, found.get("ID_SERIAL_SHORT", ""))))
        if (by_path := _link_name(Path("/dev/serial/by-path"), entry.name)) is not None:
            found["ID_PATH"] = by_path.partition("-port")[0]
        yield port, found


def _link_name(folder: Path, name: str) -> str | None:
    links = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((link.name for link in links if link.resolve().name == name), None)
