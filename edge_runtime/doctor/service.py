"""The service: can its limit of memory be kept, and is there just one."""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine

_UNITS = ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system", "root/.config/systemd/user",
          "home/*/.config/systemd/user")  # fmt: skip
_STARTS = re.compile(r"^ExecStart=.*\bedge-runtime\"? run\b", re.MULTILINE)


def check_memory_limit(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Raspberry Pi OS boots with the memory cgroup disabled, and systemd then ignores MemoryMax= without a word."""
    fix = "append `cgroup_enable=memory cgroup_memory=1` to /boot/firmware/cmdline.txt and restart"
    with_memory = any(
        "memory" in (machine.text(path) or "").split()
        for path in ("sys/fs/cgroup/cgroup.controllers", "sys/fs/cgroup/unified/cgroup.controllers")
    )
    rows = [line.split() for line in (machine.text("proc/cgroups") or "").splitlines() if line.startswith("memory")]
    if with_memory or any(row[-1] == "1" for row in rows):
        return [Finding("memory limit", "ok", "the kernel can enforce one")]
    return [Finding("memory limit", "warn", "the kernel's memory cgroup is off: MemoryMax= is ignored", fix)]


def check_services(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Two services or daemons of one machine take the sensor and the processor from each other."""
    units = {
        _real(path): path for pattern in _UNITS for path in machine.below(f"{pattern}/*.service") if _starts_us(path)
    }
    if len(units) > 1:
        names = ", ".join(sorted("/" + str(unit.relative_to(machine.root)) for unit in units.values()))
        fix = "keep one; of another: sudo systemctl disable --now NAME, and remove its file"
        return [Finding("services", "warn", f"{len(units)} units start a daemon: {names}", fix)]
    daemons = [pid for pid, folder in machine.processes().items() if _is_daemon(folder)]
    if len(daemons) > 1:
        pids = ", ".join(map(str, sorted(daemons)))
        fix = "one device is one daemon: end the others (kill PID), unless each has its own --state and sensor"
        return [Finding("services", "warn", f"{len(daemons)} daemons run (processes {pids})", fix)]
    return [Finding("services", "ok", f"{len(units) or 'no'} unit, {len(daemons) or 'no'} daemon running")]


def _starts_us(unit: Path) -> bool:
    try:
        return _STARTS.search(unit.read_text(errors="replace")) is not None
    except OSError:
        return False


def _real(path: Path) -> Path:
    """One unit that is seen through two folders, as /lib and /usr/lib, is one."""
    return path.resolve()


def _is_daemon(folder: Path) -> bool:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    ours = [at for at, word in enumerate(words) if word.endswith((b"/edge-runtime", b"edge_runtime.cli"))]
    return any(words[at + 1 : at + 2] == [b"run"] for at in ours)
