"""What the unit allows for an Edge TPU: the bus of the named one, or of those that are there; else nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.config import Resolved, resolve
from edge_runtime.service.access import access_of
from edge_runtime.service.unit import NAME, unit_text

CONFIG = Path("/etc/edgejoule/device.toml")
USB, PCI = "char-usb_device", "char-apex"
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")


def settings(root: Path, **flags: str) -> Resolved:
    flags = {"device_id": "pi-1", "data": "/srv/digits.npz", "machine_root": str(root), **flags}
    return resolve(flags, {}, None)


def plug_in_usb(root: Path, ids: str = "18d1:9302") -> None:
    device = root / "sys/bus/usb/devices/1-1.2"
    device.mkdir(parents=True)
    vendor, product = ids.split(":")
    for name, value in (("idVendor", vendor), ("idProduct", product), ("busnum", "1"), ("devnum", "7")):
        (device / name).write_text(f"{value}\n")


def put_in_pci(root: Path) -> None:
    (root / "dev").mkdir(parents=True)
    (root / "dev/apex_0").touch()


def text(given: Resolved, folder: Path) -> str:
    program = folder / "venv/bin/edge-runtime"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return unit_text(given, access_of(given.settings, CONFIG, program), program=program, config=CONFIG)


@pytest.mark.parametrize(
    ("flags", "devices", "groups"),
    [
        ({}, (), ()),
        ({"edgetpu_device": "usb:1"}, (USB,), ("plugdev",)),
        ({"edgetpu_device": "pci"}, (PCI,), ("apex",)),
        ({"edgetpu_device": "pci", "edgetpu": "off"}, (), ()),
        ({"edgetpu": "require"}, (PCI, USB), ("apex", "plugdev")),
        ({"edgetpu": "require", "edgetpu_device": ":1"}, (PCI, USB), ("apex", "plugdev")),
        ({"edgetpu_device": "usb", "sensor": "serial:/dev/ttyUSB0"}, ("/dev/ttyUSB0", USB), ("dialout", "plugdev")),
    ],
)
def test_a_named_bus_is_allowed_and_no_other(
    tmp_path: Path, flags: dict[str, str], devices: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    access = access_of(settings(tmp_path, **flags).settings, CONFIG, tmp_path / "venv/bin/edge-runtime")
    assert (access.devices, access.groups) == (devices, groups)
    assert access.families == (("AF_NETLINK",) if USB in devices else ())


def test_without_a_name_the_bus_of_what_is_plugged_in_is_allowed_unless_off(tmp_path: Path) -> None:
    plug_in_usb(tmp_path / "usb")
    put_in_pci(tmp_path / "pci")
    plug_in_usb(tmp_path / "keyboard", "046d:c31c")
    for name, devices in (("usb", (USB,)), ("pci", (PCI,)), ("keyboard", ())):
        program = tmp_path / "venv/bin/edge-runtime"
        assert access_of(settings(tmp_path / name).settings, CONFIG, program).devices == devices
        assert access_of(settings(tmp_path / name, edgetpu="off").settings, CONFIG, program).devices == ()


def test_usb_gets_the_address_family_that_libusb_asks_for_and_nothing_else_does(tmp_path: Path) -> None:
    plain = text(settings(tmp_path), tmp_path)
    usb = text(settings(tmp_path, edgetpu_device="usb"), tmp_path)
    families = re.findall(r"^RestrictAddressFamilies=(.*)$", usb, re.MULTILINE)
    assert set(" ".join(families).split()) == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
    assert "AF_NETLINK" not in plain
    assert "DeviceAllow=char-usb_device rw" in usb


def test_a_library_under_a_hidden_folder_is_shown(tmp_path: Path) -> None:
    program = Path("/opt/edgejoule/bin/edge-runtime")
    library = "/home/pi/lib/libedgetpu.so.1"
    assert access_of(settings(tmp_path, edgetpu_library=library).settings, CONFIG, program).bound == (Path(library),)
    off = settings(tmp_path, edgetpu_library=library, edgetpu="off").settings
    assert access_of(off, CONFIG, program).bound == ()


@systemd
@pytest.mark.parametrize("sensor", ["none", "serial:/dev/ttyUSB0", "i2c:1:0x40?shunt=0.1", "pmic", "iio:ina226"])
@pytest.mark.parametrize("flags", [{"edgetpu": "require"}, {"edgetpu_device": "usb"}, {"edgetpu_device": "pci"}])
def test_systemd_finds_little_exposed_with_any_sensor(tmp_path: Path, sensor: str, flags: dict[str, str]) -> None:
    unit = tmp_path / NAME
    unit.write_text(text(settings(tmp_path, sensor=sensor, throttled_from="vcgencmd", **flags), tmp_path))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(unit)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    scored = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert scored.returncode == 0, scored.stdout
    found = re.search(r"exposure level for .*: (\d+\.\d+)", scored.stdout)
    assert found
    print(f"{sensor}, {flags}: exposure {found[1]}")
    assert float(found[1]) <= 2.0
