"""``edge-runtime doctor``: what is right and wrong with this machine, and how to mend it.

A check is a function that returns findings; none of them changes anything.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.board import board_name, software_version
from edge_runtime.config import Settings
from edge_runtime.doctor_sensor import check_sensor
from edge_runtime.finding import Finding
from edge_runtime.fresh_start import FreshStart, measure
from edge_runtime.link import check_address
from protos.errors import CheckFailed, EdgejouleError

RSS_LIMIT_MB = 120.0
READY_LIMIT_S = 2.0
_LEAST_FREE_BYTES = 256 << 20


@dataclass(frozen=True)
class Examination:
    """All findings, and the figures of a fresh daemon process (None where it did not get so far)."""

    findings: tuple[Finding, ...]
    figures: FreshStart

    @property
    def exit_code(self) -> int:
        return CheckFailed.exit_code if any(one.verdict == "fail" for one in self.findings) else 0


def examine(settings: Settings) -> Examination:
    """Run every check, and start a fresh daemon process to measure it."""
    findings = [one for check in CHECKS for one in check(settings)]
    figures = measure(settings)
    judged = (*findings, *_judged(figures))
    return Examination(tuple(replace(one, fix="") if one.verdict == "ok" else one for one in judged), figures)


def print_findings(examination: Examination, *, as_json: bool) -> int:
    """Print the examination on stdout; its exit code."""
    figures = examination.figures
    if as_json:
        document: dict[str, Any] = {
            "version": software_version(),
            "board": board_name(),
            "python": platform.python_version(),
            **asdict(figures),
            "ready_limit_s": READY_LIMIT_S,
            "rss_limit_mb": RSS_LIMIT_MB,
            "checks": [asdict(one) for one in examination.findings],
            "ok": examination.exit_code == 0,
        }
        print(json.dumps(document, indent=2))
        return examination.exit_code
    marks = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
    colours = {"ok": "32", "warn": "33", "fail": "31"}
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for one in examination.findings:
        mark = f"\033[{colours[one.verdict]}m{marks[one.verdict]}\033[0m" if coloured else marks[one.verdict]
        print(f"{mark}  {one.check}: {one.what}")
        if one.fix:
            print(f"      -> {one.fix}")
    return examination.exit_code


def _judged(figures: FreshStart) -> list[Finding]:
    if figures.error:
        return [Finding("fresh start", "fail", figures.error, "mend this, then run the doctor again")]
    found = []
    if figures.ready_s is not None:
        slow = figures.ready_s >= READY_LIMIT_S
        fix = "a busy machine or a slow SD card; look at `systemd-analyze blame` and try again"
        found.append(
            Finding(
                "ready",
                "warn" if slow else "ok",
                f"{figures.ready_s:.2f} s after start (limit {READY_LIMIT_S:g} s)",
                fix,
            )
        )
    if figures.rss_mb is not None:
        large = figures.rss_mb >= RSS_LIMIT_MB
        when = f"in a round with {figures.embedded} examples" if figures.steps is not None else "at start"
        what = f"{figures.rss_mb:.0f} MB at most {when} (limit {RSS_LIMIT_MB:g} MB)"
        fix = "store the data as an uncompressed .npz, use fewer examples (--shard K/N) or a smaller backbone"
        found.append(Finding("memory", "warn" if large else "ok", what, fix))
    if figures.delegate is not None:
        bare = figures.delegate != "xnnpack"
        fix = "allow the process to read /proc/cpuinfo (systemd: no ProcSubset=pid)"
        found.append(
            Finding("engine", "warn" if bare else "ok", f"{figures.engine} with {figures.delegate} kernels", fix)
        )
    return found


def _runtime(settings: Settings) -> list[Finding]:
    """tflite-runtime 2.14 was built against numpy 1 and breaks with numpy 2."""
    import importlib.metadata as metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    litert, old, numpy = version("ai-edge-litert"), version("tflite-runtime"), version("numpy") or "?"
    if litert:
        return [Finding("runtime", "ok", f"ai-edge-litert {litert}, numpy {numpy}")]
    if old is None:
        fix = "pip install ai-edge-litert, or 'edgejoule[tflite-runtime]' on armv7"
        return [Finding("runtime", "fail", "no TFLite runtime is installed", fix)]
    if numpy.split(".")[0] != "1":
        return [Finding("runtime", "fail", f"tflite-runtime {old} needs numpy 1, not {numpy}", "pip install 'numpy<2'")]
    return [Finding("runtime", "ok", f"tflite-runtime {old}, numpy {numpy}")]


def _board(settings: Settings) -> list[Finding]:
    python = f"Python {platform.python_version()}"
    return [Finding("board", "ok", f"{settings.board or board_name()}, {os.cpu_count()} cores, {python}")]


def _sensor(settings: Settings) -> list[Finding]:
    return check_sensor(settings.sensor)


def _coordinator(settings: Settings) -> list[Finding]:
    try:
        host, _, port = check_address(settings.coordinator).rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return [Finding("coordinator", "ok", f"something listens on {settings.coordinator}")]
    except EdgejouleError as error:
        return [Finding("coordinator", "fail", str(error), "give another with --coordinator")]
    except OSError as error:
        fix = "start it with `coordinator serve`; the daemon waits for it"
        what = f"{settings.coordinator} does not answer ({error.strerror or error})"
        return [Finding("coordinator", "warn", what, fix)]


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>; only `status` and `maxerror` are read, the tail is room for the kernel.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _clock(settings: Settings) -> list[Finding]:
    """adjtimex(2): TIME_ERROR (5), or STA_UNSYNC (0x40) in the status, says that nobody disciplines the clock."""
    fix = "sudo timedatectl set-ntp true; deadlines do not depend on it, the times in logs do"
    try:
        state = _Timex()
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return [Finding("clock", "warn", "cannot be asked on this system", fix)]
    if answer < 0 or answer == 5 or state.status & 0x40:
        return [Finding("clock", "warn", "not synchronised", fix)]
    return [Finding("clock", "ok", "synchronised")]


def _disk(settings: Settings) -> list[Finding]:
    folder = settings.state.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        fix = f"give another with --state, or: sudo chown {os.environ.get('USER', 'USER')} {folder}"
        return [Finding("state", "fail", f"{folder} may not be written by this user", fix)]
    free = shutil.disk_usage(folder).free
    what = f"{settings.state}: {free >> 20} MB free"
    return [Finding("state", "warn" if free < _LEAST_FREE_BYTES else "ok", what, "free some space")]


def _memory_cgroup(settings: Settings, table: Path = Path("/proc/cgroups")) -> list[Finding]:
    """Raspberry Pi OS boots with it disabled, and systemd then ignores MemoryMax= without a word."""
    fix = "append `cgroup_enable=memory cgroup_memory=1` to /boot/firmware/cmdline.txt and restart"
    with_memory = any(
        "memory" in path.read_text().split()
        for path in (Path("/sys/fs/cgroup/cgroup.controllers"), Path("/sys/fs/cgroup/unified/cgroup.controllers"))
        if path.exists()
    )
    try:
        rows = [line.split() for line in table.read_text().splitlines() if line.startswith("memory")]
    except OSError:
        rows = []
    if with_memory or any(row[-1] == "1" for row in rows):
        return [Finding("memory limit", "ok", "the kernel can enforce one")]
    return [Finding("memory limit", "warn", "the kernel's memory cgroup is off: MemoryMax= is ignored", fix)]


CHECKS: tuple[Callable[[Settings], list[Finding]], ...] = (
    _board,
    _runtime,
    _sensor,
    _coordinator,
    _clock,
    _disk,
    _memory_cgroup,
)
