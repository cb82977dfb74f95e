"""Debian's kernel for aarch64, and an initrd of our own that can do one thing: mount the disk and go on to its init.

Module dependencies are read from the modules themselves, so neither kmod nor cpio is needed here.
"""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import tempfile
from pathlib import Path

import arm_cache
from arm_debian import Archive, Unavailable, unpack

# Disk, file system, network, random numbers. ext4 asks for crc32c by name, which no module's dependencies show.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_net", "virtio_rng")
_APPLETS = ("sh", "mount", "insmod", "switch_root", "sleep", "cat")
_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 -o rw /dev/vda /root || exec sh
exec switch_root /root /sbin/init
"""


def kernel() -> Path:
    """A folder with ``vmlinuz`` and ``initrd.gz``.

    Raises:
        Unavailable: see :mod:`arm_debian`.
    """

    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            archive, files = Archive(Path(folder) / "apt", "arm64"), Path(folder) / "files"
            newest = next(name for name in archive.depends("linux-image-arm64") if name.startswith("linux-image-"))
            unpack([archive.fetch_alone(newest), archive.fetch_alone("busybox-static")], files)
            (vmlinuz,) = (files / "boot").glob("vmlinuz-*")
            shutil.copy2(vmlinuz, place / "vmlinuz")
            (place / "version").write_text(vmlinuz.name.removeprefix("vmlinuz-"))
            (place / "initrd.gz").write_bytes(gzip.compress(_initrd(files), 1))

    return arm_cache.kept("kernel", [list(MODULES), _INIT], make)


def _initrd(files: Path) -> bytes:
    found = {path.name.partition(".ko")[0].replace("-", "_"): path for path in files.rglob("*.ko")}
    if not found:
        raise Unavailable("the kernel's modules are not plain .ko files")
    order: list[str] = []
    for name in MODULES:
        _with_dependencies(name, found, order)
    archive = Newc()
    for folder in ("bin", "dev", "modules", "proc", "root", "sys"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, (files / "usr/bin/busybox").read_bytes())
    for name in _APPLETS:
        archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
    for name in order:
        archive.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, found[name].read_bytes())
    archive.add("modules/order", stat.S_IFREG | 0o644, "\n".join(f"{name}.ko" for name in order).encode())
    archive.add("init", stat.S_IFREG | 0o755, _INIT.encode())
    return archive.finish()


def _with_dependencies(name: str, found: dict[str, Path], order: list[str]) -> None:
    """Put a module behind those that it needs (``depends=`` of its section .modinfo); built-in ones are no files."""
    if name in order or name not in found:
        return
    told = re.search(rb"\0depends=([^\0]*)\0", found[name].read_bytes())
    for needed in told.group(1).decode().split(",") if told else ():
        _with_dependencies(needed.replace("-", "_"), found, order)
    order.append(name)


class Newc:
    """A cpio archive in the format "newc" of cpio(5), all owned by root."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        """Append one file, folder or link (whose content is where it leads)."""
        self._number += 1
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + path), _padded(content)]

    def finish(self) -> bytes:
        """The whole archive."""
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
