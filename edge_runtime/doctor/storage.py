"""Where the state is kept: may it be written, is there room, does it last, how worn is the flash."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding, Verdict
from edge_runtime.doctor.host_machine import HostMachine

_LEAST_FREE_BYTES = 256 << 20
_SECTOR_BYTES = 512
# A judgement: a card of 32 GB whose cells bear a thousand writes lasts nine years at this rate; small writes cost more.
_MOST_PER_DAY_BYTES = 10 << 30
_LEAST_UPTIME_S = 3600.0
# JEDEC eMMC 5.0, EXT_CSD: life time in tenths, 0x0B: exceeded; pre-EOL: spare blocks used, 2 for 80 %, 3 for 90 %.
_WORN, _DEAD = 0x09, 0x0B
_PRE_EOL_WARN, _PRE_EOL_FAIL = 2, 3
_IN_MEMORY = ("tmpfs", "ramfs", "overlay")


def check_state(settings: Settings, machine: HostMachine) -> list[Finding]:
    """The folder of the state: may be written, and has room."""
    folder = _there(settings.state)
    if not machine.may_open(folder):
        fix = f"give another with --state, or: sudo chown {machine.user} {folder}"
        return [Finding("state", "fail", f"{folder} may not be written by this user", fix)]
    free = shutil.disk_usage(folder).free
    what = f"{settings.state}: {free >> 20} MB free"
    fix = "free some space (sudo apt clean; journalctl --vacuum-size=100M), or give another folder with --state"
    return [Finding("state", "warn" if free < _LEAST_FREE_BYTES else "ok", what, fix)]


def check_file_system(settings: Settings, machine: HostMachine) -> list[Finding]:
    """A root that may not be written, or that forgets: raspi-config's overlay keeps what is written in memory."""
    mount = machine.mount_of(_there(settings.state))
    if mount is None:
        return [Finding("file system", "ok", "cannot be asked on this system")]
    if "ro" in mount.options:
        fix = f"sudo mount -o remount,rw {mount.place}; if it comes back so, the card is failing: see dmesg"
        return [Finding("file system", "fail", f"{mount.place} is mounted read-only ({mount.device})", fix)]
    if mount.kind in _IN_MEMORY:
        fix = "give a --state on a disk; an overlay is turned off by: sudo raspi-config nonint disable_overlayfs"
        what = f"{mount.place} is {mount.kind}: reports and embeddings may not survive a restart"
        return [Finding("file system", "warn", what, fix)]
    return [Finding("file system", "ok", f"{mount.place} is {mount.kind}, and may be written")]


def check_wear(settings: Settings, machine: HostMachine) -> list[Finding]:
    """eMMC tells how worn it is. SD cards do not: what is written per day is a hint."""
    found: list[Finding] = []
    for block in machine.below("sys/block/mmcblk*"):
        if not re.fullmatch(r"mmcblk\d+", block.name):
            continue
        kind = machine.text(block / "device/type")
        found += _emmc(machine, block) if kind == "MMC" else _card(machine, block)
    return found or [Finding("disk wear", "ok", "no eMMC or SD card")]


def _emmc(machine: HostMachine, block: Path) -> list[Finding]:
    lives = [int(word, 16) for word in (machine.text(block / "device/life_time") or "").split() if _is_number(word)]
    spare, worst = machine.number(block / "device/pre_eol_info") or 0, max(lives, default=0)
    if not worst and not spare:
        return [Finding("disk wear", "ok", f"{block.name} does not tell its wear")]
    fix = "copy it to a new module or a disk soon; put --state on a USB disk; fewer writes: log to memory"
    verdict: Verdict = "ok"
    if worst >= _DEAD or spare >= _PRE_EOL_FAIL:
        verdict = "fail"
    elif worst >= _WORN or spare >= _PRE_EOL_WARN:
        verdict = "warn"
    used = "more than all" if worst >= _DEAD else f"{max(0, worst - 1) * 10} to {worst * 10} %"
    return [
        Finding("disk wear", verdict, f"{block.name} has used {used} of its life, spare blocks: {_spare(spare)}", fix)
    ]


def _spare(level: int) -> str:
    return {1: "enough", 2: "80 % used", 3: "90 % used"}.get(level, "not told")


def _card(machine: HostMachine, block: Path) -> list[Finding]:
    words = (machine.text(block / "stat") or "").split()
    uptime = (machine.text("proc/uptime") or "").split()
    if len(words) < 7 or not uptime:
        return [Finding("disk wear", "ok", f"{block.name} does not tell what is written to it")]
    written, up_s = int(words[6]) * _SECTOR_BYTES, float(uptime[0])
    if up_s < _LEAST_UPTIME_S:
        return [
            Finding(
                "disk wear", "ok", f"{block.name}: {written >> 20} MB written since the start, less than an hour ago"
            )
        ]
    daily = written * 86400.0 / up_s
    what = f"{block.name} (SD card, does not tell its wear): {daily / (1 << 30):.1f} GB written a day since the start"
    fix = "find who writes (sudo iotop -ao); log to memory (Storage=volatile in journald.conf); --state on a USB disk"
    return [Finding("disk wear", "warn" if daily > _MOST_PER_DAY_BYTES else "ok", what, fix)]


def check_swap(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Swapping to a card wears it out, and blurs the joules of a step with those of its writes."""
    rows = [line.split() for line in (machine.text("proc/swaps") or "").splitlines()[1:]]
    on_card = [row[0] for row in rows if len(row) >= 2 and _is_on_card(machine, Path(row[0]), row[1])]
    if on_card:
        fix = "sudo systemctl disable --now dphys-swapfile (Raspberry Pi OS); zram-tools gives swap in memory"
        return [Finding("swap", "warn", f"{', '.join(on_card)} is on the SD card or eMMC", fix)]
    return [Finding("swap", "ok", "none on a card")]


def _is_on_card(machine: HostMachine, place: Path, kind: str) -> bool:
    if kind != "file":
        return place.name.startswith("mmcblk")
    mount = machine.mount_of(place)
    if mount is None:
        return False
    # The kernel may call the device of the first file system /dev/root; the command line names it.
    root = re.search(r"\broot=(\S+)", machine.text("proc/cmdline") or "")
    device = root[1] if mount.device == "/dev/root" and root else mount.device
    return "mmcblk" in device or (device.startswith(("PARTUUID=", "UUID=", "LABEL=")) and bool(_cards(machine)))


def _cards(machine: HostMachine) -> list[Path]:
    return machine.below("sys/block/mmcblk[0-9]")


def _is_number(word: str) -> bool:
    return re.fullmatch(r"0x[0-9a-fA-F]{1,2}", word) is not None


def _there(path: Path) -> Path:
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
