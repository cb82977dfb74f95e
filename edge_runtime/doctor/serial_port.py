"""The sensor's serial port: may this session open it, does somebody hold it, will somebody grab it."""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine
from edge_runtime.power.options import split
from protos.errors import EdgejouleError

# The USB chips of serial bridges that brltty's rules claim for braille displays.
_CLAIMED = {("1a86", "7523"): "CH340", ("10c4", "ea60"): "CP210x", ("0403", "6001"): "FT232"}
_IGNORE = 'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{0}", ATTR{{idProduct}}=="{1}", ENV{{ID_MM_DEVICE_IGNORE}}="1"'


def check_session(settings: Settings, machine: HostMachine) -> list[Finding]:
    """A group that was given counts from the next login on."""
    port = _port(settings)
    if port is None:
        return [Finding("port session", "ok", "no serial sensor")]
    if not port.exists():
        return [Finding("port session", "ok", f"{port} is not there")]
    if machine.may_open(port):
        return [Finding("port session", "ok", f"this session may open {port}")]
    group = port.stat().st_gid
    rows = [line.split(":") for line in (machine.text("etc/group") or "").splitlines()]
    named = next((row for row in rows if len(row) == 4 and row[2] == str(group)), None)
    if named is not None and machine.user in named[3].split(",") and group not in machine.groups:
        fix = "log out and in again (over SSH too), or restart; a running tmux or desktop keeps the old groups"
        what = f"{machine.user} is in the group {named[0]}, but was not yet when this session began"
        return [Finding("port session", "fail", what, fix)]
    # Not in the group at all: the check of the sensor says so.
    return []


def check_holder(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Two readers of one port share its bytes by chance. Other users' processes are seen by root alone."""
    port = _port(settings)
    if port is None:
        return [Finding("port in use", "ok", "no serial sensor")]
    wanted = os.path.realpath(port)
    for pid, folder in machine.processes().items():
        if any(_target(entry) in (wanted, str(port)) for entry in _entries(folder / "fd")):
            name = _name(folder)
            if name.startswith("edge-runtime") or "edge_runtime" in _command(folder):
                return [Finding("port in use", "ok", f"the daemon holds {port} (process {pid})")]
            fix = (
                f"end it (kill {pid}); a getty is turned off by: sudo systemctl disable --now serial-getty@{port.name}"
            )
            return [Finding("port in use", "fail", f"{name} (process {pid}) holds {port}", fix)]
    seen = "nobody holds it" if os.geteuid() == 0 else "nobody holds it, as far as this user may see"
    return [Finding("port in use", "ok", f"{port}: {seen}")]


def check_grabbers(settings: Settings, machine: HostMachine) -> list[Finding]:
    """brltty takes such chips away from their driver, ModemManager sends modem commands to whatever is plugged in."""
    if _port(settings) is None:
        return [Finding("port grabbers", "ok", "no serial sensor")]
    found = []
    chips = [ids for path in machine.below("sys/bus/usb/devices/*") if (ids := _ids(path)) in _CLAIMED]
    rules = machine.below("usr/lib/udev/rules.d/*brltty*") + machine.below("lib/udev/rules.d/*brltty*")
    masked = any(path.is_symlink() for path in machine.below("etc/systemd/system/brltty-udev.service"))
    if rules and chips and not masked:
        what = f"brltty takes the {_CLAIMED[chips[0]]} away as soon as it is plugged in"
        fix = "without a braille display: sudo apt remove brltty, or sudo systemctl mask brltty-udev.service"
        found.append(Finding("port grabbers", "fail", what, fix))
    if any(_name(folder) == "ModemManager" for folder in machine.processes().values()):
        rule = _IGNORE.format(*(chips[0] if chips else ("1a86", "7523")))
        what = "ModemManager runs, and talks to each serial port that is plugged in"
        fix = f"sudo systemctl disable --now ModemManager, or a udev rule: {rule}"
        found.append(Finding("port grabbers", "warn", what, fix))
    return found or [Finding("port grabbers", "ok", "neither brltty nor ModemManager takes the port")]


def _port(settings: Settings) -> Path | None:
    try:
        kind, rest, _ = split(settings.sensor)
    except EdgejouleError:
        return None
    return Path(rest) if kind == "serial" else None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text().strip()
    except OSError:
        return "?"


def _command(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _ids(device: Path) -> tuple[str, str]:
    try:
        return (device / "idVendor").read_text().strip(), (device / "idProduct").read_text().strip()
    except OSError:
        return "", ""
