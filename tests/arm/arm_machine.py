"""A whole emulated machine, the likeness of a Raspberry Pi Zero 2: Cortex-A53, 512 MB, Debian 12, systemd as init.

Its disk is made from unpacked packages; none of their scripts has run, so what those would have written and the
service needs is written here. It reaches this machine's loopback, and so the coordinator, under 10.0.2.2. Results come
back as a file on its disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arm_cache
import arm_dpkg
import arm_wheels
from arm_debian import Archive, Unavailable, missing_programs, run, unpack
from arm_kernel import kernel

MEMORY_MB = 512
HOST = "10.0.2.2"
RESULT = "/srv/result.json"
_DISK_MB = 2000
_PACKAGES = [
    "base-files", "base-passwd", "bash", "coreutils", "dash", "dbus", "diffutils", "dpkg", "findutils", "grep",
    "iproute2", "kmod", "libc-bin", "libgcc-s1", "libnss-systemd", "libpython3.11-stdlib", "libstdc++6", "login",
    "mount", "netbase", "passwd", "procps", "python3.11", "sed", "systemd", "systemd-sysv", "udev", "util-linux",
]  # fmt: skip
# What runs on the machine; the first is started there.
_INSIDE = ("arm_guest.py", "arm_inside.py", "arm_inside_package.py")
_NSSWITCH = "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files\n"
# What would only cost time, or wait for what is not there.
_MASKED = ("serial-getty@ttyAMA0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer")
_TRIAL = """[Unit]
Description=what is to be shown on this machine
After=systemd-journald.service dbus.socket
[Service]
ExecStart=/usr/bin/python3.11 /srv/arm_guest.py
ExecStopPost=/usr/bin/systemctl poweroff --force
StandardOutput=journal+console
StandardError=journal+console
"""


@dataclass(frozen=True)
class Parts:
    """What a machine is made of, all in the cache."""

    kernel: Path
    root: Path
    site: tuple[Path, ...]


def parts() -> Parts:
    """Fetch what is needed.

    Raises:
        Unavailable: what is missing, and what to install.
    """
    if absent := missing_programs("qemu-system-aarch64", "mkfs.ext4", "debugfs"):
        raise Unavailable(f"needs {', '.join(absent)}: apt-get install qemu-system-arm e2fsprogs")
    if os.geteuid() != 0:
        raise Unavailable("needs root, since the files of a system disk belong to root")
    return Parts(kernel(), _root(), (arm_wheels.dependencies(), arm_wheels.our_own()))


def _root() -> Path:
    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            packages = Archive(Path(folder), "arm64").fetch(_PACKAGES)
            unpack(packages, place)
            arm_dpkg.record(packages, place)
        etc = place / "etc"
        for name in ("passwd", "group"):
            shutil.copy(place / "usr/share/base-passwd" / f"{name}.master", etc / name)
        (etc / "nsswitch.conf").write_text(_NSSWITCH)
        (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (etc / "hostname").write_text("pi-zero-2\n")
        (etc / "hosts").write_text("127.0.0.1 localhost pi-zero-2\n")
        (etc / "fstab").write_text("/dev/vda / ext4 rw 0 0\n")
        # Without a log on disk, the journal is in memory that the service is to be alone with.
        (place / "var/log/journal").mkdir(parents=True, exist_ok=True)
        for name in _MASKED:
            (etc / "systemd/system" / name).symlink_to("/dev/null")

    recipe = [_PACKAGES, _NSSWITCH, list(_MASKED), 3]
    return arm_cache.kept("machine-arm64", recipe, make)


def disk(parts: Parts, folder: Path, files: Mapping[str, bytes]) -> Path:
    """The machine's disk: the system, the program in /opt/edgejoule, and ``files`` by absolute path."""
    with tempfile.TemporaryDirectory(dir=arm_cache.folder()) as staging:
        # Links instead of copies; whatever is written below is a new file, never one that is shared with the cache.
        root = Path(staging) / "root"
        run(["cp", "-al", parts.root, root], doing="making the machine's disk")
        packages = root / "opt/edgejoule/lib/python3.11/site-packages"
        packages.mkdir(parents=True)
        for site in parts.site:
            run(["cp", "-al", f"{site}/.", packages], doing="making the machine's disk")
        programs = root / "opt/edgejoule/bin"
        programs.mkdir()
        (programs / "python").symlink_to("/usr/bin/python3.11")
        (root / "opt/edgejoule/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        _, _, rest = (packages / "bin/edge-runtime").read_text().partition("\n")
        (programs / "edge-runtime").write_text(f"#!/opt/edgejoule/bin/python\n{rest}")
        (programs / "edge-runtime").chmod(0o755)
        wanted = {
            "/etc/systemd/system/trial.service": _TRIAL.encode(),
            **{f"/srv/{name}": Path(__file__).with_name(name).read_bytes() for name in _INSIDE},
            **files,
        }
        for name, content in wanted.items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            assert not path.exists(), f"{name} would be written into the cache"
            path.write_bytes(content)
        enabled = root / "etc/systemd/system/multi-user.target.wants"
        enabled.mkdir(parents=True, exist_ok=True)
        (enabled / "trial.service").symlink_to("/etc/systemd/system/trial.service")
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(_DISK_MB << 20)
        run(["mkfs.ext4", "-q", "-F", "-d", root, image], doing="making the machine's disk")
    return image


@dataclass
class Machine:
    """A machine that runs. What it writes to its console is in :attr:`console`."""

    image: Path
    console: Path
    process: subprocess.Popen[bytes]

    def until(self, ready: Callable[[str], bool], *, timeout_s: float) -> str:
        """Wait until the console's text satisfies ``ready``, or the machine ends; gives that text."""
        end_s = time.monotonic() + timeout_s
        while True:
            over = self.process.poll() is not None
            text = self.console.read_text(errors="replace") if self.console.exists() else ""
            if ready(text) or over:
                return text
            if time.monotonic() > end_s:
                raise TimeoutError(f"the machine did not get there within {timeout_s:.0f} s: {text[-2000:]}")
            time.sleep(0.2)

    def reaches(self, step: str, *, timeout_s: float) -> bool:
        """Whether it tells that step on its console before it ends its trial."""
        text = self.until(lambda text: f"trial: {step}" in text or "trial: the end" in text, timeout_s=timeout_s)
        return f"trial: {step}" in text

    def result(self) -> dict[str, Any]:
        """What the trial wrote; the machine must be off."""
        text = run(["debugfs", "-R", f"cat {RESULT}", self.image], doing="reading the machine's disk")
        if not text.strip():
            raise RuntimeError(f"the machine left no result: {self.console.read_text(errors='replace')[-3000:]}")
        found: dict[str, Any] = json.loads(text)
        return found

    def end(self) -> None:
        """Pull the plug, if it is still on."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def boot(parts: Parts, image: Path, folder: Path) -> Machine:
    """Start the machine."""
    console = folder / "console.log"
    command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", str(MEMORY_MB),
               "-display", "none", "-monitor", "none", "-serial", f"file:{console}", "-no-reboot",
               "-kernel", parts.kernel / "vmlinuz", "-initrd", parts.kernel / "initrd.gz",
               "-append", "console=ttyAMA0 root=/dev/vda rw quiet panic=-1 systemd.unit=multi-user.target "
                          "systemd.show_status=0",
               "-drive", f"file={image},format=raw,if=none,id=disk,cache=unsafe",
               "-device", "virtio-blk-pci,drive=disk,romfile=", "-device", "virtio-rng-pci,romfile=",
               "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]  # fmt: skip
    log = (folder / "qemu.log").open("wb")
    with log:
        process = subprocess.Popen([str(one) for one in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return Machine(image, console, process)
