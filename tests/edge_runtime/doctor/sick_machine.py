"""A machine in a folder on which every check is content, and what makes each of them complain."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from board_tree import BoardTree

from edge_runtime.config import Settings, resolve
from edge_runtime.doctor.host_machine import HostMachine
from edge_runtime.health.throttling import Bits

VERSIONS = {"ai-edge-litert": "2.3.0", "numpy": "2.4.6"}
GID = 54321


class Patient:
    """A Raspberry Pi in good health, with a serial sensor.

    Attributes:
        tree: its files; ``write`` changes them.
        changes: to the machine's answers, by name of the attribute.
        running: what a test has started for it.
    """

    def __init__(self, folder: Path, port: Path) -> None:
        self.tree = BoardTree(folder / "machine")
        self.root, self.port, self.folder = self.tree.root, port, folder
        self.changes: dict[str, Any] = {}
        self.running = contextlib.ExitStack()
        self.flags = {
            "device_id": "pi-1", "data": "/srv/x.npz", "sensor": f"serial:{port}", "state": str(folder / "state"),
            "machine_root": str(self.root), "pause_above_c": "80", "coordinator": "127.0.0.1:9",
        }  # fmt: skip
        self.versions: dict[str, str] = dict(VERSIONS)
        self.tree.zone(51.0)
        self.tree.firmware(0)
        self.tree.rpi_volt(0)
        self.mounts(("/dev/mmcblk0p2", "/", "ext4", "rw,noatime"), ("proc", "/proc", "proc", "rw"))
        self.write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
        self.write("proc/uptime", "86400.00 300000.00")
        self.write("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1000 0 100")
        self.write("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\ncpu 0 1 1\nmemory 0 1 1")
        self.write("proc/cmdline", "console=tty1 root=PARTUUID=5d3a9e2b-02 rootwait")
        self.write("etc/group", f"root:x:0:\ndialout:x:{GID}:pi\n")
        self.write("sys/class/rtc/rtc0/name", "rtc-ds1307")
        self.card()
        self.process(700, "systemd", "/sbin/init")

    def write(self, path: str, text: object) -> Path:
        return self.tree.write(path, text)

    def mounts(self, *rows: tuple[str, str, str, str]) -> None:
        self.write("proc/mounts", "\n".join(f"{' '.join(row)} 0 0" for row in rows))

    def card(self, sectors_written: int = 1_000_000) -> None:
        """An SD card; Documentation/admin-guide/iostats.rst: the seventh number is sectors written."""
        self.write("sys/block/mmcblk0/device/type", "SD")
        self.write("sys/block/mmcblk0/stat", f"1 2 3 4 5 6 {sectors_written} 8 9 10 11")

    def emmc(self, life: str, spare: str) -> None:
        self.write("sys/block/mmcblk0/device/type", "MMC")
        self.write("sys/block/mmcblk0/device/life_time", life)
        self.write("sys/block/mmcblk0/device/pre_eol_info", spare)

    def process(self, pid: int, name: str, *command: str, holds: Path | None = None) -> None:
        self.write(f"proc/{pid}/comm", name)
        (self.root / f"proc/{pid}/cmdline").write_bytes(b"\0".join(word.encode() for word in command) + b"\0")
        folder = self.root / f"proc/{pid}/fd"
        folder.mkdir(exist_ok=True)
        if holds is not None:
            (folder / "5").symlink_to(holds)

    def usb(self, vendor: str, product: str) -> None:
        self.write("sys/bus/usb/devices/1-1.2/idVendor", vendor)
        self.write("sys/bus/usb/devices/1-1.2/idProduct", product)

    @property
    def settings(self) -> Settings:
        return resolve(self.flags, {}, None).settings

    @property
    def machine(self) -> HostMachine:
        healthy = HostMachine(
            root=self.root, version=self.versions.get, python=(3, 11), processor="aarch64", pointer_bits=64,
            libc=("glibc", "2.36"), user="pi", groups=frozenset({1000, GID}), may_open=lambda path: True,
            synchronised=lambda: True, firmware=lambda: (Bits(0), Bits(0)), pid=os.getpid(),
        )  # fmt: skip
        return dataclasses.replace(healthy, **self.changes)

    def every_file(self) -> Iterator[tuple[str, bytes | str]]:
        """All that is there, to see that nothing was changed."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink():
                yield str(path), str(path.readlink())
            elif path.is_file():
                yield str(path), path.read_bytes()


Break = Callable[[Patient], None]
