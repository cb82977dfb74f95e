"""Environment files as labgrid's users have them: targets of any name, several ports, ports by udev's properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hw_tests.environment.environment import read_environment
from hw_tests.environment.resources import bench_target, bridge_port
from protos.errors import ConfigError

_REST = """
x-edgejoule:
  version: 1
  bench: nano-1
  bridge: {board: atmega328p, profile: balanced, shunt_ohm: 0.02}
  tolerances:
    {hello_s: 4.0, rate_relative: 0.12, lost_batches: 0, clock_limit_s: 0.005, clock_drift_ppm: 5000.0, recovery_s: 30}
"""


def written(tmp_path: Path, targets: str) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(f"targets:\n{targets}{_REST}")
    return path


@pytest.fixture
def ttys(tmp_path: Path) -> Path:
    """A tree of sysfs with two FTDI adapters, a Pico with two interfaces, and a port that is no USB port."""
    root = tmp_path / "sys"
    for name, usb, interface, facts in (
        ("ttyUSB0", "1-1", "00", {"idVendor": "0403", "idProduct": "6001", "serial": "A50285BI",
                                  "manufacturer": "FTDI", "product": "FT232R USB UART"}),
        ("ttyUSB1", "1-2", "00", {"idVendor": "0403", "idProduct": "6001", "serial": "A9999999",
                                  "manufacturer": "FTDI", "product": "FT232R USB UART"}),
        ("ttyACM0", "1-3", "00", {"idVendor": "2e8a", "idProduct": "000a", "serial": "E6605"}),
        ("ttyACM1", "1-3", "02", {}),
    ):  # fmt: skip
        folder = root / "devices" / usb
        port = folder / f"{usb}:1.{int(interface)}"
        port.mkdir(parents=True)
        (port / "bInterfaceNumber").write_text(f"{interface}\n")
        for file, value in facts.items():
            (folder / file).write_text(f"{value}\n")
        link = root / "class" / "tty" / name
        link.mkdir(parents=True)
        (link / "device").symlink_to(port)
    (root / "devices" / "serial8250").mkdir()
    (root / "class" / "tty" / "ttyS0").mkdir()
    (root / "class" / "tty" / "ttyS0" / "device").symlink_to(root / "devices" / "serial8250")
    return root / "class" / "tty"


def port_of(match: dict[str, Any], ttys: Path) -> str:
    target = {"resources": {"USBSerialPort": {"match": match, "speed": 500000}}}
    return bridge_port(target, "lab.yaml: targets.main", ttys=ttys)


@pytest.mark.parametrize(
    ("match", "port"),
    [
        ({"ID_SERIAL_SHORT": "A50285BI"}, "/dev/ttyUSB0"),
        ({"@ID_SERIAL_SHORT": "A9999999"}, "/dev/ttyUSB1"),
        ({"ID_SERIAL": "FTDI_FT232R_USB_UART_A9999999"}, "/dev/ttyUSB1"),
        ({"DEVNAME": "/dev/ttyUSB1"}, "/dev/ttyUSB1"),
        ({"ID_VENDOR_ID": "2e8a", "ID_USB_INTERFACE_NUM": "02"}, "/dev/ttyACM1"),
    ],
)
def test_a_usb_port_is_found_by_the_properties_of_udev(ttys: Path, match: dict[str, Any], port: str) -> None:
    assert port_of(match, ttys) == port


@pytest.mark.parametrize(
    ("match", "said", "fix"),
    [
        ({"ID_SERIAL_SHORT": "A5028"}, "no USB serial port has ID_SERIAL_SHORT=A5028", "/dev/ttyUSB1 (FT232R"),
        ({"ID_MODEL_ID": "6001"}, "2 USB serial ports have ID_MODEL_ID=6001", "match more closely"),
        ({"ID_NET_NAME": "x"}, "cannot look for ID_NET_NAME", "ID_SERIAL_SHORT"),
        ({}, "is no mapping of udev's properties", "match:"),
    ],
)
def test_what_does_not_name_one_port_tells_those_that_are_there(
    ttys: Path, match: dict[str, Any], said: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as error:
        port_of(match, ttys)
    assert said in error.value.what
    assert fix in (error.value.fix or "")


def test_of_several_ports_the_name_decides_and_then_the_speed(tmp_path: Path) -> None:
    rows = (
        "  lab:\n    features: [ina219-bridge]\n    resources:\n"
        "      - RawSerialPort: {name: console, port: /dev/ttyUSB0, speed: 115200}\n"
        "      - RawSerialPort: {name: meter, port: /dev/ttyUSB1, speed: 500000}\n"
    )
    assert read_environment(written(tmp_path, rows)).port == "/dev/ttyUSB1"
    both = rows.replace("115200", "500000")
    with pytest.raises(ConfigError, match=r"has 2 serial ports \(console, meter\); call the bridge's one bridge"):
        read_environment(written(tmp_path, both))
    assert read_environment(written(tmp_path, both.replace("meter", "bridge"))).port == "/dev/ttyUSB1"


def test_the_target_of_the_bridge_may_have_any_name_and_the_board_one_of_its_own(tmp_path: Path) -> None:
    environment = read_environment(
        written(
            tmp_path,
            "  meter:\n    features: [ina219-bridge]\n    resources:\n"
            "      - cls: RawSerialPort\n        port: /dev/ttyUSB0\n        speed: 500000\n"
            "  dut:\n    resources:\n      NetworkService: {address: pi-1.local, username: root}\n",
        )
    )
    assert environment.port == "/dev/ttyUSB0"
    assert environment.host == "root@pi-1.local"


def test_targets_that_nothing_tells_apart_are_named() -> None:
    with pytest.raises(ConfigError, match="has the targets one, other, and 0 of them list the feature ina219-bridge"):
        bench_target({"targets": {"one": {}, "other": {}}}, Path("lab.yaml"))


@pytest.mark.parametrize(
    "resource", ["RemotePlace: {name: pi-1}", "NetworkSerialPort: {host: lab-pi, port: 4001, speed: 500000}"]
)
def test_a_port_on_another_computer_names_the_way_to_it(tmp_path: Path, resource: str) -> None:
    path = written(tmp_path, f"  main:\n    features: [ina219-bridge]\n    resources:\n      {resource}\n")
    with pytest.raises(ConfigError, match="on another computer") as error:
        read_environment(path)
    assert "socat" in (error.value.fix or "")
